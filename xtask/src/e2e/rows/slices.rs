//! EndpointSlices made by hand, as operators of databases and serverless platforms make them.

use std::time::Instant;

use anyhow::Result;

use super::super::clients::Counted;
use super::super::objects;
use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite};
use super::super::table::Outcome;
use super::judge;

/// Makes a service of these endpoints, and asks it `times` times once it answers.
fn asked(suite: &Suite, name: &str, endpoints: &[(String, bool)], times: u32) -> Result<Counted> {
    let service = objects::service(MESH, name, None);
    suite.kubectl.apply(&[service, objects::slice(MESH, name, endpoints)])?;
    let host = format!("{name}.{MESH}");
    suite.reaches((MESH, "client"), &format!("http://{host}/"))?;
    let counted = suite.ask((MESH, "client"), times, (&host, 80))?;
    suite.kubectl.ok(&format!("delete service -n {MESH} {name} --wait=false"))?;
    Ok(counted)
}

pub(super) fn not_ready(suite: &Suite) -> Result<Outcome> {
    suite.kubectl.apply(&[suite.far_pod(MESH, "fenced")])?;
    suite.ready(MESH, "fenced")?;
    let fenced = suite.address(MESH, "fenced")?;
    let endpoints = [(suite.address(MESH, "server")?, true), (fenced, false)];
    let counted = asked(suite, "database", &endpoints, 30)?;
    suite.delete_pod(MESH, "fenced")?;
    judge(counted.lost_nothing() && !counted.by.contains_key("fenced"), counted.told())
}

pub(super) fn ready(suite: &Suite) -> Result<Outcome> {
    let mut leader = suite.far_pod(MESH, "leader");
    leader["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] = "/unready".into();
    suite.kubectl.apply(&[leader])?;
    let address = suite.wait("the leader runs", SOON, || {
        let pod = suite.pod(MESH, "leader")?;
        let started = pod["status"]["containerStatuses"][0]["started"] == true;
        let address = pod["status"]["podIP"].as_str().filter(|_| started);
        Ok(address.map(str::to_owned).ok_or_else(|| String::from("not yet")))
    })?;
    let counted = asked(suite, "elected", &[(address, true)], 30)?;
    suite.delete_pod(MESH, "leader")?;
    judge(counted.lost_nothing() && counted.by.contains_key("leader"), counted.told())
}

/// Of an enrolled pod that asks for mutual TLS, and of one outside of the mesh.
pub(super) fn elsewhere(suite: &Suite) -> Result<Outcome> {
    let enrolled = [(suite.address(STRICT, "server")?, true)];
    let enrolled = asked(suite, "activator", &enrolled, 10)?;
    let outside = [(suite.address(PLAIN, "server")?, true)];
    let outside = asked(suite, "legacy", &outside, 10)?;
    let seen = format!("enrolled: {}; outside: {}", enrolled.told(), outside.told());
    judge(enrolled.lost_nothing() && outside.lost_nothing(), seen)
}

pub(super) fn none(suite: &Suite) -> Result<Outcome> {
    suite.kubectl.apply(&[objects::service(MESH, "nobody", Some("nobody"))])?;
    let address = suite.wait("the service has an address", SOON, || {
        let service = suite.kubectl.get(&format!("service -n {MESH} nobody"))?.unwrap_or_default();
        let address = service["spec"]["clusterIP"].as_str().map(str::to_owned);
        Ok(address.ok_or_else(|| String::from("none yet")))
    })?;
    // Until the node has heard of the service it cannot know that nobody is behind it.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let url = if address.contains(':') {
        format!("http://[{address}]/")
    } else {
        format!("http://{address}/")
    };
    let started = Instant::now();
    let said = suite.curl((MESH, "client"), &url)?;
    let took = started.elapsed();
    suite.kubectl.ok(&format!("delete service -n {MESH} nobody --wait=false"))?;
    let seen =
        format!("exit {} after {:.1} s: {}", said.code, took.as_secs_f64(), said.last_line());
    judge([7, 56].contains(&said.code) && took.as_secs() < 3, seen)
}
