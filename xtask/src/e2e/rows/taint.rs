//! New nodes that must not start a pod before their agent.

use std::time::Duration;

use anyhow::Result;

use super::super::suite::{Suite, items};
use super::super::table::Outcome;
use super::holds;

const TAINT: &str = "node.sotto/agent-not-ready";

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    if suite.settings.overlay != "base" {
        return Ok(Outcome::NotRun(String::from("the overlay stands on the base")));
    }
    suite.kubectl.ok(&format!("taint node {} {TAINT}=:NoSchedule --overwrite", suite.near))?;
    let seen = untainted(suite);
    // Whatever was seen, the node is given back as it was.
    suite.kubectl.call(&["taint", "node", &suite.near, &format!("{TAINT}-")], "")?;
    suite.install("base", &suite.settings.image)?;
    suite.installed()?;
    holds(format!("gone {} s after the overlay was applied", seen?.as_secs()))
}

fn untainted(suite: &Suite) -> Result<Duration> {
    let started = std::time::Instant::now();
    suite.install("overlays/startup-taint", &suite.settings.image)?;
    suite.wait("the taint is gone", Duration::from_secs(180), || {
        let node = suite.kubectl.get(&format!("node {}", suite.near))?.unwrap_or_default();
        let tainted = items(&node["spec"]["taints"]).iter().any(|taint| taint["key"] == TAINT);
        Ok(if tainted { Err(String::from("tainted")) } else { Ok(started.elapsed()) })
    })
}
