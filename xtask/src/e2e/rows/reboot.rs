//! Undrained reboots, by the user's own command: no Kubernetes API reboots a node.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::clients::Swept;
use super::super::suite::{MESH, PLAIN, STRICT, Suite};
use super::super::table::Outcome;
use super::judge;

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    let Some(command) = &suite.settings.reboot else {
        return Ok(Outcome::NotRun(String::from("no --reboot was given")));
    };
    if suite.near == suite.far {
        return Ok(Outcome::NotRun(String::from("the cluster has one node")));
    }
    let ranges = suite.pod_ranges(&suite.far)?;
    if ranges.is_empty() {
        return Ok(Outcome::NotRun(format!("it is not known where pods of {} are", suite.far)));
    }
    let sweep = suite.sweep((PLAIN, "client"), "reboot", &ranges)?;
    let mut longest = Duration::ZERO;
    for number in 1..=suite.settings.reboots {
        let started = Instant::now();
        suite.users_command(command, &suite.far)?;
        back(suite)?;
        let took = started.elapsed();
        longest = longest.max(took);
        eprintln!("reboot {number}: in the mesh again after {} s", took.as_secs());
    }
    let swept: Swept = sweep.stop()?;
    let clear = swept.answered.get(STRICT).copied().unwrap_or_default();
    let others: u64 = swept.answered.values().sum::<u64>() - clear;
    let seen = format!(
        "{} reboots; in the clear {clear} of {} attempts ({others} answers of pods that take plaintext); in the mesh again after {} s at most",
        suite.settings.reboots,
        swept.asked,
        longest.as_secs()
    );
    judge(clear == 0 && swept.asked > 1000, seen)
}

/// Waits until a server of the node is reached through the mesh again.
fn back(suite: &Suite) -> Result<()> {
    suite.wait("the mesh reaches the node again", Duration::from_secs(180), || {
        let said = suite.curl((MESH, "client"), "http://server.sotto-e2e-strict/")?;
        let told = format!("exit {}: {}", said.code, said.last_line());
        Ok(if said.out == "200" { Ok(()) } else { Err(told) })
    })
}
