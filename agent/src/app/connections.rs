//! `sotto connections`: what agents carry, by whom and to whom.
#![expect(clippy::print_stdout, reason = "this command answers on standard output")]

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::ask;
use super::table::Table;
use crate::config::AskArgs;

/// Asks all agents and prints their open connections.
pub(super) fn run(args: &AskArgs) -> ExitCode {
    let asked = ask::block_on(ask::each(&args.admin, async |admin| {
        ask::get::<Dump>(admin, "/config_dump").await
    }));
    let printed = asked.and_then(|dumps| {
        let report = Report::new(dumps);
        Ok(if args.json { serde_json::to_string_pretty(&report)? } else { report.to_string() })
    });
    super::exit(printed.map(|text| println!("{}", text.trim_end())))
}

/// What is read of an agent's dump.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    config: Config,
    workload_state: BTreeMap<String, Workload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    node_name: String,
}

#[derive(Debug, Deserialize)]
struct Workload {
    info: Info,
    connections: Lists,
}

#[derive(Debug, Deserialize)]
struct Info {
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Lists {
    inbound: Vec<Connection>,
    outbound: Vec<Connection>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    src: String,
    original_dst: String,
    actual_dst: String,
    protocol: String,
    client_identity: Option<String>,
    server_identity: Option<String>,
    from_client_bytes: u64,
    from_server_bytes: u64,
}

/// What all agents told, together.
#[derive(Debug, Serialize)]
struct Report {
    connections: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    node: String,
    pod: String,
    direction: &'static str,
    #[serde(flatten)]
    connection: Connection,
}

impl Report {
    fn new(mut dumps: Vec<Dump>) -> Self {
        // An agent that was asked twice counts once.
        dumps.sort_by(|a, b| a.config.node_name.cmp(&b.config.node_name));
        dumps.dedup_by(|a, b| a.config.node_name == b.config.node_name);
        let mut rows = Vec::new();
        for Dump { config, workload_state } in dumps {
            for Workload { info, connections } in workload_state.into_values() {
                let pod = format!("{}/{}", info.namespace, info.name);
                let row = |direction| {
                    let (node, pod) = (config.node_name.clone(), pod.clone());
                    move |connection| Row {
                        node: node.clone(),
                        pod: pod.clone(),
                        direction,
                        connection,
                    }
                };
                rows.extend(connections.inbound.into_iter().map(row("in")));
                rows.extend(connections.outbound.into_iter().map(row("out")));
            }
        }
        let key = |row: &Row| {
            (row.node.clone(), row.pod.clone(), row.direction, row.connection.src.clone())
        };
        rows.sort_by_cached_key(key);
        Self { connections: rows }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["NODE", "POD", "", "CLIENT", "SERVER", "BY", "SENT", "RECEIVED"];
        let rows = self.connections.iter().map(|Row { node, pod, direction, connection }| {
            let who = |address: &str, identity: &Option<String>| match identity {
                Some(identity) => format!("{address} {}", short(identity)),
                None => address.to_owned(),
            };
            [
                node.clone(),
                pod.clone(),
                (*direction).to_owned(),
                who(&connection.src, &connection.client_identity),
                who(&connection.actual_dst, &connection.server_identity),
                connection.protocol.clone(),
                connection.from_client_bytes.to_string(),
                connection.from_server_bytes.to_string(),
            ]
        });
        write!(f, "{}", Table::new(head).with(rows))?;
        match self.connections.len() {
            0 => writeln!(f, "Nothing is open."),
            _ => Ok(()),
        }
    }
}

/// A SPIFFE URI without its scheme, which all have.
fn short(identity: &str) -> &str {
    identity.strip_prefix("spiffe://").unwrap_or(identity)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump(node: &str) -> Dump {
        let open = |src: &str| {
            json!({ "src": src, "originalDst": "10.0.0.9:80", "actualDst": "10.0.0.2:80",
                "protocol": "HBONE", "clientIdentity": "spiffe://cluster.local/ns/a/sa/b",
                "fromClientBytes": 7, "fromServerBytes": 9 })
        };
        let pod = json!({ "state": "Up", "info": { "name": "web-1", "namespace": "shop" },
            "connections": { "inbound": [open("10.0.0.3:9"), open("10.0.0.3:1")], "outbound": [] } });
        let dump =
            json!({ "config": { "nodeName": node }, "workloadState": { "uid": pod }, "more": 1 });
        serde_json::from_value(dump).unwrap()
    }

    #[test]
    fn connections_are_listed_with_who_is_who() {
        let told = Report::new(vec![dump("node1"), dump("node1")]).to_string();
        let rows: Vec<_> = told.lines().skip(1).collect();
        assert_eq!(rows.len(), 2, "{told}");
        assert_eq!(
            rows[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "node1 shop/web-1 in 10.0.0.3:1 cluster.local/ns/a/sa/b 10.0.0.2:80 HBONE 7 9"
        );
        assert!(Report::new(vec![]).to_string().contains("Nothing is open"));
    }
}
