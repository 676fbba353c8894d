//! Binds pods to nodes, in turn, as node name and node selector allow.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::World;
use crate::objects;

pub(super) async fn sync(world: &World, turn: &mut usize) -> Result<()> {
    let waiting = world.pods.iter().filter(|pod| {
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        bound.is_none() && pod.metadata.deletion_timestamp.is_none()
    });
    for pod in waiting {
        let Some(node) = choose(pod, &world.nodes, *turn) else { continue };
        *turn += 1;
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.unwrap_or_else(|| String::from("default"));
        let patch = json!({ "spec": { "nodeName": node, "serviceAccountName": account } });
        let api = world.api::<Pod>(pod.namespace().as_deref());
        let bound = api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
        objects::ignore_missing(bound.map(drop))?;
    }
    Ok(())
}

fn choose(pod: &Pod, nodes: &[Node], turn: usize) -> Option<String> {
    let nothing = BTreeMap::new();
    let wanted = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref()).unwrap_or(&nothing);
    let mut fit: Vec<String> = nodes
        .iter()
        .filter(|node| wanted.iter().all(|(key, value)| node.labels().get(key) == Some(value)))
        .map(ResourceExt::name_any)
        .collect();
    fit.sort();
    let index = turn.checked_rem(fit.len())?;
    Some(fit.swap_remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({ "metadata": { "name": name,
            "labels": { "kubernetes.io/hostname": name } } }))
        .unwrap()
    }

    fn check(selector: serde_json::Value, turn: usize, expected: Option<&str>) {
        let pod = json!({ "metadata": {}, "spec": { "containers": [], "nodeSelector": selector } });
        let pod = serde_json::from_value(pod).unwrap();
        assert_eq!(choose(&pod, &[node("a"), node("b")], turn).as_deref(), expected);
    }

    #[test]
    fn pods_go_round_unless_they_select() {
        check(json!({}), 0, Some("a"));
        check(json!({}), 1, Some("b"));
        check(json!({ "kubernetes.io/hostname": "b" }), 0, Some("b"));
        check(json!({ "kubernetes.io/hostname": "c" }), 0, None);
    }
}
