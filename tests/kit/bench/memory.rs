//! What the agents' memory is: before any load, under many connections that do nothing, at most.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::say;
use super::site::Site;

/// Long enough for what only the opening of connections needs to be given back.
const SETTLE: Duration = Duration::from_secs(1);

/// An agent's resident memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    pub(super) node: String,
    /// Its pods are enrolled, and a connection or two went through.
    pub(super) fresh_bytes: u64,
    /// With 1000 connections open, each used once.
    pub(super) idle_bytes: u64,
    /// The most there was up to the end of all rounds.
    pub(super) peak_bytes: u64,
}

/// Before the rounds: fresh, then with 1000 idle connections.
pub(super) async fn idle(site: &Site) -> Result<Vec<Memory>> {
    say("memory: fresh, and with 1000 idle connections");
    let mut memory = Vec::new();
    for agent in &site.cluster.agents {
        let usage = agent.process.usage()?;
        let node = agent.node().to_owned();
        memory.push(Memory { node, fresh_bytes: usage.rss_bytes, idle_bytes: 0, peak_bytes: 0 });
    }
    site.hold(async || {
        tokio::time::sleep(SETTLE).await;
        for (agent, memory) in site.cluster.agents.iter().zip(&mut memory) {
            memory.idle_bytes = agent.process.usage()?.rss_bytes;
        }
        Ok(())
    })
    .await?;
    Ok(memory)
}

/// After the rounds: the most there was.
pub(super) fn peak(site: &Site, memory: &mut [Memory]) -> Result<()> {
    for (agent, memory) in site.cluster.agents.iter().zip(memory) {
        memory.peak_bytes = agent.process.usage()?.peak_rss_bytes;
    }
    Ok(())
}
