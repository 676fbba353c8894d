//! Istio by its charts; one node ours, by the steps that MIGRATION.md has; and back.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::istiod;
use super::super::mesh::{Agent, NAMESPACE, ROLLOUT};
use super::super::objects::{self, MODE};
use super::super::rows::install::settle_enrolled;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, STRICT, Suite};
use super::super::table::Outcome;

const OVERLAY: &str = "overlays/beside-istio";
/// The label of nodes that are ours.
const TAKEN: &str = "sotto.io/node";
/// Istio's DaemonSets.
const THEIRS: [&str; 2] = ["ztunnel", "istio-cni-node"];
/// The pods on the node that changes hands, which a drain would move.
const FAR: [(&str, &str); 4] =
    [(MESH, "server"), (MESH, "client-far"), (STRICT, "server"), (STRICT, "client-far")];

impl Suite {
    /// The pod of an agent of whatever kind on a node.
    pub(super) fn any_agent_on(&self, node: &str) -> Result<Agent> {
        let line =
            format!("pods -n {NAMESPACE} -l app=ztunnel --field-selector spec.nodeName={node}");
        let pods = self.kubectl.list(&line)?;
        let mut living = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let pod = living.next().with_context(|| format!("no agent of any kind is on {node}"))?;
        if living.next().is_some() {
            bail!("{node} has two agents");
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Agent {
            name: text(&pod["metadata"]["name"]),
            address: text(&pod["status"]["podIP"]),
            node: node.to_owned(),
        })
    }

    fn theirs_rolled_out(&self) -> Result<()> {
        for set in THEIRS {
            let line = format!("rollout status -n {NAMESPACE} daemonset/{set} --timeout=170s");
            self.kubectl.ok_within(&line, ROLLOUT)?;
        }
        Ok(())
    }

    /// What a drain does: the far node's pods end, and are there anew once it is usable.
    fn far_pods(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        for (namespace, pod) in FAR {
            self.delete_pod(namespace, pod)?;
        }
        meanwhile()?;
        let pods: Vec<Value> =
            FAR.iter().map(|(namespace, pod)| self.far_pod(namespace, pod)).collect();
        self.kubectl.apply(&pods)?;
        for (namespace, pod) in FAR {
            self.ready(namespace, pod)?;
            self.captured(namespace, pod)?;
        }
        Ok(())
    }
}

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    if suite.near == suite.far {
        bail!("it needs two nodes");
    }
    let mut namespace = objects::namespace(NAMESPACE, false);
    namespace.truncate(1);
    suite.kubectl.apply(&namespace)?;
    suite.configure(&[
        "components.cni.enabled=true",
        "components.ztunnel.enabled=true",
        "values.cni.resources.requests.cpu=10m",
        "values.ztunnel.resources.requests.cpu=10m",
        "values.ztunnel.resources.requests.memory=100Mi",
    ])?;
    suite.theirs_rolled_out()?;
    suite.settle(PLAIN, false)?;
    settle_enrolled(suite)?;
    let mut more = Vec::new();
    for namespace in [MESH, STRICT] {
        more.push(suite.far_pod(namespace, "client-far"));
        more.push(suite.near_pod(namespace, "server-near"));
        more.push(objects::service(namespace, "server-near", Some("server-near")));
    }
    suite.kubectl.apply(&more)?;
    for namespace in [MESH, STRICT] {
        for pod in ["client-far", "server-near"] {
            suite.ready(namespace, pod)?;
            suite.captured(namespace, pod)?;
        }
    }
    suite.reaches((MESH, "client-far"), "http://server-near.sotto-e2e-mesh/")?;
    let names =
        [&suite.near, &suite.far].map(|node| suite.any_agent_on(node).map(|agent| agent.name));
    let [near, far] = names;
    judge(true, format!("{} and {} serve all pods", near?, far?))
}

pub(super) fn taken(suite: &Suite) -> Result<Outcome> {
    let elsewhere = json!({ "key": TAKEN, "operator": "DoesNotExist" });
    let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": [elsewhere] }] });
    let patch = affinity(
        &json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } }),
    );
    patch_theirs(suite, &patch)?;
    suite.theirs_rolled_out()?;
    let warned = suite.install(OVERLAY, &suite.settings.image)?;
    suite.far_pods(|| {
        suite.kubectl.ok(&format!("label node {} --overwrite {TAKEN}=agent", suite.far))?;
        gone(suite, &THEIRS)?;
        // Off by default with ours; ztunnel's is on.
        let line =
            format!("set env -n {NAMESPACE} daemonset/sotto -c istio-proxy DNS_CAPTURE=true");
        suite.kubectl.ok(&line)?;
        let line = format!("rollout status -n {NAMESPACE} daemonset/sotto --timeout=170s");
        suite.kubectl.ok_within(&line, ROLLOUT)?;
        suite.agent_ready(&suite.far, Duration::from_secs(120))
    })?;
    let ours = suite.agent_on(&suite.far)?.name;
    let check = suite.kubectl.exec_in((NAMESPACE, &ours), "cni", &["sotto", "check"])?;
    let line = check.out.lines().find(|line| line.contains("other mesh")).unwrap_or("no such line");
    let theirs = suite.any_agent_on(&suite.near)?.name;
    let warned: Vec<_> = warned.iter().filter(|line| !line.contains("is deprecated")).collect();
    let seen = format!(
        "{} has {ours}, {} has {theirs}; sotto check there: {}; kubectl warned {} times",
        suite.far,
        suite.near,
        line.split_whitespace().collect::<Vec<_>>().join(" "),
        warned.len()
    );
    judge(line.starts_with("ok") && warned.is_empty(), seen)
}

