//! Real Envoys in front of the mesh: an ordinary ingress in an enrolled pod, and one that asks istiod where a service is, as Istio's
//! own gateways do.

use anyhow::{Result, ensure};
use serde_json::json;

use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, STRICT, Suite};
use super::super::table::Outcome;
use super::gateways::{self, PATIENCE, SERVER, account, config_of, envoy_pod, head, is_by};

const INGRESS: &str = include_str!("ingress.yaml");
const ASKING: &str = include_str!("asking.yaml");
/// On a service whose waypoint is meant for gateways, too.
const LABEL: &str = "istio.io/ingress-use-waypoint";
const APP: &str = "asking";

pub(super) fn ordinary(suite: &Suite) -> Result<Outcome> {
    let Some(image) = &suite.istiod()?.envoy else {
        return Ok(Outcome::NotRun(String::from("no --envoy-image")));
    };
    let config = INGRESS.replace("HOST", &format!("server.{STRICT}.svc.cluster.local"));
    let mut pod = envoy_pod(suite, (MESH, "ingress"), image);
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1 });
    suite.kubectl.apply(&[account(MESH, "ingress"), config_of(MESH, "ingress", &config), pod])?;
    let outcome = through_ordinary(suite);
    suite.kubectl.ok(&format!(
        "delete pod,configmap,serviceaccount -n {MESH} -l app=ingress --timeout=50s"
    ))?;
    outcome
}

fn through_ordinary(suite: &Suite) -> Result<Outcome> {
    suite.ready(MESH, "ingress")?;
    suite.captured(MESH, "ingress")?;
    let url = format!("http://{}:8080/", suite.address(MESH, "ingress")?);
    let answer = suite.wait("the ingress answers who is outside", PATIENCE, || {
        let answer = head(suite, (PLAIN, "client"), &url)?;
        Ok(if is_by(&answer, "x-ingress") { Ok(answer) } else { Err(answer) })
    })?;
    let identity = format!("spiffe://cluster.local/ns/{MESH}/sa/ingress");
    let far = suite.agent_on(&suite.far)?;
    suite
        .counts(&far, &["reporter=\"destination\"", &format!("source_principal=\"{identity}\"")])?;
    let direct = suite.curl((PLAIN, "client"), SERVER)?;
    let first = answer.lines().next().unwrap_or_default().trim();
    let told = format!("through it {first}, as {identity}; past it: exit {}", direct.code);
    judge(direct.code == 56, told)
}

/// `istio.io/ingress-use-waypoint`, which is said to istiod, and by it to gateways.
pub(super) fn by_waypoint(suite: &Suite) -> Result<Outcome> {
    let image = match gateways::with_kinds(suite)? {
        Ok(image) => image,
        Err(why) => return Ok(why),
    };
    gateways::behind_waypoint(suite, image, || {
        let outcome = with_asking(suite, image);
        suite.kubectl.ok(&format!("label service -n {STRICT} server {LABEL}-"))?;
        let line =
            format!("delete pod,configmap,serviceaccount -n {MESH} -l app={APP} --timeout=50s");
        suite.kubectl.ok(&line)?;
        outcome
    })
}

fn with_asking(suite: &Suite, image: &str) -> Result<Outcome> {
    let config = ASKING.replace("HOST", &format!("server.{STRICT}.svc.cluster.local"));
    let config = config.replace("NAMESPACE", MESH).replace("ACCOUNT", APP);
    let mut pod = gateways::tunnelling_pod(suite, (MESH, APP), image);
    let envoy = &mut pod["spec"]["containers"][0];
    // By its address istiod knows who asks, and nobody knows it before the pod runs.
    let start = format!(
        "until [ -s /certs/cert-chain.pem ]; do sleep 0.2; done; exec envoy -c /config/envoy.yaml --concurrency 1 \
         --service-node router~$ADDRESS~{APP}.{MESH}~{MESH}.svc.cluster.local"
    );
    envoy["command"] = json!(["sh", "-c", start]);
    envoy["env"] = json!([{ "name": "ADDRESS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }]);
    envoy["readinessProbe"] = json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1 });
    suite.kubectl.apply(&[account(MESH, APP), config_of(MESH, APP, &config), pod])?;
    suite.ready(MESH, APP)?;
    let past = asked(suite, "past the waypoint", false)?;
    suite.kubectl.ok(&format!("label service -n {STRICT} server --overwrite {LABEL}=true"))?;
    let through = asked(suite, "through the waypoint", true)?;
    let far = suite.agent_on(&suite.far)?;
    for account in [format!("{MESH}/sa/{APP}"), format!("{STRICT}/sa/waypoint")] {
        let identity = format!("source_principal=\"spiffe://cluster.local/ns/{account}\"");
        suite.counts(&far, &["reporter=\"destination\"", &identity])?;
    }
    suite.kubectl.ok(&format!("label service -n {STRICT} server {LABEL}-"))?;
    let back = asked(suite, "past the waypoint again", false)?;
    let direct = suite.curl((PLAIN, "client"), SERVER)?;
    let told = format!(
        "without the label: {past}; with it: {through}, and the server's agent counts both identities; without: {back}; \
         past the gateway: exit {}",
        direct.code
    );
    judge(direct.code == 56, told)
}

/// Waits until who is outside gets an answer by way of the gateway, and of the waypoint or not.
fn asked(suite: &Suite, what: &str, is_through: bool) -> Result<String> {
    let url = format!("http://{}:8080/", suite.address(MESH, APP)?);
    let answer = suite.wait(&format!("answers come {what}"), PATIENCE, || {
        let answer = head(suite, (PLAIN, "client"), &url)?;
        let fits = is_by(&answer, "x-ingress") && is_by(&answer, "x-waypoint") == is_through;
        Ok(if fits { Ok(answer) } else { Err(answer) })
    })?;
    let first = answer.lines().next().unwrap_or_default().trim().to_owned();
    ensure!(!first.is_empty(), "an answer without a head");
    let by = if is_through { "x-ingress and x-waypoint" } else { "x-ingress alone" };
    Ok(format!("{first} with {by}"))
}
