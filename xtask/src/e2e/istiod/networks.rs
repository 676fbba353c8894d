//! Two networks: a real Envoy as the gateway of the other one, as a real istiod tells of it, by its address and by its hostname.
//!
//! Both are in one cluster: the other network is an entry that has no address which could be reached, and what its gateway
//! leads to is a pod of this one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::objects::PORT;
use super::super::rows::judge;
use super::super::suite::{MESH, Suite};
use super::super::table::Outcome;
use super::gateways::{account, config_of, labels, tunnelling_pod, with_kinds};

const GATEWAY: &str = include_str!("eastwest.yaml");
const APP: &str = "eastwest";
/// The service that is on both networks, and its address.
const HOST: &str = "far.e2e.test";
const AT: &str = "198.18.77.7";
/// A pod's name of its own, which no Service has.
const NAME: &str = "lb.eastwest.sotto-e2e-mesh.svc.cluster.local";
/// On pods and entries behind the service.
const BEHIND: &str = "sotto-e2e-far";
/// Requests, about half of which are for the other network.
const TIMES: u32 = 30;
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn both(suite: &Suite) -> Result<Outcome> {
    let image = match with_kinds(suite)? {
        Ok(image) => image,
        Err(why) => return Ok(why),
    };
    let outcome = across(suite, image);
    suite.kubectl.ok(&format!("label pod -n {MESH} server {BEHIND}-"))?;
    let all = "gateways.gateway.networking.k8s.io,serviceentries.networking.istio.io,workloadentries.networking.istio.io,pod,service,configmap,serviceaccount";
    suite.kubectl.ok(&format!("delete {all} -n {MESH} -l app={APP} --timeout=50s"))?;
    outcome
}

fn across(suite: &Suite, image: &str) -> Result<Outcome> {
    let config = GATEWAY.replace("HOST", HOST).replace("POD", &suite.address(MESH, "server")?);
    let mut pod = tunnelling_pod(suite, (MESH, APP), image);
    // Has a name as the load balancers of some clouds do.
    pod["spec"]["hostname"] = "lb".into();
    pod["spec"]["subdomain"] = APP.into();
    let names = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": APP, "namespace": MESH, "labels": labels(APP) },
        "spec": { "clusterIP": "None", "selector": { "app": APP }, "ports": [{ "name": "hbone", "port": 15008 }] } });
    suite.kubectl.apply(&[account(MESH, APP), config_of(MESH, APP, &config), names, pod])?;
    suite.ready(MESH, APP)?;
    suite.kubectl.apply(&far_service())?;
    suite.kubectl.ok(&format!("label pod -n {MESH} server --overwrite {BEHIND}=true"))?;
    let address = suite.address(MESH, APP)?;
    let by_address = through(suite, ("IPAddress", &address))?;
    let by_name = through(suite, ("Hostname", NAME))?;
    judge(true, format!("by its address {by_address}; by its hostname alone {by_name}"))
}

/// Requests by way of the gateway, of which istiod tells by an address of this kind.
fn through(suite: &Suite, at: (&str, &str)) -> Result<String> {
    tell(suite, at)?;
    let gateway = suite.address(MESH, APP)?;
    let from = format!("src.identity=spiffe://cluster.local/ns/{MESH}/sa/default");
    let server = suite.agent_on(&suite.far)?;
    let words = [from.as_str(), &format!("src.addr={gateway}:"), "direction=inbound"];
    let before = (suite.log_lines(&server, &words)?.len(), outer(suite)?.len());
    let known = suite.wait("requests go by the gateway", PATIENCE, || {
        let said = suite.curl((MESH, "client"), &format!("http://{AT}/"))?;
        let came = suite.log_lines(&server, &words)?.len();
        let told = format!("exit {}: {} {}", said.code, said.out, said.last_line());
        Ok(if said.out == "200" && came > before.0 { Ok(came) } else { Err(told) })
    })?;
    let counted = suite.ask((MESH, "client"), TIMES, (AT, 80))?;
    ensure!(counted.lost_nothing(), "{}", counted.told());
    let (inner, lines) = suite.wait("both tunnels are told of", PATIENCE, || {
        let (inner, outer) = (suite.log_lines(&server, &words)?.len(), outer(suite)?);
        let told = format!("{inner} inner ones, {} outer ones", outer.len());
        Ok(if inner > known && outer.len() > before.1 { Ok((inner, outer)) } else { Err(told) })
    })?;
    let line = lines.last().context("the gateway logs nothing")?;
    let identity = format!("{HOST}:80 by spiffe://cluster.local/ns/{MESH}/sa/default");
    ensure!(line.contains(&identity), "the gateway: {line}");
    let (inner, outer) = (inner - before.0, lines.len() - before.1);
    Ok(format!("{}; {inner} by the gateway, in its log {outer}: {line}", counted.told()))
}

/// What the gateway says of tunnels that it has ended.
fn outer(suite: &Suite) -> Result<Vec<String>> {
    let log = suite.kubectl.ok(&format!("logs -n {MESH} {APP} -c envoy"))?;
    Ok(log.lines().filter(|line| line.starts_with("gateway: ")).map(str::to_owned).collect())
}

/// Tells istiod of the gateway, as whoever joins networks does; and what its cluster says of its address.
fn tell(suite: &Suite, (kind, value): (&str, &str)) -> Result<()> {
    let mut of_gateway = labels(APP);
    of_gateway["topology.istio.io/network"] = "west".into();
    let address = json!({ "type": kind, "value": value });
    let gateway = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": APP, "namespace": MESH, "labels": of_gateway,
            "annotations": { "gateway.istio.io/service-account": APP } },
        "spec": { "gatewayClassName": "istio-remote", "addresses": [address],
            "listeners": [{ "name": "cross-network", "port": 15008, "protocol": "HBONE",
                "tls": { "mode": "Passthrough" } }] } });
    suite.kubectl.apply(&[gateway])?;
    let status = json!({ "status": { "addresses": [address] } }).to_string();
    let patch = [
        "patch",
        "gateway",
        "-n",
        MESH,
        APP,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    suite.kubectl.ok_args(&patch).map(drop)
}

/// A service that pods here and an entry there serve, all under one account.
fn far_service() -> [Value; 2] {
    let mut behind = labels(APP);
    behind[BEHIND] = "true".into();
    // It takes tunnels.
    behind["networking.istio.io/tunnel"] = "http".into();
    let service = json!({ "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": APP, "namespace": MESH, "labels": labels(APP) },
        "spec": { "hosts": [HOST], "addresses": [AT], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{ "number": 80, "targetPort": PORT, "name": "http", "protocol": "HTTP" }],
            "subjectAltNames": [format!("spiffe://cluster.local/ns/{MESH}/sa/default")],
            "workloadSelector": { "labels": { BEHIND: "true" } } } });
    let entry = json!({ "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": { "name": APP, "namespace": MESH, "labels": behind },
        "spec": { "network": "west", "address": "192.0.2.77", "serviceAccount": "default", "labels": { BEHIND: "true" } } });
    [service, entry]
}
