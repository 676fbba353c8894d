//! Names, asked by a pod that ztunnel answers and by one that ours does.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::objects::{OURS, service};
use super::super::rows::judge;
use super::super::suite::{MESH, SOON, STRICT, Suite, items};
use super::super::table::Outcome;

/// Asked for, with what `dig` is told besides.
const NAMES: [&str; 24] = [
    "server.sotto-e2e-mesh.svc.cluster.local A",
    "server.sotto-e2e-mesh.svc.cluster.local AAAA",
    "SERVER.sotto-e2e-mesh.svc.cluster.LOCAL A",
    "server.sotto-e2e-mesh.svc A",
    "server.sotto-e2e-mesh A",
    "server A",
    "+search server A",
    "+search server.sotto-e2e-strict A",
    "+search server.sotto-e2e-strict.svc A",
    "+tcp server.sotto-e2e-mesh.svc.cluster.local A",
    "headless.sotto-e2e-mesh.svc.cluster.local A",
    "headless.sotto-e2e-mesh.svc.cluster.local AAAA",
    "auto.e2e.example A",
    "auto.e2e.example AAAA",
    "fixed.e2e.example A",
    "fixed.e2e.example AAAA",
    "any.wild.e2e.example A",
    "wild.e2e.example A",
    "private.e2e.example A",
    "alias.sotto-e2e-mesh.svc.cluster.local A",
    "nothing.sotto-e2e-mesh.svc.cluster.local A",
    "server.sotto-e2e-mesh.svc.cluster.local TXT",
    "kubernetes.default.svc.cluster.local A",
    "_http._tcp.server.sotto-e2e-mesh.svc.cluster.local SRV",
];

fn entry(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": name, "namespace": namespace, "labels": { OURS: "true" } }, "spec": spec })
}

fn objects(server: &str) -> Vec<Value> {
    let ports = json!([{ "number": 80, "name": "http", "protocol": "HTTP" }]);
    let endpoints = json!([{ "address": server }]);
    let of = |host: &str, more: Value| {
        let mut spec = json!({ "hosts": [host], "ports": ports, "resolution": "STATIC", "endpoints": endpoints });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec
    };
    let mut headless = service(MESH, "headless", Some("server"));
    headless["spec"]["clusterIP"] = "None".into();
    let alias = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "alias", "namespace": MESH, "labels": { OURS: "true" } },
        "spec": { "type": "ExternalName", "externalName": "server.sotto-e2e-mesh.svc.cluster.local" } });
    vec![
        headless,
        alias,
        entry(MESH, "auto", &of("auto.e2e.example", json!({}))),
        entry(MESH, "fixed", &of("fixed.e2e.example", json!({ "addresses": ["240.9.9.9"] }))),
        entry(MESH, "wild", &of("*.wild.e2e.example", json!({ "addresses": ["240.9.9.10"] }))),
        entry(
            STRICT,
            "private",
            &of("private.e2e.example", json!({ "addresses": ["240.9.9.11"], "exportTo": ["."] })),
        ),
    ]
}

pub(super) fn answers(suite: &Suite) -> Result<Outcome> {
    let all = objects(&suite.address(MESH, "server")?);
    suite.kubectl.apply(&all)?;
    let outcome = compared(suite);
    for object in &all {
        let (kind, meta) = (&object["kind"], &object["metadata"]);
        let word = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
        let kind = if word(kind) == "serviceentry" {
            "serviceentries.networking.istio.io".to_owned()
        } else {
            word(kind)
        };
        let line = format!(
            "delete {kind} -n {} {} --ignore-not-found",
            word(&meta["namespace"]),
            word(&meta["name"])
        );
        suite.kubectl.ok(&line)?;
    }
    outcome
}

fn compared(suite: &Suite) -> Result<Outcome> {
    let clients = ["client", "client-far"];
    for client in clients {
        suite.wait("the agent answers for the mesh", SOON, || {
            let said = asked(suite, client, "auto.e2e.example A")?;
            Ok(if said.contains("240.240.") { Ok(()) } else { Err(format!("{client}: {said}")) })
        })?;
    }
    let pod = suite.pod(MESH, clients[1])?;
    let is_dual = items(&pod["status"]["podIPs"]).len() > 1;
    let (mut different, mut left_out) = (Vec::new(), Vec::new());
    let mut lines = [Vec::new(), Vec::new()];
    for name in NAMES {
        let pair = [asked(suite, clients[0], name)?, asked(suite, clients[1], name)?];
        // Addresses that the pod cannot reach are not told by ours.
        let is_reached = is_dual || !name.ends_with("AAAA") || pair[1] != "NOERROR";
        if !is_reached && pair[0] != pair[1] {
            left_out.push(name);
        } else if pair[0] != pair[1] {
            different.push(format!("{name}: {} / {}", pair[0], pair[1]));
        }
        for (lines, said) in lines.iter_mut().zip(&pair) {
            lines.push(format!("{name}: {said}"));
        }
    }
    suite.keep_pair("dns", &lines.map(|lines| lines.join("\n")))?;
    let told = if different.is_empty() { String::from("all alike") } else { different.join("; ") };
    let left_out = match left_out.as_slice() {
        [] => String::new(),
        names => format!("; of pods without IPv6, only ztunnel answers {}", names.join(", ")),
    };
    judge(different.is_empty(), format!("{} questions, {told}{left_out}", NAMES.len()))
}

/// The status, and the answers' kinds and data, of a question that a pod asks.
fn asked(suite: &Suite, client: &str, question: &str) -> Result<String> {
    let argv: Vec<&str> =
        ["dig", "+time=5", "+tries=1"].into_iter().chain(question.split(' ')).collect();
    let said = suite.kubectl.exec((MESH, client), &argv)?;
    Ok(summary(&said.out))
}

fn summary(text: &str) -> String {
    let status =
        text.lines().rev().find_map(|line| line.split_once("status: ")?.1.split(',').next());
    let mut answers = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with(';') || line.is_empty() {
            inside = line.starts_with(";; ANSWER SECTION");
        } else if inside {
            let words: Vec<_> = line.split_whitespace().collect();
            // Without how long it holds.
            if let [name, _, _, rest @ ..] = words.as_slice() {
                answers.push(format!("{} {}", name.to_lowercase(), rest.join(" ")));
            }
        }
    }
    answers.sort();
    format!("{} {}", status.unwrap_or("no answer"), answers.join(", ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn an_answer_is_its_status_and_its_records() {
        let text = "; <<>> DiG\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n;; QUESTION SECTION:\n;a.b.\tIN A\n\n\
            ;; ANSWER SECTION:\nA.b.\t\t30\tIN\tA\t10.0.0.2\na.b.\t\t30\tIN\tA\t10.0.0.1\n\n;; Query time: 1 msec\n";
        assert_eq!(summary(text), "NOERROR a.b. A 10.0.0.1, a.b. A 10.0.0.2");
        assert_eq!(summary(";; communications error to 10.96.0.10#53: timed out\n"), "no answer");
    }
}
