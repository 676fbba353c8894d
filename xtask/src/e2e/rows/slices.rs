//! EndpointSlices made by hand, as operators of databases and serverless platforms make them.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::clients::{Counted, in_url};
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

/// As init containers wait for a database.
pub(super) fn awaited(suite: &Suite) -> Result<Outcome> {
    suite.kubectl.apply(&[objects::service(MESH, "awaited", Some("awaited"))])?;
    let address = service_address(suite, "awaited")?;
    std::thread::sleep(Duration::from_secs(3));
    let url = format!("http://{}/", in_url(&address));
    let line = format!(
        "n=0; until nc -z -w 2 {address} 80; do n=$((n+1)); [ $n -lt 400 ] || exit 9; sleep 0.25; done; echo $n; \
         curl -sS -o /dev/null -w '%{{http_code}}' --max-time 10 {url}"
    );
    let waiting = suite.kubectl.exec_start((MESH, "client"), &["sh", "-c", &line])?;
    std::thread::sleep(Duration::from_secs(5));
    suite.kubectl.apply(&[suite.far_pod(MESH, "awaited")])?;
    suite.ready(MESH, "awaited")?;
    let said = waiting.finish(Duration::from_secs(60))?;
    suite.kubectl.ok(&format!("delete service -n {MESH} awaited --wait=false"))?;
    suite.delete_pod(MESH, "awaited")?;
    let (refused, answer) = said.out.split_once('\n').unwrap_or_default();
    let seen = format!("refused {refused} times, then curl got {answer} {}", said.err.trim());
    judge(answer == "200" && refused.parse::<u32>().is_ok_and(|times| times >= 10), seen)
}

fn service_address(suite: &Suite, name: &str) -> Result<String> {
    suite.wait("the service has an address", SOON, || {
        let service = suite.kubectl.get(&format!("service -n {MESH} {name}"))?.unwrap_or_default();
        let address = service["spec"]["clusterIP"].as_str().map(str::to_owned);
        Ok(address.ok_or_else(|| String::from("none yet")))
    })
}

pub(super) fn none(suite: &Suite) -> Result<Outcome> {
    suite.kubectl.apply(&[objects::service(MESH, "nobody", Some("nobody"))])?;
    let address = service_address(suite, "nobody")?;
    // Until the node has heard of the service it cannot know that nobody is behind it.
    std::thread::sleep(Duration::from_secs(3));
    let started = Instant::now();
    let said = suite.curl((MESH, "client"), &format!("http://{}/", in_url(&address)))?;
    let took = started.elapsed();
    suite.kubectl.ok(&format!("delete service -n {MESH} nobody --wait=false"))?;
    let seen =
        format!("exit {} after {:.1} s: {}", said.code, took.as_secs_f64(), said.last_line());
    judge([7, 56].contains(&said.code) && took.as_secs() < 3, seen)
}
