//! Ways to a service that are not its own address: a node's port, another name.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::objects::{self, OURS};
use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite, items};
use super::super::table::Outcome;
use super::judge;

/// The InternalIP of a node.
pub(super) fn node_address(suite: &Suite, node: &str) -> Result<String> {
    let node = suite.kubectl.get(&format!("node {node}"))?.context("the node is gone")?;
    let internal =
        items(&node["status"]["addresses"]).iter().find(|one| one["type"] == "InternalIP");
    let address = internal.and_then(|address| address["address"].as_str());
    address.map(str::to_owned).context("the node has no InternalIP")
}

/// Makes a service with a port of every node, which only nodes with an endpoint serve to others; returns it.
fn on_nodes(suite: &Suite, namespace: &str, policy: &str) -> Result<u16> {
    let mut service = objects::service(namespace, "on-nodes", Some("server"));
    service["spec"]["type"] = "NodePort".into();
    service["spec"]["externalTrafficPolicy"] = policy.into();
    suite.kubectl.apply(&[service])?;
    suite.wait("the service has a node's port", SOON, || {
        let service = suite.kubectl.get(&format!("service -n {namespace} on-nodes"))?;
        let port = service.unwrap_or_default()["spec"]["ports"][0]["nodePort"].as_u64();
        Ok(port.and_then(|port| u16::try_from(port).ok()).ok_or_else(|| String::from("none yet")))
    })
}

pub(super) fn node_port(suite: &Suite) -> Result<Outcome> {
    let node = node_address(suite, &suite.far)?;
    let open = on_nodes(suite, MESH, "Local")?;
    let closed = on_nodes(suite, STRICT, "Cluster")?;
    suite.wait("the node serves the port", SOON, || {
        let counted = suite.ask((PLAIN, "client"), 1, (&node, open))?;
        Ok(if counted.answered == 1 { Ok(()) } else { Err(counted.told()) })
    })?;
    let pods = suite.ask((MESH, "client"), 10, (&node, open))?;
    // For pods, the policy changes nothing: the service's own address leads to the far node as ever.
    let inside = suite.ask((MESH, "client"), 10, ("on-nodes.sotto-e2e-mesh", 80))?;
    let strict = suite.ask((MESH, "client"), 5, (&node, closed))?;
    for namespace in [MESH, STRICT] {
        suite.kubectl.ok(&format!("delete service -n {namespace} on-nodes --wait=false"))?;
    }
    let seen = format!(
        "{}; its own address: {}; of STRICT pods: {} of {}",
        pods.told(),
        inside.told(),
        strict.answered,
        strict.asked
    );
    judge(pods.lost_nothing() && inside.lost_nothing() && strict.answered == 0, seen)
}

pub(super) fn external_name(suite: &Suite) -> Result<Outcome> {
    let service: Value = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "named", "namespace": MESH, "labels": { OURS: "true" } },
        "spec": { "type": "ExternalName", "externalName": "server.sotto-e2e-plain.svc.cluster.local" } });
    suite.kubectl.apply(&[service])?;
    suite.reaches((MESH, "client"), "http://named.sotto-e2e-mesh/")?;
    let counted = suite.ask((MESH, "client"), 5, ("named.sotto-e2e-mesh", 80))?;
    suite.kubectl.ok(&format!("delete service -n {MESH} named --wait=false"))?;
    judge(counted.lost_nothing(), counted.told())
}