pub(super) fn given_back(suite: &Suite) -> Result<Outcome> {
    suite.far_pods(|| {
        suite.kubectl.ok(&format!("label node {} {TAKEN}-", suite.far))?;
        suite.wait("our agent has left", Duration::from_secs(90), || {
            let left = suite.agents()?.len();
            Ok(if left == 0 { Ok(()) } else { Err(format!("{left} agents")) })
        })?;
        suite.theirs_rolled_out()
    })?;
    remove_ours(suite)?;
    patch_theirs(suite, &affinity(&Value::Null))?;
    suite.theirs_rolled_out()?;
    let theirs = suite.any_agent_on(&suite.far)?;
    for (from, to) in [("client", "server"), ("client-far", "server-near")] {
        suite.reaches((MESH, from), &format!("http://{to}.{MESH}/"))?;
    }
    let words = ["direction=inbound", "dst.workload=server", "src.identity=spiffe://"];
    let lines = suite.log_lines(&theirs, &words)?.len();
    judge(
        lines > 0,
        format!(
            "{} serves {} again: {lines} lines of the server's clients",
            theirs.name, suite.far
        ),
    )
}

pub(super) fn off(suite: &Suite) -> Result<Outcome> {
    for namespace in [MESH, STRICT] {
        suite.kubectl.ok(&format!("label namespace {namespace} {MODE}-"))?;
    }
    remove(suite)?;
    for namespace in [MESH, STRICT] {
        for (pod, is_near) in [("client", true), ("server", false)] {
            suite.delete_pod(namespace, pod)?;
            let pod = if is_near {
                suite.near_pod(namespace, pod)
            } else {
                suite.far_pod(namespace, pod)
            };
            suite.kubectl.apply(&[pod])?;
        }
        for pod in ["client", "server"] {
            suite.ready(namespace, pod)?;
        }
        suite.reaches((namespace, "client"), &format!("http://server.{namespace}/"))?;
        suite.reaches((PLAIN, "client"), &format!("http://server.{namespace}/"))?;
    }
    judge(true, String::from("pods start, and plaintext is answered in both namespaces"))
}

/// Takes all of it off, if it is there.
pub(in super::super) fn remove(suite: &Suite) -> Result<()> {
    remove_ours(suite)?;
    for node in [&suite.near, &suite.far] {
        suite.kubectl.ok(&format!("label node {node} {TAKEN}-"))?;
    }
    istiod::remove(suite)
}

fn remove_ours(suite: &Suite) -> Result<()> {
    let folder = suite.kustomization(OVERLAY, &suite.settings.image)?;
    let line = format!("delete --ignore-not-found --timeout=110s -k {}", folder.display());
    suite.kubectl.ok_within(&line, Duration::from_secs(120)).map(drop)
}

fn affinity(of: &Value) -> String {
    json!({ "spec": { "template": { "spec": { "affinity": of } } } }).to_string()
}

fn patch_theirs(suite: &Suite, patch: &str) -> Result<()> {
    for set in THEIRS {
        suite.kubectl.ok_args(&[
            "patch",
            "daemonset",
            "-n",
            NAMESPACE,
            set,
            "--type=merge",
            "-p",
            patch,
        ])?;
    }
    Ok(())
}

/// Waits until no pod of these DaemonSets is on the far node.
fn gone(suite: &Suite, sets: &[&str]) -> Result<()> {
    suite.wait("Istio's agents have left the node", Duration::from_secs(120), || {
        let line = format!("pods -n {NAMESPACE} --field-selector spec.nodeName={}", suite.far);
        let pods = suite.kubectl.list(&line)?;
        let owned = |pod: &Value| {
            let owner = pod["metadata"]["ownerReferences"][0]["name"].as_str();
            owner.is_some_and(|owner| sets.contains(&owner))
        };
        let left = pods.iter().filter(|pod| owned(pod)).count();
        Ok(if left == 0 { Ok(()) } else { Err(format!("{left} pods")) })
    })
}
