//! Removes the taint that keeps pods off a new node until its agent captures them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::error::chain;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// Removes the taints `key` of `node`, however long that takes. Only what was there is taken off: a taint
/// that comes later is another's.
pub async fn remove(client: Client, node: &str, key: &str) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        match try_once(&nodes, node, key).await {
            Ok(true) => return tracing::info!(key, "the startup taint is removed"),
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    key,
                    node,
                    "failed to remove the startup taint (may this account get and patch nodes?), trying again"
                );
            }
        }
        sleep(PAUSE).await;
    }
}

async fn try_once(nodes: &Api<Node>, name: &str, key: &str) -> Result<bool, kube::Error> {
    let node = nodes.get(name).await?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let taints = serde_json::to_value(taints).map_err(kube::Error::SerdeError)?;
    let Some(patch) = patch(&taints, key) else { return Ok(false) };
    let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
    nodes.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await.map(|_| true)
}

/// A patch that fails if others have changed the taints meanwhile; none if the taint is not there.
fn patch(taints: &Value, key: &str) -> Option<Value> {
    let all = taints.as_array()?;
    let kept: Vec<&Value> = all.iter().filter(|taint| taint["key"] != key).collect();
    (kept.len() < all.len()).then(|| {
        json!([
            { "op": "test", "path": "/spec/taints", "value": taints },
            { "op": "replace", "path": "/spec/taints", "value": kept },
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_taint_of_that_name_goes_and_only_if_nobody_else_changed_them() {
        let other = json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" });
        let ours = json!({ "key": "node.sotto/agent-not-ready", "effect": "NoSchedule" });
        let taints = json!([other, ours]);
        let expected = json!([
            { "op": "test", "path": "/spec/taints", "value": taints },
            { "op": "replace", "path": "/spec/taints", "value": [other] },
        ]);
        assert_eq!(patch(&taints, "node.sotto/agent-not-ready"), Some(expected));
        assert_eq!(patch(&json!([other]), "node.sotto/agent-not-ready"), None);
        assert_eq!(patch(&json!([]), "node.sotto/agent-not-ready"), None);
    }
}
