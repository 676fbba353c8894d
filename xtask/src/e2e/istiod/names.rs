//! Names: those that Istio's tools look for, and those of a mesh that is called otherwise than by default.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::mesh::NAMESPACE;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, Suite, items};
use super::super::table::Outcome;

const SERVER: &str = "http://server.sotto-e2e-mesh/";
/// How long identities may take to follow.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn all(suite: &Suite) -> Result<Outcome> {
    let found = suite.kubectl.get(&format!("daemonset -n {NAMESPACE} ztunnel"))?;
    let set = found.context("there is no DaemonSet ztunnel")?;
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let containers: Vec<&str> = items(&set["spec"]["template"]["spec"]["containers"])
        .iter()
        .filter_map(|container| container["name"].as_str())
        .collect();
    let agent = suite.agent_on(&suite.near)?;
    let build = suite.metric(&agent, "istio_build", &["component=\"ztunnel\""])?;
    let pods = suite.metric(&agent, "workload_manager_active_proxy_count", &[])?;
    let labelled = labels["app"] == "ztunnel" && labels["k8s-app"] == "istio-cni-node";
    let seen = format!(
        "app {}, k8s-app {}, containers {}; istio_build {build}, {pods} pods",
        labels["app"],
        labels["k8s-app"],
        containers.join(" ")
    );
    judge(labelled && containers.contains(&"istio-proxy") && build > 0.0 && pods > 0.0, seen)
}

pub(super) fn corp(suite: &Suite) -> Result<Outcome> {
    suite.configure(&["meshConfig.trustDomain=corp"])?;
    let outcome = under(suite, |_| true, "spiffe://corp/");
    suite.configure(&[])?;
    let back = under(suite, |_| true, "spiffe://cluster.local/")?;
    outcome.map(|seen| (seen, back)).and_then(told)
}

pub(super) fn network(suite: &Suite) -> Result<Outcome> {
    let label = |value: &str| {
        let line =
            format!("label namespace {NAMESPACE} --overwrite topology.istio.io/network{value}");
        suite.kubectl.ok(&line)
    };
    label("=net1")?;
    suite.configure(&["values.global.network=net1"])?;
    let outcome = under(suite, |server| server["network"] == "net1", "spiffe://cluster.local/");
    label("-")?;
    suite.configure(&[])?;
    let unnamed = |server: &Value| server["network"].as_str().unwrap_or_default().is_empty();
    let back = under(suite, unnamed, "spiffe://cluster.local/")?;
    outcome.map(|seen| (seen, back)).and_then(told)
}

pub(super) fn cluster(suite: &Suite) -> Result<Outcome> {
    suite.configure(&["values.global.multiCluster.clusterName=east"])?;
    let outcome = under(suite, |server| server["clusterId"] == "east", "spiffe://cluster.local/");
    suite.configure(&[])?;
    let back =
        under(suite, |server| server["clusterId"] == "Kubernetes", "spiffe://cluster.local/")?;
    outcome.map(|seen| (seen, back)).and_then(told)
}

fn told((seen, back): (String, String)) -> Result<Outcome> {
    judge(true, format!("{seen}; and back: {back}"))
}

/// Under agents that run on: the mesh is known by its new name, mutual TLS goes on, and a new pod is taken in.
fn under(suite: &Suite, known: impl Fn(&Value) -> bool, identity: &str) -> Result<String> {
    for node in [&suite.near, &suite.far] {
        suite.wait("the agent knows the server by the new name", PATIENCE, || {
            let all = match suite.told(&["workload", "--node", node, "-o", "json"]) {
                Ok(all) => all,
                Err(error) => return Ok(Err(format!("{error:#}"))),
            };
            let server =
                items(&all).iter().find(|w| w["namespace"] == MESH && w["name"] == "server");
            Ok(server.filter(|server| known(server)).map(drop).ok_or_else(|| format!("{server:?}")))
        })?;
    }
    for agent in suite.agents()? {
        suite.agent_ready(&agent.node, PATIENCE)?;
    }
    suite.delete_pod(MESH, "young")?;
    suite.kubectl.apply(&[suite.near_pod(MESH, "young")])?;
    suite.ready(MESH, "young")?;
    suite.captured(MESH, "young")?;
    let agent = suite.agent_on(&suite.far)?;
    let from = format!("src.identity={identity}ns/{MESH}/sa/default");
    for pod in ["client", "young"] {
        let workload = format!("src.workload={pod}");
        suite.wait("it is let in by its identity", PATIENCE, || {
            let said = suite.curl((MESH, pod), SERVER)?;
            if said.out != "200" {
                return Ok(Err(format!("{pod}: exit {}: {}", said.code, said.last_line())));
            }
            let lines = suite.log_lines(&agent, &[&from, &workload, "direction=inbound"])?;
            Ok(if lines.is_empty() { Err(format!("{pod} is not {from}")) } else { Ok(()) })
        })?;
    }
    suite.delete_pod(MESH, "young")?;
    suite.reaches((PLAIN, "client"), SERVER)?;
    Ok(format!("{identity}.. of old and new pods"))
}
