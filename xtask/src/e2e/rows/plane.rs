//! The control plane is replaced.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::super::clients::Counted;
use super::super::mesh::NAMESPACE;
use super::super::objects::OURS;
use super::super::suite::{MESH, Suite};
use super::super::table::Outcome;
use super::judge;

/// How often it is replaced.
const TIMES: u32 = 3;
/// Pods of new identities that start meanwhile, each time.
const PODS: u32 = 5;
/// What an agent says to whom the CA gave nothing.
const FAILED: &str = "no certificate issued";

/// `kubectl rollout restart` while pods start whose identities no node has asked for yet.
pub(super) fn replaced(suite: &Suite) -> Result<Outcome> {
    let load = suite.load((MESH, "client"), "plane", ("server.sotto-e2e-mesh", 80))?;
    let started = Instant::now();
    let mut failed = Vec::new();
    for round in 0..TIMES {
        suite
            .kubectl
            .ok(&format!("rollout restart -n {NAMESPACE} deployment/sotto-control-plane"))?;
        let names: Vec<String> = (0..PODS).map(|pod| format!("new-{round}-{pod}")).collect();
        for name in &names {
            start(suite, name)?;
            // All along the replacement, which takes some seconds.
            std::thread::sleep(Duration::from_secs(1));
        }
        suite.installed()?;
        for name in &names {
            suite.captured(MESH, name)?;
            suite.ready(MESH, name)?;
            suite.reaches((MESH, name), "http://server.sotto-e2e-mesh/")?;
        }
        for agent in suite.agents()? {
            failed.extend(suite.log_lines(&agent, &[FAILED])?);
        }
        for name in &names {
            suite.delete_pod(MESH, name)?;
        }
    }
    let load: Counted = load.stop()?;
    let seen = format!(
        "{TIMES} times in {} s, {} pods with identities of their own started meanwhile; certificates refused: {}{}; load: {}",
        started.elapsed().as_secs(),
        TIMES * PODS,
        failed.len(),
        failed.first().map(|line| format!(" ({line})")).unwrap_or_default(),
        load.told()
    );
    judge(failed.is_empty() && load.lost_nothing(), seen)
}

/// A pod with a service account of its own.
fn start(suite: &Suite, name: &str) -> Result<()> {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": name, "namespace": MESH, "labels": { OURS: "true" } } });
    let mut pod = suite.near_pod(MESH, name);
    pod["spec"]["serviceAccountName"] = name.into();
    suite.kubectl.apply(&[account, pod])
}
