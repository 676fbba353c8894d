//! Who is in the mesh, and how pods come in and go.

use std::time::Duration;

use anyhow::Result;

use super::super::clients::Counted;
use super::super::objects::MODE;
use super::super::suite::{MESH, MOVED, PLAIN, SOON, Suite, is_captured, items};
use super::super::table::Outcome;
use super::judge;

fn label(suite: &Suite, enrolled: bool) -> Result<()> {
    let word = if enrolled { format!("{MODE}=ambient") } else { format!("{MODE}-") };
    suite.kubectl.ok(&format!("label namespace {MOVED} {word} --overwrite"))?;
    Ok(())
}

fn released(suite: &Suite, pod: &str) -> Result<()> {
    suite.wait(&format!("{MOVED}/{pod} is let go"), SOON, || {
        let captured = is_captured(&suite.pod(MOVED, pod)?);
        Ok(if captured { Err(String::from("still captured")) } else { Ok(()) })
    })
}

pub(super) fn adopted(suite: &Suite) -> Result<Outcome> {
    label(suite, true)?;
    suite.captured(MOVED, "client")?;
    suite.captured(MOVED, "server")?;
    suite.reaches((MOVED, "client"), "http://server.sotto-e2e-moved/")?;
    let pod = suite.pod(MOVED, "server")?;
    let containers = items(&pod["status"]["containerStatuses"]).iter();
    let restarts: u64 = containers.filter_map(|one| one["restartCount"].as_u64()).sum();
    let agent = suite.agent_on(&suite.far)?;
    let identity = format!("src.identity=spiffe://cluster.local/ns/{MOVED}/sa/default");
    let lines = suite.wait("the server's agent logs mutual TLS", SOON, || {
        let lines = suite.log_lines(&agent, &[&identity, "direction=inbound"])?.len();
        Ok(if lines == 0 { Err(String::from("no such line")) } else { Ok(lines) })
    })?;
    judge(restarts == 0, format!("captured, {restarts} restarts; mutual TLS in {lines} log lines"))
}

pub(super) fn toggled(suite: &Suite) -> Result<Outcome> {
    let host = ("server.sotto-e2e-moved", 80);
    let load = suite.load((MOVED, "client"), "toggled", host)?;
    for _ in 0..5 {
        label(suite, false)?;
        released(suite, "client")?;
        released(suite, "server")?;
        label(suite, true)?;
        suite.captured(MOVED, "client")?;
        suite.captured(MOVED, "server")?;
    }
    let counted: Counted = load.stop()?;
    judge(counted.lost_nothing() && counted.asked >= 100, counted.told())
}

pub(super) fn come_and_go(suite: &Suite) -> Result<Outcome> {
    let mut longest = Duration::ZERO;
    for namespace in [PLAIN, MESH] {
        for node in [&suite.near, &suite.far] {
            let pod =
                super::super::objects::pod(namespace, "short", node, &suite.settings.tools_image);
            let started = std::time::Instant::now();
            suite.kubectl.apply(&[pod])?;
            suite.ready(namespace, "short")?;
            longest = longest.max(started.elapsed());
            if namespace == MESH {
                suite.captured(namespace, "short")?;
                suite.reaches((MESH, "short"), "http://server.sotto-e2e-strict/")?;
            }
            suite.delete_pod(namespace, "short")?;
        }
    }
    let seen = format!("4 pods started and ended, the slowest ready after {} s", longest.as_secs());
    judge(longest < Duration::from_secs(60), seen)
}
