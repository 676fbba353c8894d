//! The pages of both kinds of agents: what tools read there.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::mesh::{Agent, NAMESPACE};
use super::super::process;
use super::super::rows::judge;
use super::super::suite::{MESH, SOON, Suite};
use super::super::table::Outcome;
use super::shape;

/// Where admin pages are forwarded to, on the machine that runs this: this port, and the next.
const FORWARDED: u16 = 15900;
/// Metrics of ztunnel's own runtime.
const OF_ITS_RUNTIME: &str = "tokio_";
/// Questions for names are not counted by who asks, so that a page has a few lines of them and not some of each workload.
fn is_left_out(metric: &str, label: &str) -> bool {
    metric.starts_with("istio_dns_") && label.starts_with("source_")
}

impl Suite {
    /// What the admin page of an agent says.
    fn dump(&self, agent: &Agent, port: u16) -> Result<Value> {
        let ports = format!("{port}:15000");
        let forward =
            self.kubectl.start(&["port-forward", "-n", NAMESPACE, &agent.name, &ports])?;
        let page = self.wait("the page is forwarded", SOON, || {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "5", &format!("http://127.0.0.1:{port}/config_dump")]);
            let said = process::run(&mut curl, "", Duration::from_secs(10))?;
            Ok(if said.code == 0 { Ok(said.out) } else { Err(said.last_line().to_owned()) })
        });
        drop(forward);
        serde_json::from_str(&page?).with_context(|| format!("config_dump of {}", agent.name))
    }
}

pub(super) fn dumps(suite: &Suite) -> Result<Outcome> {
    let [near, far] = [suite.any_agent_on(&suite.near)?, suite.any_agent_on(&suite.far)?];
    let [theirs, ours] = [suite.dump(&near, FORWARDED)?, suite.dump(&far, FORWARDED + 1)?];
    suite.keep_pair("config_dump", &[format!("{theirs:#}"), format!("{ours:#}")])?;
    let missing = shape::missing(&theirs, &ours);
    let count = shape::paths(&theirs).len();
    let told = if missing.is_empty() { String::from("none") } else { missing.join(", ") };
    let other = theirs["version"] != ours["version"];
    judge(missing.is_empty() && other, format!("{count} fields of ztunnel's; missing: {told}"))
}

pub(super) fn metrics(suite: &Suite) -> Result<Outcome> {
    // Something of every kind: answered, and refused.
    for (client, server) in [("client", "server-near"), ("client-far", "server")] {
        suite.reaches((MESH, client), &format!("http://{server}.{MESH}/"))?;
    }
    let pages = [
        suite.metrics(&suite.any_agent_on(&suite.near)?)?,
        suite.metrics(&suite.any_agent_on(&suite.far)?)?,
    ];
    suite.keep_pair("metrics", &[pages[0].join("\n"), pages[1].join("\n")])?;
    let [theirs, ours] = pages.map(|page| shape::metrics(&page));
    let mut missing = Vec::new();
    let wanted = theirs.iter().filter(|(name, _)| !name.starts_with(OF_ITS_RUNTIME));
    for (name, labels) in wanted.clone() {
        match ours.get(name) {
            None => missing.push(name.clone()),
            Some(of_ours) => {
                let labels = labels.difference(of_ours).filter(|label| !is_left_out(name, label));
                missing.extend(labels.map(|label| format!("{name}{{{label}}}")));
            }
        }
    }
    let told = if missing.is_empty() {
        String::from("none is missing")
    } else {
        format!("missing: {}", missing.join(", "))
    };
    judge(missing.is_empty(), format!("{} metrics of ztunnel's, {told}", wanted.count()))
}
