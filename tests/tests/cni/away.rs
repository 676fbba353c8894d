//! A node whose agent is away, for a while or for good.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kit::cluster::{Cluster, SYSTEM};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{LIMIT, MODE, mesh, namespace, server, waits_for};

/// Longer than the plugin itself waits for the agent: then the kubelet says what it was refused with.
const HELD: Duration = Duration::from_secs(14);
/// As the kubelet gives the agent's pod.
const GRACE: Duration = Duration::from_secs(30);

pub(super) async fn starts(cluster: &Cluster, namespace: &str) {
    cluster.apply(&server(namespace, "web", "node1")).await.unwrap();
    cluster.wait_ready(&[namespace], LIMIT).await.unwrap();
}

pub(super) async fn is_captured(cluster: &Cluster, namespace: &str) {
    let annotation = "ambient.istio.io/redirection";
    let captured = async || {
        let pod = cluster.pod_of(namespace, "web").await?;
        Ok(pod.annotations().get(annotation).is_some_and(|value| value == "enabled").then_some(()))
    };
    cluster.wait_until(&format!("{namespace} is captured"), LIMIT, captured).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pods_of_enrolled_namespaces_wait_for_an_agent_that_is_away() {
    let mut cluster = mesh(1).await;
    for (name, enrolled) in [("shop", true), ("registry", false), ("late", false)] {
        namespace(&cluster, name, enrolled).await;
    }
    // Pods in it are on the list: a namespace without a label has one by its own label, too.
    namespace(&cluster, "own", false).await;
    let own = server("own", "first", "node1")
        .replace("app: first", &format!("app: first, {MODE}: ambient"));
    cluster.apply(&own).await.unwrap();
    cluster.wait_ready(&["own"], LIMIT).await.unwrap();
    let list = cluster.nodes[0].state_dir().join("enrolled.json");
    let listed = async || {
        let list = std::fs::read_to_string(&list)?;
        Ok((list.contains("\"shop\"") && list.contains("\"own\"")).then_some(()))
    };
    cluster.wait_until("the list is written", LIMIT, listed).await.unwrap();

    cluster.agents[0].process.kill().await.unwrap();
    cluster.label_namespace("late", MODE, Some("ambient")).await.unwrap();
    for waiting in ["shop", "own"] {
        cluster.apply(&server(waiting, "web", "node1")).await.unwrap();
    }
    // What the agent's own image comes from, and the agent's neighbours.
    for free in ["registry", "late"] {
        starts(&cluster, free).await;
    }
    cluster.apply(&server(SYSTEM, "web", "node1")).await.unwrap();
    let ready = async || Ok(cluster.pod_of(SYSTEM, "web").await.ok());
    cluster.wait_until("a pod of the agent's namespace is ready", LIMIT, ready).await.unwrap();
    tokio::time::sleep(HELD).await;
    for waiting in ["shop", "own"] {
        let why = waits_for(&cluster, waiting, "web").await;
        assert!(why.contains("which is enrolled, wait for it"), "{waiting}: {why}");
    }

    cluster.agents[0].process.start().unwrap();
    cluster.wait_ready(&["shop", "own"], LIMIT).await.unwrap();
    // The second pod of `own` is not enrolled: only its neighbour was, and it cannot be told apart.
    for captured in ["shop", "late"] {
        is_captured(&cluster, captured).await;
    }
}

/// Makes the agent's pod one of a DaemonSet, as it is in a cluster.
pub(super) async fn adopt(cluster: &Cluster) -> Api<DaemonSet> {
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let labels = json!({ "app": "sotto" });
    let set = serde_json::from_value(json!({
        "metadata": { "name": "sotto", "namespace": SYSTEM },
        "spec": { "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "agent", "image": "sotto" }] } } },
    }));
    let set = sets.create(&PostParams::default(), &set.unwrap()).await.unwrap();
    let owner = json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sotto",
        "uid": set.uid(), "controller": true });
    let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
    pods.patch("sotto-node1", &PatchParams::default(), &patch).await.unwrap();
    sets
}

/// What the kubelet does to the agent's pod at its end.
pub(super) async fn end_agent(cluster: &mut Cluster) {
    let agent = &mut cluster.agents[0];
    let cni = agent.cni.as_mut().unwrap();
    cni.terminate(GRACE).await.unwrap();
    agent.process.terminate(GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_daemonset_leaves_a_node_that_starts_pods_and_an_updated_one_holds_them() {
    let mut cluster = mesh(1).await;
    namespace(&cluster, "shop", true).await;
    let sets = adopt(&cluster).await;

    // An update: the pod goes, its DaemonSet stays.
    end_agent(&mut cluster).await;
    assert!(cluster.nodes[0].is_chained("sotto"), "the plugin stays for the next agent");
    cluster.apply(&server("shop", "web", "node1")).await.unwrap();
    tokio::time::sleep(HELD).await;
    let why = waits_for(&cluster, "shop", "web").await;
    assert!(why.contains("wait for it"), "{why}");
    let agent = &mut cluster.agents[0];
    agent.process.start().unwrap();
    agent.cni.as_mut().unwrap().start().unwrap();
    cluster.wait_for_agents().await.unwrap();
    cluster.wait_ready(&["shop"], LIMIT).await.unwrap();

    // The DaemonSet is deleted, and nobody has uninstalled anything.
    sets.delete("sotto", &DeleteParams::default()).await.unwrap();
    end_agent(&mut cluster).await;
    assert!(cluster.nodes[0].is_chained("kit-net"), "the network is as it was");
    namespace(&cluster, "after", true).await;
    starts(&cluster, "after").await;
    cluster.delete(&server("shop", "web", "node1")).await.unwrap();
    super::wait_gone(&cluster, "shop", "web").await;
}
