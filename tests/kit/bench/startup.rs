//! How long an agent takes from its start to an open port 15008 in a pod that it serves.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::say;
use super::site::{Mesh, Side, Site};
use crate::netns;

/// Longest time to wait.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a try to connect may take, and the pause between two.
const TRY: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_micros(200);
const HBONE_PORT: u16 = 15008;

/// Kills the server's agent and starts it anew, `rounds` times on each side: milliseconds.
///
/// # Errors
/// An agent does not come back.
pub(super) async fn measure(site: &mut Site, rounds: u16) -> Result<Vec<(Side, Vec<f64>)>> {
    say("startup: the server's agent is killed and started");
    let mut all = Vec::new();
    for (side, mesh) in site.meshes_mut() {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(restart(mesh).await?.as_secs_f64() * 1e3);
        }
        all.push((side, times));
    }
    Ok(all)
}

async fn restart(mesh: &mut Mesh) -> Result<Duration> {
    let port = SocketAddr::new(mesh.pair.to.ip(), HBONE_PORT);
    let node = mesh.cluster.nodes.last().context("no node")?.config.netns.clone();
    let agent = mesh.cluster.agents.last_mut().context("no agent")?;
    agent.process.kill().await?;
    if opened(&node, port, Instant::now(), Duration::ZERO).is_ok() {
        bail!("port {HBONE_PORT} is open without an agent");
    }
    let start = Instant::now();
    agent.process.start()?;
    let waited = tokio::task::spawn_blocking(move || opened(&node, port, start, LIMIT)).await?;
    let waited = waited.with_context(|| mesh.cluster.post_mortem())?;
    mesh.cluster.wait_for_agents().await?;
    Ok(waited)
}

/// The time from `start` to the first connection to `port` from inside `netns`.
fn opened(netns: &str, port: SocketAddr, start: Instant, limit: Duration) -> Result<Duration> {
    netns::within(netns, || {
        loop {
            match TcpStream::connect_timeout(&port, TRY) {
                Ok(_) => return Ok(start.elapsed()),
                Err(error) if start.elapsed() >= limit => {
                    return Err(error).with_context(|| format!("{port} is not open"));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    })?
}
