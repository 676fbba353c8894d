//! istioctl's questions to agents, which it takes for ztunnels.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::super::mesh::NAMESPACE;
use super::super::rows::judge;
use super::super::suite::{MESH, Suite, items};
use super::super::table::Outcome;

impl Suite {
    /// What `istioctl ztunnel-config` says, as JSON.
    pub(super) fn told(&self, args: &[&str]) -> Result<Value> {
        let all: Vec<&str> =
            std::iter::once("ztunnel-config").chain(args.iter().copied()).collect();
        let said = self.istioctl(&all)?;
        if said.code != 0 {
            bail!("istioctl {}: exit {}: {}", all.join(" "), said.code, said.last_line());
        }
        serde_json::from_str(&said.out).with_context(|| format!("istioctl {}", all.join(" ")))
    }
}

/// Of a list, the one of the suite's namespace with this name.
fn ours<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    items(list).iter().find(|one| one["namespace"] == MESH && one["name"] == name)
}

pub(super) fn workload(suite: &Suite) -> Result<Outcome> {
    let all = suite.told(&["workload", "--node", &suite.near, "-o", "json"])?;
    let server = ours(&all, "server").cloned().unwrap_or_default();
    let seen = format!(
        "{} workloads; server: {} of {} on {}",
        items(&all).len(),
        server["protocol"],
        server["serviceAccount"],
        server["node"]
    );
    judge(server["protocol"] == "HBONE" && server["node"] == *suite.far, seen)
}

pub(super) fn service(suite: &Suite) -> Result<Outcome> {
    let all = suite.told(&["service", "--node", &suite.near, "-o", "json"])?;
    let server = ours(&all, "server").cloned().unwrap_or_default();
    let endpoints = server["endpoints"].as_object().map_or(0, serde_json::Map::len);
    let seen = format!(
        "{} services; server: ports {}, {endpoints} endpoints, {}, {}",
        items(&all).len(),
        server["ports"],
        server["visibility"],
        server["ipFamilies"]
    );
    judge(endpoints == 1 && server["visibility"] == "Public", seen)
}

pub(super) fn policy(suite: &Suite) -> Result<Outcome> {
    let all = suite.told(&["policy", "--node", &suite.far, "-o", "json"])?;
    let names: Vec<String> =
        items(&all).iter().map(|p| format!("{} {}", p["name"], p["action"])).collect();
    let strict = names.iter().any(|name| name.contains("istio_converted_static_strict"));
    judge(strict, names.join(", "))
}

pub(super) fn certificate(suite: &Suite) -> Result<Outcome> {
    let all = suite.told(&["certificate", "--node", &suite.far, "-o", "json"])?;
    let ours = items(&all).iter().find(|c| {
        c["identity"]
            .as_str()
            .is_some_and(|identity| identity.ends_with(&format!("/ns/{MESH}/sa/default")))
    });
    let ours = ours.cloned().unwrap_or_default();
    let (chain, roots) = (items(&ours["certChain"]).len(), items(&ours["rootCerts"]).len());
    let seen =
        format!("{}: {}, {chain} in its chain, {roots} roots", ours["identity"], ours["state"]);
    judge(ours["state"] == "Available" && chain > 0 && roots > 0, seen)
}

pub(super) fn connections(suite: &Suite) -> Result<Outcome> {
    let hold = "import socket, time; s = socket.create_connection(('server.sotto-e2e-mesh', 80)); time.sleep(40)";
    let held =
        suite.kubectl.exec_start((MESH, "client"), &["timeout", "45", "python3", "-c", hold])?;
    let found = suite.wait("the connection is listed", super::super::suite::SOON, || {
        let said = suite.istioctl(&["ztunnel-config", "connections", "--node", &suite.far])?;
        let line = said.out.lines().find(|line| line.contains("server.sotto-e2e-mesh"));
        Ok(line
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .ok_or_else(|| said.out.clone()))
    });
    drop(held);
    let found = found?;
    judge(found.contains("HBONE") && found.contains("Inbound"), found)
}

pub(super) fn all(suite: &Suite) -> Result<Outcome> {
    let all = suite.told(&["all", "--node", &suite.near, "-o", "json"])?;
    let kinds = ["workloads", "services", "policies", "certificates"];
    let counts: Vec<(&str, usize)> = kinds.map(|kind| (kind, items(&all[kind]).len())).to_vec();
    let seen = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>();
    judge(counts.iter().all(|(_, count)| *count > 0), seen.join(", "))
}

pub(super) fn log(suite: &Suite) -> Result<Outcome> {
    let agent = format!("{}.{NAMESPACE}", suite.agent_on(&suite.near)?.name);
    let mut told = Vec::new();
    let mut well = true;
    for level in [None, Some("debug"), Some("info")] {
        let level = level.map(|level| format!("--level={level}"));
        let mut args = vec!["ztunnel-config", "log", agent.as_str()];
        args.extend(level.as_deref());
        let said = suite.istioctl(&args)?;
        well &= said.code == 0;
        told.push(said.last_line().trim().to_owned());
    }
    judge(well && told[1].contains("debug") && !told[2].contains("debug"), told.join("; "))
}

pub(super) fn proxy_status(suite: &Suite) -> Result<Outcome> {
    let said = suite.istioctl(&["proxy-status"])?;
    let agents = suite.agents()?;
    let listed = |name: &str| {
        let line = said.out.lines().find(|line| line.starts_with(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let lines: Vec<String> = agents.iter().filter_map(|agent| listed(&agent.name)).collect();
    let well = lines.len() == agents.len() && lines.iter().all(|line| line.contains("WADS,WDS"));
    judge(well, lines.first().cloned().unwrap_or_else(|| said.last_line().to_owned()))
}

pub(super) fn analyze(suite: &Suite) -> Result<Outcome> {
    let said = suite.istioctl(&["analyze", "--all-namespaces"])?;
    let errors = said.out.lines().filter(|line| line.starts_with("Error")).count();
    judge(said.code == 0 && errors == 0, format!("exit {}: {}", said.code, said.last_line()))
}

pub(super) fn bug_report(suite: &Suite) -> Result<Outcome> {
    let folder = suite.root.join("target/e2e/bug-report");
    std::fs::create_dir_all(&folder)?;
    // It removes the folder that it works in.
    let work = folder.join("work").display().to_string();
    let out = folder.display().to_string();
    let args = ["bug-report", "--dir", &work, "--output-dir", &out, "--timeout", "2m"];
    let said = suite.istioctl(&args)?;
    let names = inside(&folder.join("bug-report.tar.gz"))
        .with_context(|| format!("exit {}: {}", said.code, said.last_line()))?;
    let of_agents: Vec<&String> = names.iter().filter(|name| name.contains("/ztunnel-")).collect();
    let count = |what: &str| of_agents.iter().filter(|name| name.contains(what)).count();
    let (logs, dumps) = (count(".log"), count("config_dump"));
    let seen = format!(
        "exit {}; {} files, {} of agents: {logs} logs, {dumps} dumps of their state",
        said.code,
        names.len(),
        of_agents.len(),
    );
    judge(said.code == 0 && logs > 0 && dumps > 0, seen)
}

/// The files of an archive.
fn inside(path: &Path) -> Result<Vec<String>> {
    let file = File::open(path).with_context(|| format!("there is no {}", path.display()))?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut names = Vec::new();
    for entry in archive.entries()? {
        names.push(entry?.path()?.display().to_string());
    }
    Ok(names)
}
