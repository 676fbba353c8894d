//! Which edges Kiali shows a padlock on, by a real Prometheus and a real Kiali that see the cluster.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::clients::Counted;
use super::super::process;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, Suite, items};
use super::super::table::Outcome;

/// Over how long rates are asked for: some scrapes.
const WINDOW: u32 = 30;
/// How long the figures may take to be there.
const PATIENCE: Duration = Duration::from_secs(90);
/// What Kiali groups edges by (its `security_policy.go`).
const GROUPS: &str = "source_cluster,source_workload_namespace,source_workload,source_canonical_service,\
    source_canonical_revision,source_principal,destination_cluster,destination_service_namespace,\
    destination_service_name,destination_workload_namespace,destination_workload,destination_canonical_service,\
    destination_canonical_revision,destination_principal,connection_security_policy";

/// What a page of the user's own says, as JSON.
pub(super) fn page(url: &str, query: &[(&str, &str)]) -> Result<Value> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "15", "-G", url]);
    for (name, value) in query {
        curl.args(["--data-urlencode", &format!("{name}={value}")]);
    }
    let said = process::run(&mut curl, "", Duration::from_secs(20))?;
    if said.code != 0 {
        bail!("{url}: exit {}: {}", said.code, said.last_line());
    }
    serde_json::from_str(&said.out).with_context(|| format!("{url}: {}", said.last_line()))
}

/// Has a pod of the mesh and one outside ask the server of the mesh, as long as `look` takes.
pub(super) fn under_traffic<T>(suite: &Suite, look: impl FnOnce() -> Result<T>) -> Result<T> {
    let host = format!("server.{MESH}.svc.cluster.local");
    let meshed = suite.load((MESH, "client"), "padlocks", (&host, 80))?;
    let plain = suite.load((PLAIN, "client"), "padlocks", (&host, 80))?;
    let seen = look();
    for load in [meshed, plain] {
        let counted: Counted = load.stop()?;
        if !counted.lost_nothing() {
            bail!("{}", counted.told());
        }
    }
    seen
}

pub(super) fn edges(suite: &Suite) -> Result<Outcome> {
    let Some(prometheus) = &suite.istiod()?.prometheus else {
        return Ok(Outcome::NotRun(String::from("no --prometheus")));
    };
    let url = format!("{}/api/v1/query", prometheus.trim_end_matches('/'));
    let of = |from: &str| {
        format!(
            "sum(rate(istio_tcp_sent_bytes_total{{reporter=\"destination\",{from}}}[{WINDOW}s])) by ({GROUPS}) > 0"
        )
    };
    let outside = of(&format!(
        "source_workload_namespace!=\"{MESH}\",destination_service_namespace=\"{MESH}\""
    ));
    let inside = of(&format!("source_workload_namespace=\"{MESH}\""));
    let seen = under_traffic(suite, || {
        suite.wait("both edges have figures", PATIENCE, || {
            let [outside, inside] = [
                policy(&page(&url, &[("query", &outside)])?, PLAIN),
                policy(&page(&url, &[("query", &inside)])?, MESH),
            ];
            Ok(match (outside, inside) {
                (Some(outside), Some(inside)) => Ok((outside, inside)),
                seen => Err(format!("{seen:?}")),
            })
        })
    })?;
    let told = format!("from outside: {}; within the mesh: {}", seen.0, seen.1);
    judge(seen.0 == "unknown" && seen.1 == "mutual_tls", told)
}

/// The security policy of the edge from the client of a namespace, as Prometheus answers.
fn policy(answer: &Value, namespace: &str) -> Option<String> {
    let of = items(&answer["data"]["result"]).iter().map(|one| &one["metric"]);
    let mut of = of.filter(|labels| {
        labels["source_workload_namespace"] == namespace
            && labels["destination_workload"] == "server"
    });
    of.next()?["connection_security_policy"].as_str().map(str::to_owned)
}

pub(super) fn graph(suite: &Suite) -> Result<Outcome> {
    let Some(kiali) = &suite.istiod()?.kiali else {
        return Ok(Outcome::NotRun(String::from("no --kiali")));
    };
    let url = format!("{}/api/namespaces/graph", kiali.trim_end_matches('/'));
    let namespaces = format!("{MESH},{PLAIN}");
    let duration = format!("{WINDOW}s");
    let query = [
        ("namespaces", namespaces.as_str()),
        ("graphType", "workload"),
        ("duration", &duration),
        ("appenders", "securityPolicy,deadNode"),
        ("rateTcp", "sent"),
        ("ambientTraffic", "ztunnel"),
    ];
    let (meshed, plain) = under_traffic(suite, || {
        suite.wait("the graph has both edges", PATIENCE, || {
            let graph = page(&url, &query)?;
            Ok(match [edge(&graph, MESH), edge(&graph, PLAIN)] {
                [Some(meshed), Some(plain)] => Ok((meshed, plain)),
                seen => Err(format!(
                    "{seen:?} of {}",
                    graph.to_string().chars().take(2000).collect::<String>()
                )),
            })
        })
    })?;
    let mtls = |edge: &Value| edge["isMTLS"].as_str().map(str::to_owned);
    let told = format!(
        "{MESH}/client to server: isMTLS {:?}, {}; {PLAIN}/client to server: isMTLS {:?}",
        mtls(&meshed),
        meshed["sourcePrincipal"],
        mtls(&plain)
    );
    judge(mtls(&meshed).as_deref() == Some("100") && mtls(&plain).is_none(), told)
}

/// The edge from the client of a namespace to the server of the mesh, in a graph of workloads.
fn edge(graph: &Value, namespace: &str) -> Option<Value> {
    let node = |namespace: &str, workload: &str| {
        let all = items(&graph["elements"]["nodes"]).iter().map(|node| &node["data"]);
        let mut fitting =
            all.filter(|node| node["namespace"] == namespace && node["workload"] == workload);
        fitting.next().map(|node| node["id"].clone())
    };
    let (from, to) = (node(namespace, "client")?, node(MESH, "server")?);
    let mut edges = items(&graph["elements"]["edges"]).iter().map(|edge| &edge["data"]);
    edges.rfind(|edge| edge["source"] == from && edge["target"] == to).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::suite::{MESH, PLAIN};
    use super::{edge, policy};

    #[test]
    fn edges_are_found_by_their_ends() {
        let node = |id: &str, namespace: &str, workload: &str| json!({ "data": { "id": id, "namespace": namespace, "workload": workload } });
        let graph = json!({ "elements": {
            "nodes": [node("a", MESH, "client"), node("b", MESH, "server"), node("c", PLAIN, "client")],
            "edges": [{ "data": { "source": "a", "target": "b", "isMTLS": "100" } }, { "data": { "source": "c", "target": "b" } }],
        } });
        assert_eq!(edge(&graph, MESH).expect("it is there")["isMTLS"], "100");
        assert!(edge(&graph, PLAIN).expect("it is there")["isMTLS"].is_null());
        assert_eq!(edge(&json!({}), MESH), None);
    }

    #[test]
    fn an_edges_policy_is_its_label() {
        let labels = json!({ "source_workload_namespace": PLAIN, "destination_workload": "server", "connection_security_policy": "unknown" });
        let answer = json!({ "data": { "result": [{ "metric": labels, "value": [0, "1"] }] } });
        assert_eq!(policy(&answer, PLAIN).as_deref(), Some("unknown"));
        assert_eq!(policy(&answer, MESH), None);
    }
}
