//! The place of the bench: a pocket cluster with a client and a server in the mesh, the same two
//! outside of it on the same nodes, and a server outside of the cluster.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::ResourceExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::load::{PORT, Report};
use super::measure::{Load, Target};
use super::say;
use crate::cluster::{Cluster, ClusterOptions, Process};
use crate::launch::Launch;
use crate::netns;
use crate::node::RunningPod;
use crate::topology::EXTERNAL_IP;

const MANIFEST: &str = include_str!("../manifests/bench.yaml");
const READY: Duration = Duration::from_secs(60);
/// What a load may take above its own time: failing connections wait long.
const GRACE: Duration = Duration::from_secs(60);

/// The two paths that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Plain,
    Mesh,
}

/// A running cluster with all that the bench needs in it.
pub(super) struct Site {
    pub(super) cluster: Cluster,
    plain: Pair,
    mesh: Pair,
    kit_app: String,
    /// Lives as long as the site.
    _outside: Process,
}

/// A client and the server it talks to.
pub(super) struct Pair {
    pub(super) client: RunningPod,
    pub(super) server: RunningPod,
    to: SocketAddr,
}

impl Site {
    /// Makes it, and waits until a connection crosses each path.
    ///
    /// # Errors
    /// A part does not start, or a path does not work.
    pub(super) async fn start() -> Result<Self> {
        say("a pocket cluster with two nodes, an agent on each");
        let mut cluster =
            Cluster::start(ClusterOptions { tell: say, ..Default::default() }).await?;
        cluster.wire.stop();
        cluster.apply(MANIFEST).await?;
        cluster.wait_ready(&["bench-plain", "bench-mesh"], READY).await?;
        let kit_app = cluster.nodes.first().context("no node")?.config.kit_app.clone();
        let kit_app = kit_app.display().to_string();
        let outside = start_outside(&cluster, &kit_app)?;
        let plain = Pair::find(&cluster, "bench-plain").await?;
        let mesh = Pair::find(&cluster, "bench-mesh").await?;
        let site = Self { cluster, plain, mesh, kit_app, _outside: outside };
        for pair in [&site.plain, &site.mesh] {
            pair.reuse_ports()?;
        }
        site.try_paths().await?;
        Ok(site)
    }

    pub(super) fn pair(&self, side: Side) -> &Pair {
        match side {
            Side::Plain => &self.plain,
            Side::Mesh => &self.mesh,
        }
    }

    /// Drives a load from the client of one side.
    ///
    /// # Errors
    /// The load could not be driven at all; failed connections are in the report.
    pub(super) async fn drive(
        &self,
        side: Side,
        target: Target,
        load: Load,
        seconds: f64,
    ) -> Result<Report> {
        let limit = Duration::from_secs_f64(seconds) + GRACE;
        let output = self.launch(side, target, load, seconds).output(b"", limit).await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("the load failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_str(&said).with_context(|| format!("read the load's report {said:?}"))
    }

    /// Opens connections, runs `meanwhile` while they are held, and closes them.
    ///
    /// # Errors
    /// As [`Self::drive`], and what `meanwhile` fails with.
    pub(super) async fn hold<T>(&self, meanwhile: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        let mut command = self.launch(Side::Mesh, Target::Pod, Load::Hold, 1.0).command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start the load")?;
        let stdin = child.stdin.take().context("stdin of a child just started")?;
        let stdout = child.stdout.take().context("stdout of a child just started")?;
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        let said = tokio::time::timeout(GRACE, lines.read_line(&mut line)).await;
        said.context("the connections are not open in time")??;
        anyhow::ensure!(line.trim() == "held", "the load said {line:?} instead of held");
        let done = meanwhile().await;
        drop(stdin);
        let mut rest = String::new();
        let said = tokio::time::timeout(GRACE, lines.read_to_string(&mut rest)).await;
        said.context("the load does not end")??;
        let report: Report = serde_json::from_str(&rest).context("read the load's report")?;
        if let Some(error) = report.first_error {
            bail!("{} of the held connections failed, the first: {error}", report.errors);
        }
        done
    }

    fn launch(&self, side: Side, target: Target, load: Load, seconds: f64) -> Launch {
        let pair = self.pair(side);
        let to = match target {
            Target::Pod => pair.to,
            Target::Outside => SocketAddr::new(IpAddr::V4(EXTERNAL_IP), PORT),
        };
        let arguments = load.arguments(to, seconds);
        let mut words = vec![self.kit_app.as_str(), "load", "drive"];
        words.extend(arguments.iter().map(String::as_str));
        pair.client.launch(&words)
    }

    /// One connection on each path; that of the mesh must show in the agents' counters, and no other.
    async fn try_paths(&self) -> Result<()> {
        let one = Load::AtOnce(1);
        let paths = [
            (Side::Plain, Target::Pod, 0.0),
            (Side::Mesh, Target::Outside, 0.0),
            (Side::Mesh, Target::Pod, 2.0),
        ];
        for (side, target, expected) in paths {
            let before = self.tunnelled().await?;
            let what = format!("a connection crosses {side:?} to {target:?}");
            let crossed = self.cluster.wait_until(&what, READY, async || {
                let report = self.drive(side, target, one, 1.0).await?;
                Ok(if report.errors == 0 { Some(()) } else { bail!("{:?}", report.first_error) })
            });
            crossed.await?;
            let counted = self.cluster.wait_until("it is counted", READY, async || {
                let count = self.tunnelled().await? - before;
                Ok((count >= expected).then_some(count))
            });
            let counted = counted.await?;
            if expected == 0.0 && counted > 0.0 {
                bail!("{side:?} to {target:?} went through the mesh");
            }
        }
        Ok(())
    }

    /// Connections in mutual TLS that the agents counted so far.
    async fn tunnelled(&self) -> Result<f64> {
        let mut sum = 0.0;
        for agent in &self.cluster.agents {
            let labels = ["connection_security_policy=\"mutual_tls\""];
            sum += agent.metric("istio_tcp_connections_opened_total", &labels).await?;
        }
        Ok(sum)
    }
}

impl Pair {
    async fn find(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let client = cluster.pod_of(namespace, "client").await?;
        let server = cluster.pod_of(namespace, "server").await?;
        let address = server.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let address: IpAddr = address.context("a ready pod has an address")?.parse()?;
        let running = |name: &str| -> Result<RunningPod> {
            cluster.node_of(namespace, name)?.pod(namespace, name).context("the pod ended")
        };
        Ok(Self {
            client: running(&client.name_any())?,
            server: running(&server.name_any())?,
            to: SocketAddr::new(address, PORT),
        })
    }

    /// A client that opens thousands of connections a second runs out of ports within seconds
    /// otherwise, on either path. The port of a closed one is free again after a second then.
    fn reuse_ports(&self) -> Result<()> {
        netns::sysctl(&name_of(&self.client)?, &[("net/ipv4/tcp_tw_reuse", "1")])
    }
}

/// The name of a pod's network namespace.
pub(super) fn name_of(pod: &RunningPod) -> Result<String> {
    let name = pod.netns.file_name().and_then(|name| name.to_str());
    Ok(name.context("a namespace without a name")?.to_owned())
}

fn start_outside(cluster: &Cluster, kit_app: &str) -> Result<Process> {
    let node = cluster.nodes.first().context("no node")?;
    let group = node.config.cgroup.parent().context("a node below the run's cgroup")?;
    let argv = [kit_app, "load", "serve"].map(String::from).into();
    let log = cluster.dir().join("outside.log");
    let mut process = Process::new(argv, group.join("external"), &cluster.fabric.external, log);
    process.start()?;
    Ok(process)
}
