//! Taking the mesh off, by the documents' commands, and what is left on the nodes.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::objects::MODE;
use super::super::suite::{CONDITION, MESH, MOVED, PLAIN, STRICT, Suite, is_captured, items, name};
use super::super::table::Outcome;
use super::judge;

/// What takes it off the nodes.
const UNINSTALL: &str = "overlays/uninstall";
/// What must not be left on a node: pins, the plugin, its list.
const LEFT: &str = "for path in /host/bpf/sotto /host/bin/sotto /host/conf/00-sotto.conflist; do \
    find \"$path\" 2>/dev/null; done; true";

pub(super) fn uninstall(suite: &Suite) -> Result<Outcome> {
    for namespace in [MESH, STRICT, MOVED] {
        suite.kubectl.ok(&format!("label namespace {namespace} {MODE}-"))?;
    }
    take_off(suite)?;
    let mut plain = Vec::new();
    for namespace in [PLAIN, MESH] {
        suite.kubectl.apply(&[suite.far_pod(namespace, "after")])?;
        suite.ready(namespace, "after")?;
    }
    for namespace in [MESH, STRICT] {
        let said = suite.curl((PLAIN, "client"), &format!("http://server.{namespace}/"))?;
        plain.push(format!("{namespace}: {}", said.out));
    }
    let marked = marked(suite)?;
    let policy = suite.kubectl.get(&format!("peerauthentication -n {STRICT} default"))?;
    let all_plain = plain.iter().all(|told| told.ends_with(": 200"));
    let left = left_on_nodes(suite)?;
    let told = match left.first() {
        None => String::from("nothing left on any node"),
        Some(first) => format!("{} files left, the first: {first}", left.len()),
    };
    let users = if policy.is_some() { "users' policies stay" } else { "users' policies are GONE" };
    judge(
        all_plain && left.is_empty() && marked.is_empty() && policy.is_some(),
        format!(
            "pods start; plaintext {}; {told}; {users}; marks on {} pods",
            plain.join(", "),
            marked.len()
        ),
    )
}

/// Pods that still say whether the mesh has them.
fn marked(suite: &Suite) -> Result<Vec<String>> {
    let pods = suite.kubectl.list("pods -A")?;
    let of = |pod: &&Value| {
        is_captured(pod)
            || items(&pod["status"]["conditions"])
                .iter()
                .any(|condition| condition["type"] == CONDITION)
    };
    Ok(pods.iter().filter(of).map(name).collect())
}

/// The documents' commands.
pub(in super::super) fn take_off(suite: &Suite) -> Result<()> {
    let limit = Duration::from_secs(180);
    let delete = |folder: &str| -> Result<()> {
        let folder = suite.kustomization(folder, &suite.settings.image)?;
        let line = format!("delete --ignore-not-found --timeout=170s -k {}", folder.display());
        suite.kubectl.ok_within(&line, limit).map(drop)
    };
    suite.install(UNINSTALL, &suite.settings.image)?;
    delete(&suite.settings.overlay)?;
    let line = "rollout status -n sotto-uninstall daemonset/sotto-uninstall --timeout=170s";
    suite.kubectl.ok_within(line, limit)?;
    delete(UNINSTALL)
}

fn push(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

/// Looks with a pod's eyes into the folders of each node that the mesh writes to.
fn left_on_nodes(suite: &Suite) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (number, node) in [&suite.near, &suite.far].into_iter().enumerate() {
        let name = format!("look-{number}");
        let mut pod = super::super::objects::pod(PLAIN, &name, node, &suite.settings.tools_image);
        let folders = [("bpf", "/sys/fs/bpf"), ("bin", "/opt/cni/bin"), ("conf", "/etc/cni/net.d")];
        for (volume, path) in folders {
            let mount =
                json!({ "name": volume, "mountPath": format!("/host/{volume}"), "readOnly": true });
            let volume = json!({ "name": volume, "hostPath": { "path": path } });
            push(&mut pod["spec"]["volumes"], volume);
            push(&mut pod["spec"]["containers"][0]["volumeMounts"], mount);
        }
        suite.kubectl.apply(&[pod])?;
        suite.ready(PLAIN, &name)?;
        let said = suite.kubectl.exec((PLAIN, &name), &["sh", "-c", LEFT])?;
        left.extend(said.out.lines().map(|path| format!("{node}: {}", path.replace("/host", ""))));
    }
    Ok(left)
}
