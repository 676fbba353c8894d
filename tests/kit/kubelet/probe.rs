//! Readiness probes, by a process in the kubelet's cgroup: the first container's.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::watch;

use crate::controllers::named_port;
use crate::node::Node;

/// A running probe; it ends when dropped.
#[derive(Debug)]
pub(super) struct Prober {
    _process: Option<Child>,
    ready: watch::Receiver<bool>,
}

impl Prober {
    /// Starts to probe `pod` at `ip`; a pod without a probe is ready at once.
    ///
    /// # Errors
    /// A probe that cannot be understood.
    pub(super) fn start(node: &Node, pod: &Pod, ip: IpAddr) -> Result<Self> {
        let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let probe = containers.find_map(|container| container.readiness_probe.as_ref());
        let Some(probe) = probe else {
            return Ok(Self { _process: None, ready: watch::channel(true).1 });
        };
        let launch = node.kubelet(argv(pod, probe, ip)?);
        let mut command = launch.piped();
        let started = launch.start(command.kill_on_drop(true));
        let mut process = started.context("start the probe")?;
        let lines = process.stdout.take().context("stdout of a child just started")?;
        let (tell, ready) = watch::channel(false);
        let pod = kube::ResourceExt::name_any(pod);
        node.tasks.spawn(async move {
            let mut lines = BufReader::new(lines).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::trace!(pod, line, "probe");
                tell.send_if_modified(|ready| std::mem::replace(ready, line == "ok") != *ready);
            }
        });
        Ok(Self { _process: Some(process), ready })
    }

    /// What the last probe said.
    pub(super) fn ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until probes say something else than before.
    pub(super) async fn changed(&mut self) {
        if self.ready.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn argv(pod: &Pod, probe: &Probe, ip: IpAddr) -> Result<Vec<String>> {
    let http = probe.http_get.as_ref();
    // A kubelet asks whom it is told to ask, whoever that is.
    let told = http.and_then(|get| get.host.as_deref());
    let told = told.or_else(|| probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_deref()));
    let ip = match told.filter(|host| !host.is_empty()) {
        Some(host) => host.parse().context("only addresses are known as hosts of probes")?,
        None => ip,
    };
    let socket = probe.tcp_socket.as_ref().map(|socket| &socket.port);
    let port = http.map(|get| &get.port).or(socket);
    let port = match port.context("only httpGet and tcpSocket probes are known")? {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => named_port(pod, name),
    };
    let port = u16::try_from(port.context("the probe's port has no number")?)?;
    let period = i64::from(probe.period_seconds.unwrap_or(10)) * 1000;
    let limit = i64::from(probe.timeout_seconds.unwrap_or(1)) * 1000;
    let mut words = vec![
        String::from("probe"),
        format!("--to={}", SocketAddr::new(ip, port)),
        format!("--period-ms={period}"),
        format!("--timeout-ms={limit}"),
    ];
    if let Some(get) = http {
        words.push(format!("--http={}", get.path.as_deref().unwrap_or("/")));
    }
    Ok(words)
}
