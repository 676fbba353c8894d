//! What the agents' own commands say of a node that is well.

use anyhow::Result;

use super::super::mesh::NAMESPACE;
use super::super::process::Said;
use super::super::suite::Suite;
use super::super::table::Outcome;
use super::judge;

/// `sotto` in the agent's container on the clients' node.
pub(super) fn sotto(suite: &Suite, command: &str) -> Result<Said> {
    let agent = suite.agent_on(&suite.near)?;
    let args = ["exec", "-n", NAMESPACE, &agent.name, "-c", "agent", "--", "sotto", command];
    suite.kubectl.call(&args, "")
}

pub(super) fn check(suite: &Suite) -> Result<Outcome> {
    let said = sotto(suite, "check")?;
    let missing: Vec<&str> = said.out.lines().filter(|line| line.contains("MISSING")).collect();
    let seen = format!(
        "exit {}: {} lines, {} of them MISSING {}",
        said.code,
        said.out.lines().count(),
        missing.len(),
        missing.join("; ")
    );
    judge(said.code == 0 && missing.is_empty() && !said.out.is_empty(), seen)
}

pub(super) fn status(suite: &Suite) -> Result<Outcome> {
    let mut seen = Vec::new();
    let mut all = true;
    for command in ["status", "certs", "connections"] {
        let said = sotto(suite, command)?;
        all &= said.code == 0 && !said.out.is_empty();
        let told = if said.code == 0 { String::new() } else { format!(": {}", said.out.trim()) };
        seen.push(format!("{command}: exit {}{told}", said.code));
    }
    judge(all, seen.join(", "))
}
