//! From a node of ztunnel's to ours, and back.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::super::clients::Counted;
use super::super::objects::OURS;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite};
use super::super::table::Outcome;

/// A client of each node, and the server of the other.
const WAYS: [(&str, &str); 2] = [("client", "server"), ("client-far", "server-near")];

fn url(namespace: &str, server: &str) -> String {
    format!("http://{server}.{namespace}/")
}

pub(super) fn both_ways(suite: &Suite) -> Result<Outcome> {
    let identity = format!("spiffe://cluster.local/ns/{MESH}/sa/default");
    let (near, far) = (suite.any_agent_on(&suite.near)?, suite.any_agent_on(&suite.far)?);
    let mut told = Vec::new();
    for ((client, server), (out, inside)) in WAYS.into_iter().zip([(&near, &far), (&far, &near)]) {
        suite.reaches((MESH, client), &url(MESH, server))?;
        let (source, destination) =
            (format!("src.workload={client} "), format!("dst.workload={server} "));
        for (agent, direction, whose) in [
            (inside, "direction=inbound", "src.identity"),
            (out, "direction=outbound", "dst.identity"),
        ] {
            let whose = format!("{whose}={identity}");
            let words = [source.as_str(), &destination, direction, &whose];
            suite.wait("its agent logs who was at the other end", SOON, || {
                let lines = suite.log_lines(agent, &words)?;
                Ok(if lines.is_empty() {
                    Err(format!("{}: {words:?}", agent.name))
                } else {
                    Ok(())
                })
            })?;
        }
        let labels = [
            "connection_security_policy=\"mutual_tls\"",
            &format!("source_workload=\"{client}\""),
            &format!("destination_workload=\"{server}\""),
        ];
        let name = "istio_tcp_connections_opened_total";
        let (sent, taken) = suite.wait("both count it", SOON, || {
            let counts = (suite.metric(out, name, &labels)?, suite.metric(inside, name, &labels)?);
            Ok(if counts.0 > 0.0 && counts.1 > 0.0 {
                Ok(counts)
            } else {
                Err(format!("{counts:?}"))
            })
        })?;
        told.push(format!("{client} to {server}: {sent} and {taken} over mutual TLS"));
    }
    judge(true, format!("{}; both ends logged with {identity}", told.join("; ")))
}

pub(super) fn closed(suite: &Suite) -> Result<Outcome> {
    let mut told = Vec::new();
    for (client, server) in WAYS {
        let server = url(STRICT, server);
        let said = suite.curl((PLAIN, "client"), &server)?;
        let inside = suite.curl((MESH, client), &server)?;
        told.push((
            said.code == 56 && inside.out == "200",
            format!("{server}: exit {} outside, {} inside", said.code, inside.out),
        ));
    }
    let well = told.iter().all(|(well, _)| *well);
    judge(well, told.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("; "))
}

pub(super) fn allowed(suite: &Suite) -> Result<Outcome> {
    let only = |namespace: &str| {
        let from = json!([{ "source": { "principals": [format!("cluster.local/ns/{namespace}/sa/default")] } }]);
        json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "only", "namespace": STRICT, "labels": { OURS: "true" } },
            "spec": { "rules": [{ "from": from }] } })
    };
    let mut told = Vec::new();
    let outcome =
        [(STRICT, "exit 56"), (MESH, "200")].into_iter().try_for_each(|(named, expected)| {
            suite.kubectl.apply(&[only(named)])?;
            for (client, server) in WAYS {
                let what = format!("{client} is answered {expected}");
                let said = suite.wait(&what, Duration::from_secs(30), || {
                    let said = suite.curl((MESH, client), &url(STRICT, server))?;
                    let seen =
                        if said.code == 0 { said.out } else { format!("exit {}", said.code) };
                    Ok(if seen == expected { Ok(seen) } else { Err(seen) })
                })?;
                told.push(format!("{client} to {server}, {named} named: {said}"));
            }
            anyhow::Ok(())
        });
    suite
        .kubectl
        .ok(&format!("delete authorizationpolicies.security.istio.io -n {STRICT} only"))?;
    outcome?;
    judge(true, told.join("; "))
}

pub(super) fn held(suite: &Suite) -> Result<Outcome> {
    let mut loads = Vec::new();
    for (client, server) in WAYS {
        let host = format!("{server}.{MESH}");
        loads.push(suite.keep((MESH, client), "beside", 20, (&host, 80))?);
        loads.push(suite.load((MESH, client), "beside-short", (&host, 80))?);
    }
    std::thread::sleep(Duration::from_secs(15));
    let counted =
        loads.into_iter().map(|load| load.stop::<Counted>()).collect::<Result<Vec<_>>>()?;
    let told: Vec<_> = counted.iter().map(Counted::told).collect();
    judge(counted.iter().all(Counted::lost_nothing), told.join("; "))
}
