//! A real Prometheus reads the agents' metrics, and answers what Kiali asks for its graph: which edges are in mutual TLS.
//!
//! It is Debian's, and not needed to build or use the project: not run unless asked for (`cargo nextest run --run-ignored
//! only -E 'binary(mesh) & test(scraped::)'`), and then its absence is a failure. As Debian's knows no discovery by
//! Kubernetes, it is told the addresses that `deploy/monitoring` would find.

use std::time::Duration;

use serde_json::Value;

use super::bench::{Bench, LEGACY, READY, STREAMS};
use kit::cluster::ClusterOptions;

const WEB: &str = "http://web.back.svc.cluster.local/get";
const MESHED: (&str, &str) = ("front", "client");
const OUTSIDE: (&str, &str) = ("legacy", "sleep");
/// What Kiali's graph groups by (its `security_policy.go`), and for which traffic.
const EDGES: &str = "sum(rate(istio_tcp_sent_bytes_total{reporter=\"destination\",\
    source_workload_namespace!=\"back\",destination_service_namespace=\"back\"}[30s])) by \
    (source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,\
    source_principal,destination_service_namespace,destination_service_name,\
    destination_workload_namespace,destination_workload,destination_canonical_service,\
    destination_canonical_revision,destination_principal,connection_security_policy) > 0";
/// All of these it wants to be there.
const LABELS: [&str; 13] = [
    "source_workload_namespace",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_principal",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload_namespace",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_principal",
    "connection_security_policy",
];

fn manifest(config: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: monitoring }}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: prometheus, namespace: monitoring }}\n\
         spec:\n  selector: {{ matchLabels: {{ app: prometheus }} }}\n  template:\n    \
         metadata: {{ labels: {{ app: prometheus }} }}\n    spec:\n      containers:\n        - name: prometheus\n          \
         image: prometheus\n          command: [/usr/bin/prometheus, --config.file={config}, --storage.tsdb.path={data}]\n          \
         readinessProbe: {{ httpGet: {{ path: /-/ready, port: 9090 }}, periodSeconds: 1 }}\n"
    )
}

/// What Prometheus answers to a query: labels and value of each.
async fn ask(bench: &Bench, query: &str) -> Vec<(Value, f64)> {
    let url = "http://127.0.0.1:9090/api/v1/query";
    let query = format!("query={query}");
    let argv = ["curl", "-sS", "--max-time", "10", "-G", url, "--data-urlencode", &query];
    let output = bench.cluster.exec("monitoring", "prometheus", &argv).await.unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    let value = |one: &Value| one["value"][1].as_str().unwrap().parse().unwrap();
    let all = answer["data"]["result"].as_array().unwrap().iter();
    all.map(|one| (one["metric"].clone(), value(one))).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Debian's prometheus"]
async fn prometheus_knows_which_edges_are_in_mutual_tls_as_kiali_asks() {
    let apps: [(&str, &[&str]); 2] = [(STREAMS, &["front", "back"]), (LEGACY, &["legacy"])];
    let bench = Bench::with(ClusterOptions::default(), &apps).await;
    for namespace in ["front", "back"] {
        bench.enrol(namespace, true).await;
        bench.everyone_knows(namespace, true).await;
    }
    let agents = bench.cluster.pods("istio-system", "app=sotto").await.unwrap();
    let targets: Vec<_> = agents
        .iter()
        .map(|pod| format!("\"{}:15020\"", pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap()))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 2s }}\nscrape_configs:\n  - job_name: sotto\n    \
         static_configs: [{{ targets: [{}] }}]\n",
        targets.join(", ")
    );
    std::fs::write(&config, text).unwrap();
    let (config, data) = (config.display().to_string(), dir.path().join("data"));
    bench.apply(&manifest(&config, &data.display().to_string())).await;
    bench.cluster.wait_ready(&["monitoring"], READY).await.unwrap();
    let seen = async || {
        for from in [MESHED, OUTSIDE] {
            assert_eq!(bench.curl(from, WEB).await, "200");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let edges = ask(&bench, EDGES).await;
        if edges.len() < 2 {
            let up = ask(&bench, "up").await;
            let all = ask(&bench, "istio_tcp_sent_bytes_total{reporter=\"destination\"}").await;
            anyhow::bail!("{edges:?}, of {all:?}, {up:?}");
        }
        Ok(Some(edges))
    };
    let edges =
        bench.cluster.wait_until("Prometheus knows of both edges", READY, seen).await.unwrap();
    assert_eq!(ask(&bench, "up == 1").await.len(), 2, "both agents are read");
    let of = |workload: &str| {
        let found: Vec<_> = edges
            .iter()
            .filter(|(labels, _)| labels["source_workload"].as_str().unwrap().starts_with(workload))
            .collect();
        assert_eq!(found.len(), 1, "{workload}: {edges:?}");
        let labels = &found[0].0;
        for label in LABELS {
            assert!(labels[label].is_string(), "{label}: {labels}");
        }
        labels.clone()
    };
    let meshed = of("client");
    assert_eq!(meshed["connection_security_policy"], "mutual_tls");
    assert_eq!(meshed["source_principal"], "spiffe://cluster.local/ns/front/sa/client");
    assert_eq!(meshed["destination_service_name"], "web");
    let outside = of("sleep");
    assert_eq!(outside["connection_security_policy"], "unknown");
    assert_eq!(outside["destination_service_name"], "web");
}
