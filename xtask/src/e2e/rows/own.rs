//! Nothing of a pod's own is taken: ports, addresses, routing tables.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::objects::{MODE, PORT, with_net_admin};
use super::super::suite::{MESH, PLAIN, Suite};
use super::super::table::Outcome;
use super::judge;

/// Where every enrolled pod takes the mesh's connections.
const HBONE: u16 = 15_008;
/// What the agent, and Istio's proxies, listen on elsewhere.
const PORTS: [u16; 5] = [15_000, 15_001, 15_006, 15_020, 15_021];

pub(super) fn listeners(suite: &Suite) -> Result<Outcome> {
    let mut pod = suite.far_pod(MESH, "ports");
    let command = &mut pod["spec"]["containers"][0]["command"];
    let command = command.as_array_mut().context("the pod has a command")?;
    command.extend(PORTS.map(|port| json!(port.to_string())));
    suite.kubectl.apply(&[pod])?;
    suite.ready(MESH, "ports")?;
    suite.captured(MESH, "ports")?;
    let address = suite.address(MESH, "ports")?;
    let mut told = Vec::new();
    let mut all = true;
    for port in PORTS {
        let counted = suite.ask((MESH, "client"), 3, (&address, port))?;
        all &= counted.lost_nothing();
        told.push(format!("{port}: {} of {}", counted.answered, counted.asked));
    }
    suite.delete_pod(MESH, "ports")?;
    judge(all, told.join(", "))
}

/// Ports of connections to stand-ins that the application itself has closed first.
fn closed_first(sockets: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut fields = line.split_whitespace();
        let (state, own, peer) = (fields.next()?, fields.nth(2)?, fields.next()?);
        let to_stand_in = ["127.", "[100:", "[::ffff:127."].iter().any(|of| peer.starts_with(of));
        let port = own.rsplit(':').next()?.parse().ok()?;
        (state == "TIME-WAIT" && to_stand_in).then_some(port)
    };
    sockets.lines().filter_map(port).collect()
}

pub(super) fn any_port(suite: &Suite) -> Result<Outcome> {
    // Of its own: ports of connections that an application has closed first are in use for a while, with a mesh or without.
    suite.kubectl.apply(&[suite.near_pod(MESH, "any")])?;
    suite.ready(MESH, "any")?;
    suite.captured(MESH, "any")?;
    for host in ["server.sotto-e2e-strict", "server.sotto-e2e-plain"] {
        suite.reaches((MESH, "any"), &format!("http://{host}/"))?;
        suite.ask((MESH, "any"), 10, (host, 80))?;
    }
    let argv = ["python3", "/e2e/pod.py", "ports", "1024", "65535"];
    let said = suite.kubectl.exec((MESH, "any"), &argv)?;
    let found: Value = serde_json::from_str(said.out.trim())
        .with_context(|| format!("exit {}: {}", said.code, said.last_line()))?;
    let sockets = suite.kubectl.exec((MESH, "any"), &["ss", "-Htan"])?;
    let closed = closed_first(&sockets.out);
    let taken = found["taken"].as_array().context("no list of ports")?.iter();
    let taken: Vec<&Value> =
        taken.filter(|port| !closed.iter().any(|one| **port == json!(one))).collect();
    let expected = taken == [&json!(PORT), &json!(HBONE)];
    let mut seen = format!("of 1024 to 65535 in use: {}", json!(taken));
    if !expected {
        seen.push_str(&format!("; the pod's sockets: {}", sockets.out.replace('\n', "; ")));
    }
    suite.delete_pod(MESH, "any")?;
    judge(expected, seen)
}

pub(super) fn lo_address(suite: &Suite) -> Result<Outcome> {
    const ADDRESS: &str = "192.0.2.77";
    suite.kubectl.apply(&[with_net_admin(suite.near_pod(MESH, "on-lo"))])?;
    suite.ready(MESH, "on-lo")?;
    suite.captured(MESH, "on-lo")?;
    ip(suite, MESH, "on-lo", &format!("addr add {ADDRESS}/32 dev lo"))?;
    let agent = suite.agent_on(&suite.near)?;
    let opened = || suite.metric(&agent, "istio_tcp_connections_opened_total", &[]);
    let before = opened()?;
    let counted = suite.ask((MESH, "on-lo"), 5, (ADDRESS, PORT))?;
    let own = suite.address(MESH, "on-lo")?;
    let itself = suite.ask((MESH, "on-lo"), 5, (&own, PORT))?;
    let made = opened()? - before;
    suite.delete_pod(MESH, "on-lo")?;
    let seen = format!(
        "{ADDRESS}: {}; itself: {}; the agent took {made} connections meanwhile",
        counted.told(),
        itself.told()
    );
    judge(counted.lost_nothing() && itself.lost_nothing() && made < 100.0, seen)
}

pub(super) fn routing_table(suite: &Suite) -> Result<Outcome> {
    suite.kubectl.apply(&[with_net_admin(suite.near_pod(PLAIN, "routes"))])?;
    suite.ready(PLAIN, "routes")?;
    ip(suite, PLAIN, "routes", "route add 198.51.100.0/24 dev lo table 100")?;
    ip(suite, PLAIN, "routes", "rule add to 198.51.100.0/24 lookup 100 priority 100")?;
    let before = table(suite)?;
    suite.kubectl.ok(&format!("label pod -n {PLAIN} routes {MODE}=ambient"))?;
    suite.captured(PLAIN, "routes")?;
    suite.reaches((PLAIN, "routes"), "http://server.sotto-e2e-strict/")?;
    let during = table(suite)?;
    suite.kubectl.ok(&format!("label pod -n {PLAIN} routes {MODE}-"))?;
    suite.wait("the pod is let go", super::super::suite::SOON, || {
        let captured = super::super::suite::is_captured(&suite.pod(PLAIN, "routes")?);
        Ok(if captured { Err(String::from("still captured")) } else { Ok(()) })
    })?;
    let after = table(suite)?;
    suite.delete_pod(PLAIN, "routes")?;
    let seen = format!("before: {before}; captured: {during}; let go: {after}");
    judge(!before.is_empty() && before == during && before == after, seen)
}

fn table(suite: &Suite) -> Result<String> {
    let routes = ip(suite, PLAIN, "routes", "route show table 100")?;
    let rules = ip(suite, PLAIN, "routes", "rule show priority 100")?;
    Ok(format!("{} / {}", routes.trim(), rules.trim()))
}

/// `ip` in a pod.
pub(super) fn ip(suite: &Suite, namespace: &str, pod: &str, line: &str) -> Result<String> {
    let argv: Vec<&str> = std::iter::once("ip").chain(line.split_whitespace()).collect();
    let said = suite.kubectl.exec((namespace, pod), &argv)?;
    if said.code != 0 {
        bail!("ip {line} in {namespace}/{pod}: exit {}: {}", said.code, said.last_line());
    }
    Ok(said.out)
}
