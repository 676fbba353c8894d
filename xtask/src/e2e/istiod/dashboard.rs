//! Istio's own dashboard of ztunnels: whether each of its graphs has something to draw.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::rows::judge;
use super::super::suite::{MESH, Suite, items};
use super::super::table::Outcome;
use super::padlocks::{page, under_traffic};

/// As Istio keeps it (`manifests/addons/dashboards`), in the folder of the real istiod.
const FILE: &str = "ztunnel-dashboard.gen.json";
/// Of the kubelet, and none of an agent's.
const OF_CONTAINERS: &str = "container_";
/// What Grafana says for this, by how often is scraped.
const INTERVAL: (&str, &str) = ("$__rate_interval", "30s");
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn graphs(suite: &Suite) -> Result<Outcome> {
    let istiod = suite.istiod()?;
    let Some(prometheus) = &istiod.prometheus else {
        return Ok(Outcome::NotRun(String::from("no --prometheus")));
    };
    let path = istiod.folder.join(FILE);
    if !path.is_file() {
        return Ok(Outcome::NotRun(format!("there is no {}", path.display())));
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let dashboard: Value =
        serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
    let asked = queries(&dashboard);
    ensure!(!asked.is_empty(), "{} asks nothing of agents", path.display());
    let url = format!("{}/api/v1/query", prometheus.trim_end_matches('/'));
    // Off by default, as one of the graphs is of names that were asked for.
    suite.variables("DNS_CAPTURE=true")?;
    let outcome = suite.agents_rolled_out().and_then(|()| drawn(suite, &url, &asked));
    suite.variables("DNS_CAPTURE-")?;
    suite.agents_rolled_out()?;
    suite.reaches((MESH, "client"), "http://server.sotto-e2e-mesh/")?;
    outcome
}

fn drawn(suite: &Suite, url: &str, asked: &BTreeSet<String>) -> Result<Outcome> {
    under_traffic(suite, || {
        suite.wait("every graph has something to draw", PATIENCE, || {
            let mut empty = Vec::new();
            for query in asked {
                let answer = page(url, &[("query", query)])?;
                if items(&answer["data"]["result"]).is_empty() {
                    empty.push(query.as_str());
                }
            }
            Ok(if empty.is_empty() { Ok(()) } else { Err(empty.join("; ")) })
        })
    })?;
    judge(true, format!("{} of {} queries have an answer", asked.len(), asked.len()))
}

/// What a dashboard asks of agents, each once.
fn queries(of: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let inner: Vec<&Value> = match of {
        Value::Array(all) => all.iter().collect(),
        Value::Object(fields) => {
            let query = fields.get("expr").and_then(Value::as_str);
            let of_agents = query.filter(|query| !query.contains(OF_CONTAINERS));
            found.extend(of_agents.map(|query| query.replace(INTERVAL.0, INTERVAL.1)));
            fields.values().collect()
        }
        _ => Vec::new(),
    };
    found.extend(inner.into_iter().flat_map(queries));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::queries;

    #[test]
    fn queries_are_found_wherever_they_are() {
        let dashboard = json!({ "panels": [
            { "targets": [{ "expr": "sum(rate(a[$__rate_interval]))" }, { "expr": "container_b" }] },
            { "panels": [{ "targets": [{ "expr": "c" }] }] },
        ] });
        let found: Vec<String> = queries(&dashboard).into_iter().collect();
        assert_eq!(found, ["c", "sum(rate(a[30s]))"]);
    }
}
