//! What agents use that is no load's: memory before, during and after all of them, and time and
//! tunnels with a thousand connections that do nothing.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::machine::agents_seconds;
use super::say;
use super::site::{Mesh, Side, Site};

/// Long enough for what only the opening of connections needs to be given back.
const SETTLE: Duration = Duration::from_secs(1);

/// Long enough for what only the start needs to be given back.
const START: Duration = Duration::from_secs(2);

/// The figures of a mesh, in the table's order.
pub(super) type Figures = Vec<(String, f64)>;

/// What is known of each mesh so far.
#[derive(Debug)]
pub(super) struct Memory {
    /// Resident memory of each agent, in bytes, by the moment.
    moments: Vec<(&'static str, Side, Vec<u64>)>,
    /// Tunnels, and per cent of a core, at a thousand idle connections.
    idle: Vec<(Side, usize, f64)>,
    nodes: Vec<String>,
}

impl Memory {
    /// Before any connection, once the start is over.
    pub(super) async fn fresh(site: &Site) -> Result<Self> {
        let nodes = site.mesh.cluster.agents.iter().map(|agent| agent.node().to_owned()).collect();
        tokio::time::sleep(START).await;
        let mut memory = Self { moments: Vec::new(), idle: Vec::new(), nodes };
        memory.note("fresh", site)?;
        Ok(memory)
    }

    /// With a thousand connections open for `seconds`, each used once.
    pub(super) async fn idle(&mut self, site: &Site, seconds: f64) -> Result<()> {
        say("memory: with few connections, and with 1000 idle ones");
        self.note("after a few connections", site)?;
        for (side, mesh) in site.meshes() {
            let held = site.hold(side, async || {
                tokio::time::sleep(SETTLE).await;
                let (before, at) = (agents_seconds(mesh)?, Instant::now());
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                let used = (agents_seconds(mesh)? - before) / at.elapsed().as_secs_f64();
                Ok((resident(mesh)?, site.tunnels(side)?.count(), used * 100.0))
            });
            let (bytes, tunnels, percent) = held.await?;
            self.moments.push(("1000 idle connections", side, bytes));
            self.idle.push((side, tunnels, percent));
        }
        Ok(())
    }

    /// After all loads.
    pub(super) fn end(&mut self, site: &Site) -> Result<()> {
        self.note("after all loads", site)?;
        for (side, mesh) in site.meshes() {
            let agents = mesh.cluster.agents.iter();
            let peak = agents.map(|agent| Ok(agent.process.usage()?.peak_rss_bytes));
            self.moments.push(("at most", side, peak.collect::<Result<_>>()?));
        }
        Ok(())
    }

    fn note(&mut self, moment: &'static str, site: &Site) -> Result<()> {
        for (side, mesh) in site.meshes() {
            self.moments.push((moment, side, resident(mesh)?));
        }
        Ok(())
    }

    /// The figures of a side.
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
    pub(super) fn figures(&self, side: Side) -> Figures {
        let mut figures = Figures::new();
        for (moment, _, bytes) in self.moments.iter().filter(|(_, of, _)| *of == side) {
            let mib = bytes.iter().map(|bytes| *bytes as f64 / f64::from(1 << 20));
            let named = self.nodes.iter().zip(mib);
            figures.extend(named.map(|(node, mib)| (format!("MiB {moment}, {node}"), mib)));
        }
        for (_, tunnels, percent) in self.idle.iter().filter(|(of, ..)| *of == side) {
            figures.push((String::from("tunnels for 1000 connections"), *tunnels as f64));
            figures.push((String::from("agents CPU at 1000 idle, % of a core"), *percent));
        }
        figures
    }
}

fn resident(mesh: &Mesh) -> Result<Vec<u64>> {
    mesh.cluster.agents.iter().map(|agent| Ok(agent.process.usage()?.rss_bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_has_its_own_figures_in_mib_by_node() {
        let memory = Memory {
            moments: vec![
                ("fresh", Side::Mesh, vec![1 << 20, 3 << 19]),
                ("fresh", Side::Other, vec![1, 1]),
            ],
            idle: vec![(Side::Other, 9, 9.0), (Side::Mesh, 10, 0.25)],
            nodes: vec![String::from("node1"), String::from("node2")],
        };
        let expected = [
            ("MiB fresh, node1", 1.0),
            ("MiB fresh, node2", 1.5),
            ("tunnels for 1000 connections", 10.0),
            ("agents CPU at 1000 idle, % of a core", 0.25),
        ];
        let expected: Figures =
            expected.iter().map(|(name, value)| (String::from(*name), *value)).collect();
        assert_eq!(memory.figures(Side::Mesh), expected);
    }
}
