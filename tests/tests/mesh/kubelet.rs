//! Who is taken for the kubelet, and what its probes may reach.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use kit::cluster::ClusterOptions;
use kit::controllers::is_ready;

use super::bench::{Bench, READY, pa};

/// A pod with a port that it declares for its probe and one that it does not, and one without any business there
/// whose process has the kubelet's name.
const SHOP: &str = r#"apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient } }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      containers:
        - name: web
          image: mccutchen/go-httpbin
          ports: [{ containerPort: 8000, name: http }, { containerPort: 9000, name: inner }]
          readinessProbe: { httpGet: { path: /get, port: http }, periodSeconds: 1 }
---
apiVersion: v1
kind: Namespace
metadata: { name: evil }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: kubelet, namespace: evil }
spec:
  selector: { matchLabels: { app: kubelet } }
  template:
    metadata: { labels: { app: kubelet } }
    spec:
      containers:
        - name: kubelet
          image: busybox
          command: [/bin/sh, -c, "echo kubelet > /proc/self/comm; while :; do sleep 1; done"]
"#;
const NAMED: (&str, &str) = ("evil", "kubelet");
const DECLARED: u16 = 8000;
const OTHER: u16 = 9000;

/// One node, so that all are on the kubelet's.
async fn shop() -> (Bench, IpAddr) {
    let options = ClusterOptions { nodes: 1, ..ClusterOptions::default() };
    let bench = Bench::with(options, &[(SHOP, &["shop", "evil"])]).await;
    bench.apply(&pa("v1", "shop", "default", "{ mtls: { mode: STRICT } }")).await;
    let web = bench.ip("shop", "web").await;
    (bench, web)
}

fn url(ip: IpAddr, port: u16) -> String {
    format!("http://{ip}:{port}/get")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_process_of_the_kubelets_name_gets_nothing_past_strict() {
    let (mut bench, web) = shop().await;
    for _ in 0..2 {
        let agent = &mut bench.cluster.agents[0].process;
        agent.terminate(Duration::from_secs(40)).await.unwrap();
        agent.start().unwrap();
        bench.cluster.wait_for_agents().await.unwrap();
        for port in [DECLARED, OTHER] {
            bench.shows(NAMED, &url(web, port), "exit 56").await;
        }
        probes_go_on(&bench).await;
    }
    let took = restart_kubelet(&bench).await;
    eprintln!("the first probe of a restarted kubelet passed after {took:.2?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    for port in [DECLARED, OTHER] {
        bench.shows(NAMED, &url(web, port), "exit 56").await;
    }
    probes_go_on(&bench).await;
}

/// Restarts it under the running agent; how long it took until one of its probes passed.
async fn restart_kubelet(bench: &Bench) -> Duration {
    let passed = async || bench.agent(1).metric("sotto_connections_probe_total", &[]).await;
    bench.cluster.nodes[0].restart_kubelet().await.unwrap();
    let (before, restarted) = (passed().await.unwrap(), Instant::now());
    let probes = async || Ok((passed().await? > before).then_some(()));
    bench.cluster.wait_until("a restarted kubelet's probe passes", READY, probes).await.unwrap();
    restarted.elapsed()
}

/// The kubelet's own connections get through, and the pod is ready by them.
async fn probes_go_on(bench: &Bench) {
    let known = ["state=\"exempt\""];
    let exempt = async || {
        let exempt = bench.agent(1).metric("sotto_kubelet", &known).await?;
        Ok((exempt > 0.0).then_some(()))
    };
    bench.cluster.wait_until("the kubelet is known", READY, exempt).await.unwrap();
    let count = async || bench.agent(1).metric("sotto_connections_probe_total", &[]).await.unwrap();
    let before = count().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let probed = count().await - before;
    assert!(probed >= 2.0, "{probed} probes in 4 s");
    let pods = bench.cluster.pods("shop", "").await.unwrap();
    assert!(pods.iter().all(is_ready), "{pods:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_host_is_another_pod_does_not_open_it() {
    let (bench, web) = shop().await;
    bench.shows(NAMED, &url(web, OTHER), "exit 56").await;
    let place = format!("{web}:{OTHER}");
    let refusals = async || {
        let log = bench.agent(1).process.log();
        log.lines().filter(|line| line.contains(&place)).count()
    };
    let before = refusals().await;
    let pod = format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{ name: blind, namespace: evil }}
spec:
  containers:
    - name: blind
      image: curlimages/curl
      readinessProbe: {{ httpGet: {{ host: "{web}", port: {OTHER}, path: /status/200 }}, periodSeconds: 1 }}
"#
    );
    bench.cluster.apply(&pod).await.unwrap();
    // The kubelet asks, and is refused like anyone.
    let asked = async || Ok((refusals().await > before + 3).then_some(()));
    bench.cluster.wait_until("the probe is refused again and again", READY, asked).await.unwrap();
    let pods = bench.cluster.pods("evil", "").await.unwrap();
    let blind = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some("blind")).unwrap();
    assert!(!is_ready(blind), "its probe has reached {web}: {blind:?}");
    probes_go_on(&bench).await;
}
