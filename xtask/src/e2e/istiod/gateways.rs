//! Real Envoys under a real istiod: their pods, and one in front of a service as its waypoint.
//!
//! istiod configures its own Envoys alone, so these have configurations of their own; the certificates are istiod's, by Istio's
//! own agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::mesh::Agent;
use super::super::objects::OURS;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite};
use super::super::table::Outcome;

const WAYPOINT: &str = include_str!("waypoint.yaml");
/// The kinds of the Gateway API, in the folder of the real istiod.
const KINDS: &str = "gateway-api-crd.yaml";
/// Asked for by the clients of the mesh: it lets in no plaintext.
pub(super) const SERVER: &str = "http://server.sotto-e2e-strict/";
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// The image with an Envoy, once the cluster has the Gateway API's kinds; or why there is none.
pub(super) fn with_kinds(suite: &Suite) -> Result<Result<&str, Outcome>> {
    let (Some(image), kinds) = (&suite.istiod()?.envoy, suite.istiod()?.folder.join(KINDS)) else {
        return Ok(Err(Outcome::NotRun(String::from("no --envoy-image"))));
    };
    if !kinds.is_file() {
        return Ok(Err(Outcome::NotRun(format!("there is no {}", kinds.display()))));
    }
    let line = format!("apply --server-side -f {}", kinds.display());
    suite.kubectl.ok_within(&line, Duration::from_secs(100))?;
    Ok(Ok(image))
}

pub(super) fn waypoint(suite: &Suite) -> Result<Outcome> {
    match with_kinds(suite)? {
        Ok(image) => behind_waypoint(suite, image, || through_waypoint(suite)),
        Err(why) => Ok(why),
    }
}

/// Shows something while the service has a waypoint.
pub(super) fn behind_waypoint(
    suite: &Suite,
    image: &str,
    show: impl FnOnce() -> Result<Outcome>,
) -> Result<Outcome> {
    let outcome = start_waypoint(suite, image).and_then(|()| show());
    let undo = format!("label service -n {STRICT} server istio.io/use-waypoint-");
    suite.kubectl.ok(&undo)?;
    let all = "gateways.gateway.networking.k8s.io,pod,service,configmap,serviceaccount";
    suite.kubectl.ok(&format!("delete {all} -n {STRICT} -l app=waypoint --timeout=50s"))?;
    suite.reaches((STRICT, "client"), SERVER)?;
    outcome
}

fn start_waypoint(suite: &Suite, image: &str) -> Result<()> {
    let host = format!("server.{STRICT}.svc.cluster.local");
    let service =
        suite.kubectl.get(&format!("service -n {STRICT} server"))?.context("no server")?;
    let vip = service["spec"]["clusterIP"].as_str().context("it has no address")?;
    let pod = suite.address(STRICT, "server")?;
    let config = WAYPOINT.replace("VIP", vip).replace("HOST", &host).replace("NAMESPACE", STRICT);
    let config = config.replace("POD", &pod);
    suite.kubectl.apply(&waypoint_objects(suite, image, &config))?;
    suite.ready(STRICT, "waypoint")?;
    let line =
        format!("label service -n {STRICT} server --overwrite istio.io/use-waypoint=waypoint");
    suite.kubectl.ok(&line).map(drop)
}

fn through_waypoint(suite: &Suite) -> Result<Outcome> {
    let seen = suite.wait("answers have been through the waypoint", PATIENCE, || {
        let answer = head(suite, (MESH, "client"), SERVER)?;
        Ok(if is_by(&answer, "x-waypoint") { Ok(answer) } else { Err(answer) })
    })?;
    let identity = format!("spiffe://cluster.local/ns/{STRICT}/sa/waypoint");
    let (near, far) = (suite.agent_on(&suite.near)?, suite.agent_on(&suite.far)?);
    suite.counts(
        &near,
        &["reporter=\"source\"", &format!("destination_principal=\"{identity}\"")],
    )?;
    suite
        .counts(&far, &["reporter=\"destination\"", &format!("source_principal=\"{identity}\"")])?;
    let outside = suite.curl((PLAIN, "client"), SERVER)?;
    let listed = suite.istioctl(&["ztunnel-config", "service", "--node", &suite.near])?;
    let line = listed.out.lines().find(|line| line.contains(STRICT) && line.contains(" server "));
    let line = line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(line.contains("waypoint"), "istioctl ztunnel-config service: {line}");
    let first = seen.lines().next().unwrap_or_default().trim();
    let told = format!(
        "{first} with x-waypoint; both agents count {identity}; istioctl: {line}; plaintext from outside: exit {}",
        outside.code
    );
    judge(outside.code == 56, told)
}

impl Suite {
    /// Waits until an agent counts a connection in mutual TLS of these words. An Envoy keeps its connections, so that none is
    /// in the log yet.
    pub(super) fn counts(&self, agent: &Agent, words: &[&str]) -> Result<()> {
        let all = [words, &["connection_security_policy=\"mutual_tls\""]].concat();
        self.wait("its agent counts a connection", SOON, || {
            let count = self.metric(agent, "istio_tcp_connections_opened_total", &all)?;
            Ok(if count > 0.0 { Ok(()) } else { Err(format!("{}: {words:?}", agent.name)) })
        })
    }
}

