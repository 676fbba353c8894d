//! The peer: a ztunnel on each node of a cluster of its own, in in-pod mode, with the control plane,
//! the pods and the policy that Sotto has. The bench plays the node agent beside it: it writes the
//! redirection into the pods, hands over their network namespaces, and reports them as enrolled.

pub mod rules;
mod zds;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Agent, Cluster, SYSTEM};
use crate::node::Node;
use crate::topology::CONTROL_PLANE_IP;

/// Starts `program` on these nodes of a cluster whose pods run, and enrols the pods that run there
/// in `namespace`.
///
/// # Errors
/// A part does not start, or is not ready in time: the end of the peer's log is in the error.
pub async fn start(
    cluster: &mut Cluster,
    program: &Path,
    nodes: &[Arc<Node>],
    namespace: &str,
) -> Result<()> {
    let mut pods = cluster.pods(namespace, "").await?;
    pods.retain(|pod| nodes.iter().any(|node| node.pod(namespace, &pod.name_any()).is_some()));
    for node in nodes {
        let here = enrol_all(node, &pods)?;
        zds::serve(&socket(node), here, &node.tasks)?;
        let root = cluster.root_cert();
        let how = |name: &str, token: &Path| {
            (vec![program.display().to_string()], environment(node, (name, token), &root))
        };
        cluster.agents.push(Agent::start_as(node, how).await?);
    }
    cluster.wait_for_agents().await.context("the peer")?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let enrolled =
        json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } });
    for pod in &pods {
        api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&enrolled))
            .await
            .context("report an enrolled pod")?;
    }
    Ok(())
}

/// Writes the redirection into those of `pods` that run on `node`.
fn enrol_all(node: &Arc<Node>, pods: &[Pod]) -> Result<Vec<zds::Workload>> {
    let mut here = Vec::new();
    for pod in pods {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let Some(running) = node.pod(&namespace, &name) else { continue };
        rules::write(&running)?;
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        here.push(zds::Workload {
            uid: pod.uid().context("a pod without uid")?,
            name,
            namespace,
            service_account: account.unwrap_or_default(),
            netns: running.netns,
        });
    }
    Ok(here)
}

fn socket(node: &Node) -> std::path::PathBuf {
    node.config.dir.join("zds.sock")
}

/// What its DaemonSet would set; all else is left at its defaults.
fn environment(node: &Node, (pod, token): (&str, &Path), root: &Path) -> Vec<(String, String)> {
    let control_plane = format!("https://{CONTROL_PLANE_IP}:15012");
    let host = format!("istiod.{SYSTEM}.svc");
    let root = root.display().to_string();
    [
        ("XDS_ADDRESS", control_plane.clone()),
        ("CA_ADDRESS", control_plane),
        ("ALT_XDS_HOSTNAME", host.clone()),
        ("ALT_CA_HOSTNAME", host),
        ("XDS_ROOT_CA", root.clone()),
        ("CA_ROOT_CA", root),
        ("AUTH_TOKEN", token.display().to_string()),
        ("NODE_NAME", node.name()),
        ("POD_NAME", pod.to_owned()),
        ("POD_NAMESPACE", SYSTEM.to_owned()),
        ("INSTANCE_IP", node.config.number.ip().to_string()),
        ("INPOD_UDS", socket(node).display().to_string()),
        ("RUST_LOG", String::from("info")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
