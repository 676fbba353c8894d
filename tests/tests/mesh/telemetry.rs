//! What operators see of a connection.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::bench::{Bench, pa};

const CLIENT: (&str, &str) = ("front", "client");

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_in_metrics_access_log_and_dump_with_all_that_is_known_of_it() {
    let bench = Bench::streams().await;
    bench.apply(&pa("v1", "back", "default", "{ mtls: { mode: STRICT } }")).await;
    let (client, echo) = (bench.ip("front", "client").await, bench.ip("back", "echo").await);
    let open = bench.pulse(CLIENT, echo, "--connections=3 --seconds=4");
    let look = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        for agent in &bench.cluster.agents {
            assert!(agent.ready().await, "{}", agent.node());
        }
        bench.agent(2).config_dump().await.unwrap()
    };
    let (open, dump) = tokio::join!(open, look);
    open.unwrap();
    the_dump_tells(&dump, &bench, &client.to_string()).await;
    let service = bench.curl(CLIENT, "http://web.back.svc.cluster.local/get").await;
    assert_eq!(service, "200");
    the_metrics_tell(&bench).await;
    the_access_log_tells(&bench, &client.to_string()).await;
}

async fn the_dump_tells(dump: &Value, bench: &Bench, client: &str) {
    let keys: Vec<&str> = dump.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["workloads", "services", "policies", "certificates", "workloadState", "version"] {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
    let named = |list: &str, name: &str| {
        let found = dump[list].as_array().unwrap().iter().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {list}: {}", dump[list])).clone()
    };
    let pod = bench.cluster.pod_of("back", "echo").await.unwrap().metadata;
    let workload = named("workloads", pod.name.as_deref().unwrap());
    assert_eq!(workload["protocol"], "HBONE");
    assert_eq!(workload["serviceAccount"], "echo");
    assert_eq!(workload["authorizationPolicies"][0], "istio-system/istio_converted_static_strict");
    assert_eq!(named("services", "web")["hostname"], "web.back.svc.cluster.local");
    assert_eq!(named("policies", "istio_converted_static_strict")["action"], "Deny");
    let certificates = dump["certificates"].as_array().unwrap();
    let own =
        certificates.iter().find(|c| c["identity"] == "spiffe://cluster.local/ns/back/sa/echo");
    let own = own.unwrap();
    assert_eq!(own["state"], "Available", "{own}");
    for key in ["pem", "serialNumber", "validFrom", "expirationTime"] {
        assert!(own["certChain"][0][key].is_string(), "{key}: {own}");
    }
    let state = &dump["workloadState"][pod.uid.unwrap()];
    assert_eq!(state["state"], "Up");
    assert_eq!(state["info"]["name"], pod.name.unwrap());
    let inbound = state["connections"]["inbound"].as_array().unwrap();
    assert_eq!(inbound.len(), 3, "{state}");
    for connection in inbound {
        assert_eq!(connection["protocol"], "HBONE", "{connection}");
        assert!(connection["src"].as_str().unwrap().starts_with(client), "{connection}");
        assert!(connection["actualDst"].as_str().unwrap().ends_with(":7000"), "{connection}");
    }
}

/// Every label of Istio's TCP metrics, with the value of this connection.
async fn the_metrics_tell(bench: &Bench) {
    let workload = async |namespace: &str, app: &str| {
        bench.cluster.pod_of(namespace, app).await.unwrap().metadata.name.unwrap()
    };
    let (source, destination) = (workload("front", "client").await, workload("back", "web").await);
    let name_of = |pod: &str| pod.rsplitn(3, '-').last().unwrap().to_owned();
    let expected = [
        ("reporter", "destination"),
        ("source_workload", &name_of(&source)),
        ("source_canonical_service", "client"),
        ("source_canonical_revision", "v1"),
        ("source_workload_namespace", "front"),
        ("source_principal", "spiffe://cluster.local/ns/front/sa/client"),
        ("source_app", "client"),
        ("source_version", "v1"),
        ("source_cluster", "Kubernetes"),
        ("destination_service", "web.back.svc.cluster.local"),
        ("destination_service_namespace", "back"),
        ("destination_service_name", "web"),
        ("destination_workload", &name_of(&destination)),
        ("destination_canonical_service", "web"),
        ("destination_canonical_revision", "latest"),
        ("destination_workload_namespace", "back"),
        ("destination_principal", "spiffe://cluster.local/ns/back/sa/echo"),
        ("destination_app", "web"),
        ("destination_version", "latest"),
        ("destination_cluster", "Kubernetes"),
        ("request_protocol", "tcp"),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
        ("source_region", "unknown"),
        ("source_zone", "unknown"),
        ("destination_region", "unknown"),
        ("destination_zone", "unknown"),
    ];
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    for name in [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_received_bytes_total",
        "istio_tcp_sent_bytes_total",
    ] {
        let sample = async || {
            let text = bench.agent(2).metrics().await?;
            let of = |(labels, value): (BTreeMap<String, String>, f64)| {
                let mine = labels.get("destination_service_name").is_some_and(|name| name == "web");
                (mine && value > 0.0).then_some((labels, value))
            };
            Ok(samples(&text, name).into_iter().find_map(of))
        };
        let what = format!("{name} counts the connection");
        let (labels, value) =
            bench.cluster.wait_until(&what, Duration::from_secs(5), sample).await.unwrap();
        assert_eq!(labels, expected, "{name}");
        assert!(!name.contains("connections") || (value - 1.0).abs() < 1e-9, "{name}: {value}");
    }
}

/// The samples of a metric in the text format: labels and value.
fn samples(text: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let parsed = lines.filter_map(|line| {
        let (labels, value) = line.rsplit_once("} ")?;
        let labels = labels.split("\",").map(|label| {
            let (key, value) = label.split_once("=\"").unwrap();
            (key.to_owned(), value.trim_end_matches('"').to_owned())
        });
        Some((labels.collect(), value.parse().ok()?))
    });
    parsed.collect()
}

async fn the_access_log_tells(bench: &Bench, client: &str) {
    let web = bench.ip("back", "web").await;
    let line = bench.logged(2, "dst.service=\"web.back.svc.cluster.local\"").await;
    for part in [
        "access",
        "connection complete",
        &format!("src.addr={client}:"),
        "src.workload=\"client-",
        "src.namespace=\"front\"",
        "src.identity=\"spiffe://cluster.local/ns/front/sa/client\"",
        &format!("dst.addr={web}:15008"),
        &format!("dst.hbone_addr={web}:8000"),
        "dst.workload=\"web-",
        "dst.namespace=\"back\"",
        "dst.identity=\"spiffe://cluster.local/ns/back/sa/echo\"",
        "direction=\"inbound\"",
        "bytes_sent=",
        "bytes_recv=",
        "duration=\"",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}
