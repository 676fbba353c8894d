//! Who is in the mesh, and how pods come in and go.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

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

/// A pod whose init container needs the mesh, beside a sidecar that stays (a native one, with probes of its own).
pub(super) fn init_containers(suite: &Suite) -> Result<Outcome> {
    let mut pod = suite.near_pod(MESH, "prepared");
    let with = |name: &str, command: Value| {
        let mut container = pod["spec"]["containers"][0].clone();
        container["name"] = name.into();
        container["command"] = command;
        for probe in ["readinessProbe", "livenessProbe"] {
            container[probe] = Value::Null;
        }
        container
    };
    let mut beside = with("beside", json!(["python3", "/e2e/pod.py", "serve", "8002"]));
    beside["restartPolicy"] = "Always".into();
    let probe = json!({ "httpGet": { "path": "/", "port": 8002 }, "periodSeconds": 1 });
    beside["startupProbe"] = probe.clone();
    beside["readinessProbe"] = probe;
    let url = "http://server.sotto-e2e-strict/";
    let first = with("first", json!(["curl", "-sSf", "--retry", "20", "--retry-all-errors", url]));
    pod["spec"]["initContainers"] = json!([beside, first]);
    suite.kubectl.apply(&[pod])?;
    suite.ready(MESH, "prepared")?;
    suite.captured(MESH, "prepared")?;
    let address = suite.address(MESH, "prepared")?;
    let counted = suite.ask((MESH, "client"), 3, (&address, 8002))?;
    let pod = suite.pod(MESH, "prepared")?;
    let containers = ["initContainerStatuses", "containerStatuses"];
    let statuses = containers.iter().flat_map(|list| items(&pod["status"][*list]));
    let restarts: u64 = statuses.filter_map(|one| one["restartCount"].as_u64()).sum();
    suite.delete_pod(MESH, "prepared")?;
    let seen = format!(
        "the init container was served, {restarts} restarts; the sidecar: {}",
        counted.told()
    );
    judge(counted.lost_nothing() && restarts == 0, seen)
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
