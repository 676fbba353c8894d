//! Whose network namespace is whose.

use std::time::Duration;

use kube::ResourceExt;

use super::bench::{Bench, READY, pa};

const CLIENT: (&str, &str) = ("front", "client");
const STRANGER: (&str, &str) = ("evil", "stranger");
const WEB: &str = "http://web.back.svc.cluster.local/get";

/// A pod beside the client that says to be known to the kubelet by another's UID.
fn stranger(uid: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{ name: evil }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: stranger, namespace: evil }}
spec:
  selector: {{ matchLabels: {{ app: stranger }} }}
  template:
    metadata:
      labels: {{ app: stranger }}
      annotations: {{ kubernetes.io/config.hash: "{uid}", kubernetes.io/config.mirror: "{uid}" }}
    spec:
      nodeSelector: {{ kubernetes.io/hostname: node1 }}
      containers: [{{ name: stranger, image: curlimages/curl }}]
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_leads_nobody_into_another_pods_network() {
    let mut bench = Bench::streams().await;
    bench.apply(&pa("v1", "back", "default", "{ mtls: { mode: STRICT } }")).await;
    bench.shows(CLIENT, WEB, "200").await;
    let client = bench.cluster.pod_of("front", "client").await.unwrap();
    let manifest = stranger(&client.uid().unwrap());
    bench.cluster.apply(&manifest).await.unwrap();
    bench.cluster.wait_ready(&["evil"], READY).await.unwrap();
    // It started outside the mesh, so its namespace is found through its processes.
    bench.shows(STRANGER, WEB, "exit 56").await;
    bench.enrol("evil", true).await;
    bench.shows(CLIENT, WEB, "200").await;
    bench.shows(STRANGER, WEB, "200").await;
    let agent = &mut bench.cluster.agents[0].process;
    agent.terminate(Duration::from_secs(40)).await.unwrap();
    agent.start().unwrap();
    bench.cluster.wait_for_agents().await.unwrap();
    bench.shows(CLIENT, WEB, "200").await;
    bench.shows(STRANGER, WEB, "200").await;
    bench.cluster.delete(&manifest).await.unwrap();
    let gone = async || Ok(bench.cluster.pods("evil", "").await?.is_empty().then_some(()));
    bench.cluster.wait_until("the stranger is gone", READY, gone).await.unwrap();
    // Longer than what it leaves behind takes to be taken back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    bench.shows(CLIENT, WEB, "200").await;
}
