//! The CNI plugin as a node has it: installed by `sotto cni install`, called by a container runtime.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod away;
mod leave;
mod libcni;
mod reboot;
mod versions;

use std::time::Duration;

use kit::cluster::{Cluster, ClusterOptions};

/// Until something is as it should be.
const LIMIT: Duration = Duration::from_secs(60);
/// The label that enrols.
const MODE: &str = "istio.io/dataplane-mode";

/// A mesh of so many nodes.
async fn mesh(nodes: u8) -> Cluster {
    let mut cluster = Cluster::start(ClusterOptions { nodes, ..Default::default() }).await.unwrap();
    cluster.wire.stop();
    cluster
}

/// A namespace, enrolled or not.
async fn namespace(cluster: &Cluster, name: &str, enrolled: bool) {
    let yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n");
    cluster.apply(&yaml).await.unwrap();
    cluster.label_namespace(name, MODE, enrolled.then_some("ambient")).await.unwrap();
}

/// A pod that answers HTTP at port 8000.
fn server(namespace: &str, name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}\n\
         spec: {{ nodeName: {node}, containers: [{{ name: app, image: httpbin, ports: [{{ containerPort: 8000 }}] }}] }}\n"
    )
}

/// What the kubelet says a pod waits for.
async fn waits_for(cluster: &Cluster, namespace: &str, name: &str) -> String {
    let pods = cluster.pods(namespace, &format!("app={name}")).await.unwrap();
    let status = pods.into_iter().find_map(|pod| pod.status).unwrap_or_default();
    serde_json::to_string(&status.container_statuses).unwrap()
}

async fn wait_gone(cluster: &Cluster, namespace: &str, name: &str) {
    let api: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(cluster.client.clone(), namespace);
    let gone = async || Ok(api.get_opt(name).await?.is_none().then_some(()));
    cluster.wait_until(&format!("{namespace}/{name} is gone"), LIMIT, gone).await.unwrap();
}
