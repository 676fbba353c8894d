//! Pods that are not captured, and where that is told.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::super::objects::{MODE, OURS, with_net_admin};
use super::super::suite::{CONDITION, PLAIN, SOON, Suite, is_captured, items};
use super::super::table::Outcome;
use super::own::ip;
use super::tools::sotto;
use super::{holds, judge};

/// Waits for the Event of a pod that is not captured.
fn told(suite: &Suite, pod: &str) -> Result<String> {
    suite.wait(&format!("an Event says that {pod} is not captured"), SOON, || {
        let events = suite.events(PLAIN, pod)?;
        let found = events.iter().find(|event| event.starts_with("NotCaptured: "));
        Ok(found.cloned().ok_or_else(|| events.join("; ")))
    })
}

fn judged(suite: &Suite, name: &str, event: String) -> Result<Outcome> {
    let captured = is_captured(&suite.pod(PLAIN, name)?);
    let announced = if captured { "announced as captured" } else { "not announced as captured" };
    suite.wait("the pod's condition says it", SOON, || {
        let pod = suite.pod(PLAIN, name)?;
        let conditions = items(&pod["status"]["conditions"]);
        let ours = conditions.iter().find(|condition| condition["type"] == CONDITION);
        Ok(match ours.map(|condition| &condition["status"]) {
            Some(status) if status == "False" => Ok(()),
            other => Err(format!("{CONDITION}: {other:?}")),
        })
    })?;
    judge(!captured, format!("{announced}; {CONDITION}=False; {event}"))
}

fn labelled(mut pod: Value) -> Value {
    pod["metadata"]["labels"][MODE] = "ambient".into();
    pod
}

pub(super) fn host_network(suite: &Suite) -> Result<Outcome> {
    let mut pod = labelled(suite.near_pod(PLAIN, "host-network"));
    pod["spec"]["hostNetwork"] = true.into();
    let container = &mut pod["spec"]["containers"][0];
    container["command"] = json!(["sleep", "3600"]);
    for probe in ["readinessProbe", "livenessProbe"] {
        container[probe] = Value::Null;
    }
    suite.kubectl.apply(&[pod])?;
    let event = told(suite, "host-network")?;
    let outcome = judged(suite, "host-network", event);
    suite.delete_pod(PLAIN, "host-network")?;
    outcome
}

pub(super) fn sandbox(suite: &Suite) -> Result<Outcome> {
    // The class is by its name alone what it says: its pods are run by the runtime's ordinary handler.
    let class = json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": "sotto-e2e-gvisor", "labels": { OURS: "true" } }, "handler": "runc" });
    let mut pod = labelled(suite.near_pod(PLAIN, "sandbox"));
    pod["spec"]["runtimeClassName"] = "sotto-e2e-gvisor".into();
    suite.kubectl.apply(&[class])?;
    suite.kubectl.apply(&[pod])?;
    let started = suite.ready(PLAIN, "sandbox");
    if started.is_err() {
        let events = suite.events(PLAIN, "sandbox")?;
        if events.iter().any(|event| event.contains("no runtime for \"runc\"")) {
            let why = String::from("the nodes' runtime has no handler runc");
            return Ok(Outcome::NotRun(why));
        }
    }
    started?;
    let event = told(suite, "sandbox")?;
    let outcome = judged(suite, "sandbox", event);
    suite.delete_pod(PLAIN, "sandbox")?;
    outcome
}

pub(super) fn machine(suite: &Suite) -> Result<Outcome> {
    // By its label what it says: no machine runs in it.
    let mut pod = labelled(suite.near_pod(PLAIN, "machine"));
    pod["metadata"]["labels"]["kubevirt.io"] = "virt-launcher".into();
    suite.kubectl.apply(&[pod])?;
    let event = told(suite, "machine")?;
    let outcome = judged(suite, "machine", event);
    suite.delete_pod(PLAIN, "machine")?;
    outcome
}

/// As Docker makes it when it is started in a pod.
pub(super) fn bridge(suite: &Suite) -> Result<Outcome> {
    suite.kubectl.apply(&[with_net_admin(labelled(suite.near_pod(PLAIN, "docker")))])?;
    suite.ready(PLAIN, "docker")?;
    suite.captured(PLAIN, "docker")?;
    ip(suite, PLAIN, "docker", "link add docker0 type bridge")?;
    let limit = Duration::from_secs(120);
    let event = suite.wait("an Event says that what it forwards is not captured", limit, || {
        let events = suite.events(PLAIN, "docker")?;
        let found = events.iter().find(|event| event.contains("docker0"));
        Ok(found.cloned().ok_or_else(|| events.join("; ")))
    })?;
    suite.reaches((PLAIN, "docker"), "http://server.sotto-e2e-strict/")?;
    suite.delete_pod(PLAIN, "docker")?;
    holds(event)
}

/// A pod that has an address of the ranges that stand for others. It stays, for the upgrade.
pub(super) fn bad_pod(suite: &Suite) -> Result<Outcome> {
    let event = make_bad_pod(suite)?;
    suite.agent_ready(&suite.near, Duration::from_secs(30))?;
    let status = sotto(suite, "status")?;
    if status.code != 3 || !status.out.contains("/bad") {
        bail!("`sotto status` does not tell of it: exit {}: {}", status.code, status.out.trim());
    }
    judged(suite, "bad", event)
}

/// Makes it, unless it is there; returns its Event.
pub(super) fn make_bad_pod(suite: &Suite) -> Result<String> {
    if suite.kubectl.get(&format!("pod -n {PLAIN} bad"))?.is_none() {
        suite.kubectl.apply(&[with_net_admin(suite.near_pod(PLAIN, "bad"))])?;
        suite.ready(PLAIN, "bad")?;
        ip(suite, PLAIN, "bad", "addr add 240.64.0.1/32 dev lo")?;
        suite.kubectl.ok(&format!("label pod -n {PLAIN} bad {MODE}=ambient"))?;
    }
    told(suite, "bad")
}
