//! Readiness probes, by a process in the kubelet's cgroup: the first container's. It ends with the kubelet, and the
//! next one probes on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::controllers::named_port;
use crate::launch::Launch;
use crate::node::Node;

/// Until a kubelet that was restarted probes.
const RESTART: Duration = Duration::from_millis(200);

/// A running probe; it ends when dropped.
#[derive(Debug)]
pub(super) struct Prober {
    _stop: Option<DropGuard>,
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
            return Ok(Self { _stop: None, ready: watch::channel(true).1 });
        };
        let launch = node.kubelet(argv(pod, probe, ip)?);
        let process = process(&launch).context("start the probe")?;
        let (tell, ready) = watch::channel(false);
        let stop = CancellationToken::new();
        let probing = probing(launch, process, tell);
        let until = stop.clone();
        node.tasks.spawn(async move { until.run_until_cancelled(probing).await.unwrap_or(()) });
        Ok(Self { _stop: Some(stop.drop_guard()), ready })
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

fn process(launch: &Launch) -> std::io::Result<Child> {
    launch.start(launch.piped().kill_on_drop(true))
}

/// Tells what the probes say, for ever.
async fn probing(launch: Launch, first: Child, tell: watch::Sender<bool>) {
    let mut running = Ok(first);
    loop {
        if let Ok(Child { stdout: Some(lines), .. }) = &mut running {
            let mut lines = BufReader::new(lines).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::trace!(argv = ?launch.argv, line, "probe");
                tell.send_if_modified(|ready| std::mem::replace(ready, line == "ok") != *ready);
            }
        }
        tokio::time::sleep(RESTART).await;
        running = process(&launch);
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
