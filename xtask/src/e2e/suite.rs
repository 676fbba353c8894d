//! What all rows work with: the cluster, its nodes, where the suite's pods are, and patience.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::istiod::Istiod;
use super::kubectl::Kubectl;
use super::objects::{self, OURS};
use super::process;

/// Enrolled.
pub(super) const MESH: &str = "sotto-e2e-mesh";
/// Enrolled, and closed to plaintext.
pub(super) const STRICT: &str = "sotto-e2e-strict";
/// Never enrolled.
pub(super) const PLAIN: &str = "sotto-e2e-plain";
/// Older than the mesh; rows enrol it and let it go.
pub(super) const MOVED: &str = "sotto-e2e-moved";

/// The condition of pods that could not be captured.
pub(super) const CONDITION: &str = "sotto.io/Captured";

/// How long a condition may take if nothing else is said.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// What the user chose.
pub(super) struct Settings {
    /// The image that is tried.
    pub(super) image: String,
    /// The one that is installed first, for the upgrade.
    pub(super) from: Option<String>,
    /// What the suite's pods run: it has curl, ip, nc, procps and Python 3.
    pub(super) tools_image: String,
    /// What the cluster is installed with, in `deploy`.
    pub(super) overlay: String,
    /// What reboots a node: run with the node's name.
    pub(super) reboot: Option<String>,
    pub(super) reboots: u32,
    /// What takes the API server away and brings it back.
    pub(super) api: Option<String>,
    /// Istio's own agents are there, too.
    pub(super) beside: bool,
    /// A real istiod, under which agents are tried.
    pub(super) istiod: Option<Istiod>,
}

impl Settings {
    /// The agents' container.
    pub(super) fn container(&self) -> &'static str {
        if self.istiod.is_some() { "istio-proxy" } else { "agent" }
    }
}

/// What rows are given.
pub(super) struct Suite {
    pub(super) kubectl: Kubectl,
    pub(super) settings: Settings,
    /// The root of the work tree.
    pub(super) root: PathBuf,
    /// Where clients run.
    pub(super) near: String,
    /// Where servers run: another node, if there is one.
    pub(super) far: String,
}

impl Suite {
    /// Finds two nodes that can take pods.
    pub(super) fn new(kubectl: Kubectl, settings: Settings, root: PathBuf) -> Result<Self> {
        let nodes = kubectl.list("nodes").context("KUBECONFIG names no cluster that answers")?;
        let names: Vec<String> = nodes.iter().filter(|node| is_usable(node)).map(name).collect();
        let near = names.first().cloned().context("no node is ready to take pods")?;
        let far = names.get(1).unwrap_or(&near).clone();
        Ok(Self { kubectl, settings, root, near, far })
    }

    /// A pod of the suite, on the clients' node.
    pub(super) fn near_pod(&self, namespace: &str, name: &str) -> Value {
        objects::pod(namespace, name, &self.near, &self.settings.tools_image)
    }

    /// A pod of the suite, on the servers' node.
    pub(super) fn far_pod(&self, namespace: &str, name: &str) -> Value {
        objects::pod(namespace, name, &self.far, &self.settings.tools_image)
    }

    /// Makes a namespace with what every one has: a client, a server on another node, and its service.
    pub(super) fn settle(&self, namespace: &str, enrolled: bool) -> Result<()> {
        let mut objects = objects::namespace(namespace, enrolled);
        objects.push(self.near_pod(namespace, "client"));
        objects.push(self.far_pod(namespace, "server"));
        objects.push(objects::service(namespace, "server", Some("server")));
        self.kubectl.apply(&objects)?;
        self.ready(namespace, "client")?;
        self.ready(namespace, "server")
    }

    /// Waits until a pod is ready.
    pub(super) fn ready(&self, namespace: &str, pod: &str) -> Result<()> {
        self.wait(&format!("{namespace}/{pod} is ready"), Duration::from_secs(120), || {
            let pod = self.pod(namespace, pod)?;
            Ok(if is_ready(&pod) { Ok(()) } else { Err(state(&pod)) })
        })
    }

    /// Waits until the mesh has a pod.
    pub(super) fn captured(&self, namespace: &str, pod: &str) -> Result<()> {
        self.wait(&format!("{namespace}/{pod} is captured"), SOON, || {
            let pod = self.pod(namespace, pod)?;
            Ok(if is_captured(&pod) { Ok(()) } else { Err(state(&pod)) })
        })
    }

    pub(super) fn pod(&self, namespace: &str, pod: &str) -> Result<Value> {
        let found = self.kubectl.get(&format!("pod -n {namespace} {pod}"))?;
        found.with_context(|| format!("there is no pod {namespace}/{pod}"))
    }

    pub(super) fn address(&self, namespace: &str, pod: &str) -> Result<String> {
        let pod = self.pod(namespace, pod)?;
        let address = pod["status"]["podIP"].as_str();
        address.map(str::to_owned).with_context(|| format!("{} has no address", name(&pod)))
    }

