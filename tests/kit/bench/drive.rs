//! Driving loads from the clients, and the proof that each path is what it is said to be.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::load::{PORT, Report};
use super::measure::{Load, Target};
use super::site::{Mesh, READY, Side, Site};
use super::sockets::Tunnels;
use crate::launch::Launch;
use crate::topology::EXTERNAL_IP;

/// What a load may take above its own time: failing connections wait long.
const GRACE: Duration = Duration::from_secs(60);

impl Site {
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
        let output = self.launch(side, target, load, seconds)?.output(b"", limit).await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("the load failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_str(&said).with_context(|| format!("read the load's report {said:?}"))
    }

    /// Opens connections in a mesh, runs `meanwhile` while they are held, and closes them.
    ///
    /// # Errors
    /// As [`Self::drive`], and what `meanwhile` fails with.
    pub(super) async fn hold<T>(
        &self,
        side: Side,
        meanwhile: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut command = self.launch(side, Target::Pod, Load::Hold, 1.0)?.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start the load")?;
        let stdin = child.stdin.take().context("stdin of a child just started")?;
        let stdout = child.stdout.take().context("stdout of a child just started")?;
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        let said = tokio::time::timeout(GRACE, lines.read_line(&mut line)).await;
        said.context("the connections are not open in time")??;
        ensure!(line.trim() == "held", "the load said {line:?} instead of held");
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

    fn launch(&self, side: Side, target: Target, load: Load, seconds: f64) -> Result<Launch> {
        let pair = self.pair(side)?;
        let to = match target {
            Target::Pod => pair.to,
            Target::Outside => SocketAddr::new(IpAddr::V4(EXTERNAL_IP), PORT),
        };
        let arguments = load.arguments(to, seconds);
        let mut words = vec![self.kit_app.as_str(), "load", "drive"];
        words.extend(arguments.iter().map(String::as_str));
        Ok(pair.client.launch(&words))
    }

    /// Loads on each path: those in a mesh must show in its agents' counters and in its tunnels'
    /// bytes, all others in no counter.
    ///
    /// # Errors
    /// A path does not work, or is another than it should be.
    pub(super) async fn try_paths(&self) -> Result<()> {
        self.cross((Side::Plain, Target::Pod), 0.0).await?;
        for (side, _) in self.meshes() {
            self.cross((side, Target::Outside), 0.0).await?;
            self.cross((side, Target::Pod), 2.0).await?;
            let before = self.tunnels(side)?;
            let report = self.drive(side, Target::Pod, Load::Up(1), 0.2).await?;
            ensure!(report.errors == 0, "{side:?}: {:?}", report.first_error);
            let crossed = self.tunnels(side)?.crossed_since(&before);
            let sent = report.bytes;
            ensure!(crossed >= sent, "{side:?}: {crossed} of {sent} bytes crossed on port 15008");
        }
        Ok(())
    }

    /// One connection, which `expected` agents count as one in mutual TLS.
    async fn cross(&self, (side, target): (Side, Target), expected: f64) -> Result<()> {
        let before = self.counted().await?;
        let what = format!("a connection crosses {side:?} to {target:?}");
        let crossed = self.mesh.cluster.wait_until(&what, READY, async || {
            let report = self.drive(side, target, Load::AtOnce(1), 1.0).await?;
            Ok(if report.errors == 0 { Some(()) } else { bail!("{:?}", report.first_error) })
        });
        crossed.await.with_context(|| self.post_mortem())?;
        let counted = self.mesh.cluster.wait_until("it is counted", READY, async || {
            let count = self.counted().await? - before;
            Ok((count >= expected).then_some(count))
        });
        let counted = counted.await?;
        if expected == 0.0 && counted > 0.0 {
            bail!("{side:?} to {target:?} went through the mesh");
        }
        Ok(())
    }

    /// The tunnels of a side's client.
    pub(super) fn tunnels(&self, side: Side) -> Result<Tunnels> {
        Tunnels::of(&self.pair(side)?.client)
    }

    /// Connections in mutual TLS that all agents counted so far.
    async fn counted(&self) -> Result<f64> {
        let mut sum = 0.0;
        for (_, mesh) in self.meshes() {
            sum += mesh.counted().await?;
        }
        Ok(sum)
    }
}

impl Mesh {
    async fn counted(&self) -> Result<f64> {
        let mut sum = 0.0;
        for agent in &self.cluster.agents {
            let labels = ["connection_security_policy=\"mutual_tls\""];
            sum += agent.metric("istio_tcp_connections_opened_total", &labels).await?;
        }
        Ok(sum)
    }
}
