//! Policies that istiod names in a workload and never sends: what it makes of a PeerAuthentication with ports, by two
//! readings of it that do not agree.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::mesh::NAMESPACE as ROOT;
use super::super::objects::OURS;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, SOON, Suite, items};
use super::super::table::Outcome;

const SERVER: &str = "http://server.sotto-e2e-mesh/";
/// How the agent tells of one.
const TOLD: &str = "names this policy and does not send it";
/// Agents look every 10 s, and tell of what was missing twice.
const LOOKS: Duration = Duration::from_secs(35);

pub(super) fn port_strict(suite: &Suite) -> Result<Outcome> {
    let workload = json!({ "mtls": { "mode": "PERMISSIVE" },
        "portLevelMtls": { "8000": { "mode": "STRICT" } } });
    let root = policy(ROOT, "e2e-root", json!({ "mtls": { "mode": "STRICT" } }));
    shape(suite, "e2e-1", workload, vec![root])
}

pub(super) fn port_permissive(suite: &Suite) -> Result<Outcome> {
    let root = policy(ROOT, "e2e-root", json!({ "mtls": { "mode": "STRICT" } }));
    let namespace = policy(MESH, "e2e-namespace", json!({ "mtls": { "mode": "UNSET" } }));
    shape(suite, "e2e-2", unset(), vec![root, namespace])
}

pub(super) fn empty_selector(suite: &Suite) -> Result<Outcome> {
    let spec = json!({ "selector": {}, "mtls": { "mode": "STRICT" } });
    shape(suite, "e2e-3", unset(), vec![policy(MESH, "e2e-namespace", spec)])
}

/// A workload's that inherits, but for a port nobody listens on.
fn unset() -> Value {
    json!({ "portLevelMtls": { "9090": { "mode": "PERMISSIVE" } } })
}

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": name, "namespace": namespace, "labels": { OURS: "true" } },
        "spec": spec })
}

fn shape(suite: &Suite, name: &str, mut spec: Value, mut others: Vec<Value>) -> Result<Outcome> {
    spec["selector"] = json!({ "matchLabels": { "app": "server" } });
    others.push(policy(MESH, name, spec));
    suite.kubectl.apply(&others)?;
    let outcome = judged(suite, &format!("converted_peer_authentication_{name}"));
    for other in &others {
        let metadata = &other["metadata"];
        let (namespace, name) = (&metadata["namespace"], &metadata["name"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = format!("delete peerauthentication -n {} {}", text(namespace), text(name));
        suite.kubectl.ok(&line)?;
    }
    suite.reaches((PLAIN, "client"), SERVER)?;
    outcome
}

fn judged(suite: &Suite, converted: &str) -> Result<Outcome> {
    let key = format!("{MESH}/{converted}");
    suite.wait("the server's record names the policy", SOON, || {
        let all = suite.told(&["workload", "--node", &suite.far, "-o", "json"])?;
        let server = items(&all).iter().find(|w| w["namespace"] == MESH && w["name"] == "server");
        let named = server.map(|w| items(&w["authorizationPolicies"])).unwrap_or_default();
        Ok(if named.iter().any(|n| *n == *key) { Ok(()) } else { Err(format!("{named:?}")) })
    })?;
    let sent = suite.told(&["policy", "--node", &suite.far, "-o", "json"])?;
    let sent = items(&sent).iter().any(|policy| policy["name"] == *converted);
    let outside = suite.curl((PLAIN, "client"), SERVER)?;
    let inside = suite.curl((MESH, "client"), SERVER)?;
    let agent = suite.agent_on(&suite.far)?;
    std::thread::sleep(LOOKS.min(suite.kubectl.left()));
    let lines = suite.log_lines(&agent, &[TOLD, converted])?.len();
    let seen = format!(
        "sent: {sent}; plaintext: exit {}, mesh: {}; told {lines} times",
        outside.code, inside.out
    );
    judge(!sent && outside.code == 56 && inside.out == "200" && lines == 1, seen)
}