    /// Runs a command of the user's own, with one more argument.
    pub(super) fn users_command(&self, command: &str, argument: &str) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{command} \"$0\""), argument]);
        let said = process::run(&mut shell, "", Duration::from_secs(600))?;
        if said.code != 0 {
            bail!("{command} {argument}: exit {}: {}", said.code, said.last_line());
        }
        Ok(())
    }

    /// Removes a pod and waits until it is gone.
    pub(super) fn delete_pod(&self, namespace: &str, pod: &str) -> Result<()> {
        let line = format!("delete pod -n {namespace} {pod} --ignore-not-found --timeout=50s");
        self.kubectl.ok(&line)?;
        Ok(())
    }

    /// Looks, twice a second, until `look` finds something; else tells what it said last.
    ///
    /// # Errors
    /// The limit or the row's deadline has passed.
    pub(super) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<Result<T, String>>,
    ) -> Result<T> {
        let limit = limit.min(self.kubectl.left());
        let end = Instant::now() + limit;
        loop {
            let last = match look().with_context(|| format!("while waiting until {what}"))? {
                Ok(found) => return Ok(found),
                Err(last) => last,
            };
            if process::interrupted() {
                bail!("interrupted, before {what}");
            }
            if Instant::now() > end {
                bail!("not within {} s: {what}; last: {last}", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Removes all that carries the suite's label, and waits until it is gone.
    pub(super) fn remove_ours(&self) -> Result<()> {
        for namespace in self.kubectl.list(&format!("namespaces -l {OURS}=true"))? {
            let line =
                format!("delete namespace {} --wait=false --ignore-not-found", name(&namespace));
            self.kubectl.ok(&line)?;
        }
        self.kubectl.ok(&format!("delete runtimeclasses -l {OURS}=true --ignore-not-found"))?;
        self.wait("the suite's namespaces are gone", Duration::from_secs(120), || {
            let left = self.kubectl.list(&format!("namespaces -l {OURS}=true"))?;
            let names: Vec<String> = left.iter().map(name).collect();
            Ok(if names.is_empty() { Ok(()) } else { Err(names.join(", ")) })
        })
    }
}

/// An object's name.
pub(super) fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// The elements of a list; none if it is absent.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether an object has a condition that is true.
pub(super) fn has_condition(object: &Value, kind: &str) -> bool {
    items(&object["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

pub(super) fn is_ready(pod: &Value) -> bool {
    has_condition(pod, "Ready") && pod["metadata"]["deletionTimestamp"].is_null()
}

pub(super) fn is_captured(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled"
}

/// A ready Linux node without a taint that keeps pods away.
fn is_usable(node: &Value) -> bool {
    let tainted =
        items(&node["spec"]["taints"]).iter().any(|taint| taint["effect"] != "PreferNoSchedule");
    let linux = node["metadata"]["labels"]["kubernetes.io/os"] == "linux";
    linux && !tainted && node["spec"]["unschedulable"] != true && has_condition(node, "Ready")
}

/// A pod's state in few words.
fn state(pod: &Value) -> String {
    let status = &pod["status"];
    let waiting = items(&status["containerStatuses"])
        .iter()
        .find_map(|container| container["state"]["waiting"]["reason"].as_str());
    let phase = status["phase"].as_str().unwrap_or("unknown");
    match waiting {
        Some(reason) => format!("{phase}, {reason}"),
        None if is_ready(pod) => format!("{phase}, ready"),
        None => format!("{phase}, not ready"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{is_captured, is_ready, is_usable, state};

    #[test]
    fn nodes_that_take_no_pods_are_left_out() {
        let node = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut node = json!({ "metadata": { "labels": { "kubernetes.io/os": "linux" } }, "spec": {},
                "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
            change(&mut node);
            is_usable(&node)
        };
        assert!(node(&|_| ()));
        assert!(node(&|node| node["spec"]["taints"] = json!([{ "effect": "PreferNoSchedule" }])));
        assert!(!node(&|node| node["spec"]["taints"] = json!([{ "effect": "NoSchedule" }])));
        assert!(!node(&|node| node["spec"]["unschedulable"] = true.into()));
        assert!(!node(&|node| node["status"]["conditions"][0]["status"] = "Unknown".into()));
        assert!(!node(&|node| node["metadata"]["labels"]["kubernetes.io/os"] = "windows".into()));
    }

    #[test]
    fn pods_are_what_their_status_says() {
        let mut pod = json!({ "metadata": {}, "status": { "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }] } });
        assert!(is_ready(&pod) && !is_captured(&pod));
        assert_eq!(state(&pod), "Running, ready");
        pod["metadata"]["annotations"]["ambient.istio.io/redirection"] = "enabled".into();
        assert!(is_captured(&pod));
        pod["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
        assert!(!is_ready(&pod));
        let pod = json!({ "status": { "phase": "Pending",
            "containerStatuses": [{ "state": { "waiting": { "reason": "ErrImagePull" } } }] } });
        assert_eq!(state(&pod), "Pending, ErrImagePull");
    }
}
