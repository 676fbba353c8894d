//! Services, as kube-proxy would reach them.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::clients::Counted;
use super::super::objects;
use super::super::suite::{MESH, SOON, Suite, items};
use super::super::table::Outcome;
use super::judge;
use super::outside::node_address;

/// A port that no node listens on, to be told from the services' own.
const HOST_PORT: u16 = 18_473;

pub(super) fn terminating(suite: &Suite) -> Result<Outcome> {
    let mut pod = suite.far_pod(MESH, "ending");
    // The first process of a container ignores SIGTERM unless it says otherwise: it serves until it is killed.
    pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
    suite.kubectl.apply(&[pod, objects::service(MESH, "ending", Some("ending"))])?;
    suite.ready(MESH, "ending")?;
    let host = format!("ending.{MESH}");
    suite.reaches((MESH, "client"), &format!("http://{host}/"))?;
    suite.kubectl.ok(&format!("delete pod -n {MESH} ending --wait=false"))?;
    suite.wait("its endpoint is terminating", SOON, || {
        let slices = suite
            .kubectl
            .list(&format!("endpointslices -n {MESH} -l kubernetes.io/service-name=ending"))?;
        let endpoints = slices.iter().flat_map(|slice| items(&slice["endpoints"]));
        let mut conditions = endpoints.map(|endpoint| &endpoint["conditions"]);
        let ending =
            conditions.any(|found| found["terminating"] == true && found["serving"] == true);
        Ok(if ending { Ok(()) } else { Err(String::from("not yet")) })
    })?;
    // The mesh hears of it at about the same time: what counts is what comes after.
    std::thread::sleep(Duration::from_secs(2));
    let counted = suite.ask((MESH, "client"), 10, (&host, 80))?;
    suite.kubectl.ok(&format!("delete service -n {MESH} ending --wait=false"))?;
    suite
        .kubectl
        .ok(&format!("delete pod -n {MESH} ending --grace-period=1 --ignore-not-found"))?;
    judge(counted.lost_nothing(), counted.told())
}

/// As on k3s and k0s, whose balancers give a service the nodes' addresses.
pub(super) fn balancer(suite: &Suite) -> Result<Outcome> {
    let address = node_address(suite, &suite.far)?;
    let mut host = suite.far_pod(MESH, "on-host");
    host["spec"]["hostNetwork"] = true.into();
    let container = &mut host["spec"]["containers"][0];
    container["command"][3] = HOST_PORT.to_string().into();
    for probe in ["readinessProbe", "livenessProbe"] {
        container[probe] = json!({ "tcpSocket": { "port": HOST_PORT }, "periodSeconds": 2 });
    }
    let mut service = objects::service(MESH, "balanced", Some("server"));
    service["spec"]["type"] = "LoadBalancer".into();
    suite.kubectl.apply(&[host, service])?;
    suite.ready(MESH, "on-host")?;
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address }] } } });
    suite.kubectl.ok_args(&[
        "patch",
        "service",
        "-n",
        MESH,
        "balanced",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ])?;
    // Until the mesh has heard of it, the address is nobody's but the node's.
    std::thread::sleep(Duration::from_secs(3));
    let counted = suite.ask((MESH, "client"), 10, (&address, HOST_PORT))?;
    suite.kubectl.ok(&format!("delete service -n {MESH} balanced --wait=false"))?;
    suite.delete_pod(MESH, "on-host")?;
    judge(counted.lost_nothing(), format!("{address}:{HOST_PORT}: {}", counted.told()))
}

/// Three servers behind one service; what changes it is given.
fn three(suite: &Suite, name: &str, change: fn(&mut Value)) -> Result<Counted> {
    let mut objects = Vec::new();
    for number in 0..3 {
        let name = format!("{name}-{number}");
        let node = if number == 0 { &suite.near } else { &suite.far };
        objects.push(objects::pod(MESH, &name, node, &suite.settings.tools_image));
    }
    for pod in &mut objects {
        pod["metadata"]["labels"]["app"] = name.into();
    }
    let mut service = objects::service(MESH, name, Some(name));
    change(&mut service);
    objects.push(service);
    suite.kubectl.apply(&objects)?;
    for number in 0..3 {
        suite.ready(MESH, &format!("{name}-{number}"))?;
    }
    let host = format!("{name}.{MESH}");
    suite.reaches((MESH, "client"), &format!("http://{host}/"))?;
    std::thread::sleep(Duration::from_secs(2));
    let counted = suite.ask((MESH, "client"), 30, (&host, 80))?;
    suite.kubectl.ok(&format!("delete service -n {MESH} {name} --wait=false"))?;
    suite.kubectl.ok(&format!("delete pods -n {MESH} -l app={name} --wait=false"))?;
    Ok(counted)
}

pub(super) fn affinity(suite: &Suite) -> Result<Outcome> {
    let spread = three(suite, "spread", |_| ())?;
    let kept = three(suite, "kept", |service| {
        service["spec"]["sessionAffinity"] = "ClientIP".into();
    })?;
    let seen = format!("with: {}; without: {}", kept.told(), spread.told());
    let expected = kept.lost_nothing() && spread.lost_nothing();
    judge(expected && kept.by.len() == 1 && spread.by.len() == 3, seen)
}

pub(super) fn local(suite: &Suite) -> Result<Outcome> {
    if suite.near == suite.far {
        return Ok(Outcome::NotRun(String::from("the cluster has one node")));
    }
    let counted = three(suite, "nearby", |service| {
        service["spec"]["internalTrafficPolicy"] = "Local".into();
    })?;
    judge(counted.lost_nothing() && counted.by.keys().eq(["nearby-0"]), counted.told())
}
