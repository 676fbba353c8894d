//! An agent that starts while its control plane is away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::super::mesh::NAMESPACE;
use super::super::suite::{MESH, PLAIN, STRICT, Suite};
use super::super::table::Outcome;
use super::judge;

const DEPLOYMENT: &str = "sotto-control-plane";

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    let found = suite.kubectl.get(&format!("deployment -n {NAMESPACE} {DEPLOYMENT}"))?;
    let Some(found) = found else {
        return Ok(Outcome::NotRun(String::from("the control plane is not this one")));
    };
    let replicas = found["spec"]["replicas"].as_u64().context("it has a number of replicas")?;
    // The agent writes what it knows half a minute after a change at the latest.
    std::thread::sleep(Duration::from_secs(30));
    scale(suite, 0)?;
    let seen = without(suite);
    scale(suite, replicas)?;
    suite.installed()?;
    suite.reaches((MESH, "client"), "http://server.sotto-e2e-strict/")?;
    let (expected, told) = seen?;
    judge(expected, format!("{told}; mutual TLS again once it was back"))
}

fn without(suite: &Suite) -> Result<(bool, String)> {
    suite.wait("the control plane is gone", Duration::from_secs(60), || {
        let line = format!("pods -n {NAMESPACE} -l app.kubernetes.io/component=control-plane");
        let left = suite.kubectl.list(&line)?.len();
        Ok(if left == 0 { Ok(()) } else { Err(format!("{left} left")) })
    })?;
    let agent = suite.agent_on(&suite.near)?;
    suite.kubectl.ok(&format!("delete pod -n {NAMESPACE} {} --timeout=50s", agent.name))?;
    suite.wait("another agent runs", Duration::from_secs(60), || {
        let running = suite.agents()?.into_iter().find(|agent| agent.node == suite.near);
        let Some(running) = running else { return Ok(Err(String::from("none"))) };
        let pod = suite.kubectl.get(&format!("pod -n {NAMESPACE} {}", running.name))?;
        let phase = pod.unwrap_or_default()["status"]["phase"].clone();
        Ok(if phase == "Running" { Ok(()) } else { Err(phase.to_string()) })
    })?;
    let started = Instant::now();
    let outside = suite.wait("outbound plaintext goes on", Duration::from_secs(40), || {
        let said = suite.curl((MESH, "client"), "http://server.sotto-e2e-plain/")?;
        let told = format!("exit {}: {}", said.code, said.last_line());
        Ok(if said.out == "200" { Ok(started.elapsed().as_secs()) } else { Err(told) })
    })?;
    let closed = suite.curl((PLAIN, "client"), "http://server.sotto-e2e-strict/")?;
    let near = suite.address(STRICT, "client")?;
    let near = suite.ask((PLAIN, "client"), 5, (&near, 8000))?;
    let told = format!(
        "outside of the mesh reached after {outside} s; STRICT against plaintext: exit {}, and behind the new agent {} of {} answered",
        closed.code, near.answered, near.asked
    );
    Ok((closed.code == 56 && near.answered == 0, told))
}

fn scale(suite: &Suite, replicas: u64) -> Result<()> {
    let line = format!("scale -n {NAMESPACE} deployment/{DEPLOYMENT} --replicas={replicas}");
    suite.kubectl.ok(&line)?;
    Ok(())
}
