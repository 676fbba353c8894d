//! Thousands of workloads, and what is missed of them meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::mesh::{NAMESPACE, ROLLOUT};
use super::super::objects::OURS;
use super::super::rows::judge;
use super::super::suite::{PLAIN, Suite, items};
use super::super::table::Outcome;

/// ServiceEntries, with so many endpoints each.
const ENTRIES: u32 = 200;
const ENDPOINTS: u32 = 15;
/// WorkloadEntries.
const WORKLOADS: u32 = 200;
/// Removed while istiod is away, of either.
const REMOVED: u32 = 60;

pub(super) fn thousands(suite: &Suite) -> Result<Outcome> {
    let outcome = run(suite);
    for kind in ["serviceentries", "workloadentries"] {
        let line = format!("delete {kind} -n {PLAIN} --all --wait=false");
        suite.kubectl.ok_within(&line, Duration::from_secs(120))?;
    }
    outcome
}

fn run(suite: &Suite) -> Result<Outcome> {
    let services: Vec<Value> = (0..ENTRIES).map(service).collect();
    let workloads: Vec<Value> = (0..WORKLOADS).map(workload).collect();
    suite.kubectl.apply(&services)?;
    suite.kubectl.apply(&workloads)?;
    let before = same(suite)?;
    // What is deleted now istiod tells nobody: agents have to find out by what it tells when it is back.
    scale(suite, 0)?;
    let agent = suite.agent_on(&suite.near)?;
    for (kind, name) in [("serviceentry", "e2e-s"), ("workloadentry", "e2e-w")] {
        let names: Vec<String> = (0..REMOVED).map(|number| format!("{name}{number}")).collect();
        let line = format!("delete {kind} -n {PLAIN} --wait=false {}", names.join(" "));
        suite.kubectl.ok_within(&line, Duration::from_secs(120))?;
    }
    suite.kubectl.ok(&format!("delete pod -n {NAMESPACE} {} --timeout=55s", agent.name))?;
    scale(suite, 1)?;
    let after = same(suite)?;
    suite.agent_ready(&suite.near, Duration::from_secs(90))?;
    let gone = before.saturating_sub(after);
    let expected = REMOVED * (ENDPOINTS + 1) + REMOVED;
    let seen = format!("{before} resources, the same on every agent; then {after}, the same");
    judge(gone == usize::try_from(expected)?, seen)
}

fn scale(suite: &Suite, replicas: u32) -> Result<()> {
    suite.kubectl.ok(&format!("scale -n {NAMESPACE} deployment/istiod --replicas={replicas}"))?;
    if replicas == 0 {
        return suite.wait("istiod is gone", super::super::suite::SOON, || {
            let left = suite.kubectl.list(&format!("pods -n {NAMESPACE} -l app=istiod"))?.len();
            Ok(if left == 0 { Ok(()) } else { Err(format!("{left} pods")) })
        });
    }
    let line = format!("rollout status -n {NAMESPACE} deployment/istiod --timeout=100s");
    suite.kubectl.ok_within(&line, ROLLOUT).map(drop)
}

/// Waits until every agent knows what istiod knows; how much that is.
fn same(suite: &Suite) -> Result<usize> {
    suite.wait("agents know what istiod does", Duration::from_secs(120), || {
        let there = istiods(suite)?;
        for node in [&suite.near, &suite.far] {
            let here = match agents(suite, node) {
                Ok(here) => here,
                Err(error) => return Ok(Err(format!("{node}: {error:#}"))),
            };
            if here != there {
                let (more, less) =
                    (here.difference(&there).count(), there.difference(&here).count());
                return Ok(Err(format!("{node}: {more} too many, {less} missing")));
            }
        }
        Ok(Ok(there.len()))
    })
}

/// Names of workloads and services, by istiod's own page.
fn istiods(suite: &Suite) -> Result<BTreeSet<String>> {
    let line = format!(
        "exec -n {NAMESPACE} deployment/istiod -- pilot-discovery request GET /debug/ambientz"
    );
    let text = suite.kubectl.ok(&line)?;
    let all: Value = serde_json::from_str(&text).context("istiod's page")?;
    names(&all)
}

/// The same by an agent's page.
fn agents(suite: &Suite, node: &str) -> Result<BTreeSet<String>> {
    names(&suite.told(&["all", "--node", node, "-o", "json"])?)
}

fn names(all: &Value) -> Result<BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let workloads = items(&all["workloads"]).iter().map(|workload| text(&workload["uid"]));
    let services = items(&all["services"])
        .iter()
        .map(|service| format!("{}/{}", text(&service["namespace"]), text(&service["hostname"])));
    let names: BTreeSet<String> = workloads.chain(services).collect();
    if names.is_empty() {
        bail!("nothing is known");
    }
    Ok(names)
}

fn object(kind: &str, name: String, spec: Value) -> Value {
    json!({ "apiVersion": "networking.istio.io/v1", "kind": kind,
        "metadata": { "name": name, "namespace": PLAIN, "labels": { OURS: "true" } },
        "spec": spec })
}

fn service(number: u32) -> Value {
    let endpoint = |of: u32| {
        let at = number * ENDPOINTS + of;
        json!({ "address": format!("198.18.{}.{}", at / 250, at % 250 + 1) })
    };
    let endpoints: Vec<Value> = (0..ENDPOINTS).map(endpoint).collect();
    let spec = json!({ "hosts": [format!("s{number}.e2e.example")], "resolution": "STATIC",
        "location": "MESH_INTERNAL", "ports": [{ "number": 80, "name": "http", "protocol": "TCP" }],
        "endpoints": endpoints });
    object("ServiceEntry", format!("e2e-s{number}"), spec)
}

fn workload(number: u32) -> Value {
    let address = format!("198.19.{}.{}", number / 250, number % 250 + 1);
    object("WorkloadEntry", format!("e2e-w{number}"), json!({ "address": address }))
}