/// The head of an answer, or what curl complained of.
pub(super) fn head(suite: &Suite, pod: (&str, &str), url: &str) -> Result<String> {
    let argv = ["curl", "-sS", "-o", "/dev/null", "-D", "-", "--max-time", "10", url];
    let said = suite.kubectl.exec(pod, &argv)?;
    Ok(format!("{}{}", said.out, said.err))
}

pub(super) fn is_by(head: &str, header: &str) -> bool {
    head.contains(" 200") && head.lines().any(|line| line.to_lowercase().starts_with(header))
}

pub(super) fn labels(app: &str) -> Value {
    json!({ OURS: "true", "app": app })
}

pub(super) fn account(namespace: &str, app: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": app, "namespace": namespace, "labels": labels(app) } })
}

pub(super) fn config_of(namespace: &str, app: &str, config: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": app, "namespace": namespace, "labels": labels(app) }, "data": { "envoy.yaml": config } })
}

/// A pod of an Envoy with this configuration, under an account of its name.
pub(super) fn envoy_pod(suite: &Suite, (namespace, app): (&str, &str), image: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": app, "namespace": namespace, "labels": labels(app) },
        "spec": {
            "nodeName": suite.near, "serviceAccountName": app, "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "envoy", "image": image, "imagePullPolicy": "IfNotPresent",
                "command": ["envoy", "-c", "/config/envoy.yaml", "--concurrency", "1"],
                "volumeMounts": [{ "name": "config", "mountPath": "/config" }],
            }],
            "volumes": [{ "name": "config", "configMap": { "name": app } }],
        } })
}

/// The same, which takes and makes tunnels itself, with certificates from istiod.
pub(super) fn tunnelling_pod(suite: &Suite, (namespace, app): (&str, &str), image: &str) -> Value {
    let mut pod = envoy_pod(suite, (namespace, app), image);
    pod["metadata"]["labels"]["istio.io/dataplane-mode"] = "none".into();
    let envoy = &mut pod["spec"]["containers"][0];
    envoy["command"] = json!([
        "sh",
        "-c",
        "until [ -s /certs/cert-chain.pem ]; do sleep 0.2; done; exec envoy -c /config/envoy.yaml --concurrency 1"
    ]);
    envoy["readinessProbe"] = json!({ "tcpSocket": { "port": 15008 }, "periodSeconds": 1 });
    envoy["volumeMounts"] = json!([{ "name": "config", "mountPath": "/config" }, { "name": "certs", "mountPath": "/certs" }]);
    if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
        containers.push(certificates(image));
    }
    let token = json!({ "serviceAccountToken": { "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token" } });
    pod["spec"]["volumes"] = json!([
        { "name": "config", "configMap": { "name": app } },
        { "name": "certs", "emptyDir": {} },
        { "name": "root", "configMap": { "name": "istio-ca-root-cert" } },
        { "name": "token", "projected": { "sources": [token] } },
    ]);
    pod
}

/// A waypoint that istiod knows, and does not run itself.
fn waypoint_objects(suite: &Suite, image: &str, config: &str) -> Vec<Value> {
    let app = "waypoint";
    let mut pod = tunnelling_pod(suite, (STRICT, app), image);
    pod["metadata"]["labels"]["networking.istio.io/tunnel"] = "http".into();
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": app, "namespace": STRICT, "labels": labels(app) },
        "spec": { "selector": { "app": app }, "ports": [{ "name": "hbone", "port": 15008, "appProtocol": "hbone" }] } });
    let address =
        json!({ "type": "Hostname", "value": format!("waypoint.{STRICT}.svc.cluster.local") });
    let mut of_gateway = labels(app);
    of_gateway["istio.io/waypoint-for"] = "service".into();
    let gateway = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": app, "namespace": STRICT, "labels": of_gateway },
        "spec": { "gatewayClassName": "istio-waypoint", "addresses": [address],
            "listeners": [{ "name": "mesh", "port": 15008, "protocol": "HBONE" }] } });
    vec![account(STRICT, app), config_of(STRICT, app, config), service, gateway, pod]
}

/// Istio's own agent, which does nothing but ask istiod for certificates.
fn certificates(image: &str) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let text = |name: &str, value: &str| json!({ "name": name, "value": value });
    json!({
        "name": "certs", "image": image, "imagePullPolicy": "IfNotPresent",
        "command": ["pilot-agent", "proxy", "router"],
        "env": [
            field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"), field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            text("CA_ADDR", "istiod.istio-system.svc:15012"), text("DISABLE_ENVOY", "true"), text("OUTPUT_CERTS", "/certs"),
            text("ISTIO_META_CLUSTER_ID", "Kubernetes"), text("TRUST_DOMAIN", "cluster.local"),
        ],
        "volumeMounts": [
            { "name": "certs", "mountPath": "/certs" },
            { "name": "root", "mountPath": "/var/run/secrets/istio" },
            { "name": "token", "mountPath": "/var/run/secrets/tokens" },
        ],
    })
}
