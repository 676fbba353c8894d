//! The control plane on the pocket cluster's API server: objects in, what a node is told out.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test itself")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kit::api::{ApiConfig, ApiServer, DeleteOptions, PodBinding};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use prost::Message as _;
use serde_json::{Value, json};
use sotto::control_plane::{self, ControlPlaneConfig, ControlPlaneError};
use sotto::sys::Shutdown;
use sotto_proto::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sotto_proto::ca::IstioCertificateRequest;
use sotto_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use sotto_proto::security::Authorization;
use sotto_proto::workload::{Address, TunnelProtocol, Workload, address::Type};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

mod admission;
mod closed;
mod flood;
mod root;
mod statuses;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const STATIC_STRICT: &str = "istio-system/istio_converted_static_strict";
const DETAILS: &str = "Kubernetes//Pod/bookinfo/details";

struct Cluster {
    api: Arc<ApiServer>,
    config: ControlPlaneConfig,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), ControlPlaneError>>,
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn config() -> ControlPlaneConfig {
    ControlPlaneConfig {
        listen: free_port(),
        namespace: "istio-system".to_owned(),
        root_namespace: "istio-system".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        trusted_node_accounts: vec![("istio-system".to_owned(), "sotto".to_owned())],
        dns_names: Vec::new(),
        ready_address: free_port(),
        metrics_address: free_port(),
        default_certificate_ttl: Duration::from_secs(24 * 3600),
        max_certificate_ttl: Duration::from_secs(24 * 3600),
        workload_certificates: false,
    }
}

fn object(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind,
            "metadata": { "namespace": namespace, "name": name } })
}

fn server() -> ApiServer {
    let api = ApiServer::start(ApiConfig::loopback().unwrap()).unwrap();
    let store = api.store();
    for name in ["istio-system", "bookinfo"] {
        store
            .create(
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
            )
            .unwrap();
    }
    for (namespace, name) in [
        ("istio-system", "sotto"),
        ("istio-system", "sotto-control-plane"),
        ("bookinfo", "details"),
    ] {
        store.apply(object("v1", "ServiceAccount", namespace, name)).unwrap();
    }
    pod(&api, "istio-system", "agent", "sotto", "10.0.0.1");
    pod(&api, "bookinfo", "details", "details", "10.244.1.2");
    let mut service = object("v1", "Service", "bookinfo", "details");
    service["spec"] = json!({ "selector": { "app": "details" }, "ports": [{ "port": 9080 }] });
    store.create(service).unwrap();
    api
}

fn pod(api: &ApiServer, namespace: &str, name: &str, account: &str, ip: &str) {
    let mut pod = object("v1", "Pod", namespace, name);
    pod["metadata"]["labels"] = json!({ "app": name });
    pod["spec"] = json!({ "serviceAccountName": account, "nodeName": "n1",
                          "containers": [{ "name": "c", "image": "i" }] });
    api.store().create(pod.clone()).unwrap();
    let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                                     "conditions": [{ "type": "Ready", "status": "True" }] } });
    api.store().patch_status("pods", namespace, name, &status).unwrap();
}

const CONTROL_PLANE: (&str, &str) = ("istio-system", "sotto-control-plane");

async fn client(api: &ApiServer) -> Client {
    let token = api.mint_token(CONTROL_PLANE, None, &[], PATIENCE * 10).unwrap();
    client_with(api, &token).await
}

async fn client_with(api: &ApiServer, token: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig(&api.url(), token)).unwrap();
    let options = KubeConfigOptions::default();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

/// A replica on an API server, which may have others.
async fn start(api: impl Into<Arc<ApiServer>>) -> Cluster {
    let (api, config, shutdown) = (api.into(), config(), Shutdown::new());
    let client = client(&api).await;
    let running = tokio::spawn(control_plane::run(config.clone(), client, shutdown.clone()));
    Cluster { api, config, shutdown, running }
}

/// How a control plane is connected to.
fn endpoint(address: SocketAddr, root: &str) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(root))
        .domain_name("istiod.istio-system.svc");
    endpoint.tls_config(tls).unwrap()
}

/// Waits for something to become so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what} never came"))
}

impl Cluster {
    fn root(&self, namespace: &str) -> Option<String> {
        let maps = self.api.store().typed::<ConfigMap>();
        let map = maps.get(namespace, "istio-ca-root-cert").ok()?;
        map.data?.remove("root-cert.pem")
    }

    async fn channel(&self) -> Channel {
        until("the root", async || self.root("istio-system")).await;
        // One that was there before does not say that somebody listens already.
        until("a connection", async || self.connect().await.ok()).await
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let root = self.root("istio-system").unwrap();
        endpoint(self.config.listen, &root).connect().await
    }

    fn authorized<T>(&self, message: T) -> Request<T> {
        let agent = self.api.store().get("pods", "istio-system", "agent").unwrap();
        let binding = PodBinding {
            name: "agent".to_owned(),
            uid: agent["metadata"]["uid"].as_str().unwrap().to_owned(),
            node: "n1".to_owned(),
        };
        let account = ("istio-system", "sotto");
        let token = self.api.mint_token(account, Some(binding), &["istio-ca"], PATIENCE).unwrap();
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }

    /// Waits until it serves: its listener takes connections before, and answers none.
    async fn ready(&self) {
        loop {
            if self.root("istio-system").is_some() && self.connect().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) -> Arc<ApiServer> {
        self.shutdown.drain(Duration::from_secs(10)).await.unwrap();
        self.running.await.unwrap().unwrap();
        self.api
    }
}

/// A node that follows: what it holds.
struct Node {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    workloads: BTreeMap<String, Workload>,
    services: BTreeSet<String>,
    policies: BTreeMap<String, Authorization>,
}

impl Node {
    async fn subscribe(cluster: &Cluster) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::new(cluster.channel().await);
        let (requests, outgoing) = mpsc::channel(8);
        for type_url in [ADDRESS_TYPE, AUTHORIZATION_TYPE] {
            let type_url = type_url.to_owned();
            requests.send(DeltaDiscoveryRequest { type_url, ..Default::default() }).await.unwrap();
        }
        let request = cluster.authorized(ReceiverStream::new(outgoing));
        let responses = client.delta_aggregated_resources(request).await.unwrap().into_inner();
        Self {
            requests,
            responses,
            workloads: BTreeMap::new(),
            services: BTreeSet::new(),
            policies: BTreeMap::new(),
        }
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            let next = tokio::time::timeout(PATIENCE, self.responses.message()).await;
            let response = next.unwrap_or_else(|_| panic!("{what} never came")).unwrap().unwrap();
            let answer = DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                ..DeltaDiscoveryRequest::default()
            };
            self.take(response);
            self.requests.send(answer).await.unwrap();
        }
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        for name in &response.removed_resources {
            self.workloads.remove(name);
            self.services.remove(name);
            self.policies.remove(name);
        }
        for resource in response.decoded().unwrap() {
            if response.type_url == AUTHORIZATION_TYPE {
                let body = resource.resource.unwrap().value;
                let policy = Authorization::decode(body.as_slice()).unwrap();
                self.policies.insert(resource.name, policy);
                continue;
            }
            let body = resource.resource.unwrap().value;
            match Address::decode(body.as_slice()).unwrap().r#type.unwrap() {
                Type::Workload(workload) => drop(self.workloads.insert(resource.name, workload)),
                Type::Service(_) => drop(self.services.insert(resource.name)),
            }
        }
    }

    fn strict(&self) -> bool {
        self.workloads.get(DETAILS).is_some_and(|w| w.authorization_policies == [STATIC_STRICT])
    }
}

fn policy_kind(version: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "peerauthentications.security.istio.io" },
        "spec": {
            "group": "security.istio.io", "scope": "Namespaced",
            "names": { "kind": "PeerAuthentication", "plural": "peerauthentications",
                       "singular": "peerauthentication", "listKind": "PeerAuthenticationList" },
            "versions": [{ "name": version, "served": true, "storage": true, "schema": {
                "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
        },
    })
}

fn policy(version: &str, mode: &str) -> Value {
    let api = format!("security.istio.io/{version}");
    let mut policy = object(&api, "PeerAuthentication", "bookinfo", "default");
    policy["spec"] = json!({ "mtls": { "mode": mode } });
    policy
}

/// Modes come, change and go; an unknown one is STRICT.
async fn modes_change_live(version: &str) {
    let cluster = start(server()).await;
    let mut node = Node::subscribe(&cluster).await;
    let service = "bookinfo/details.bookinfo.svc.cluster.local";
    node.until("pod and service", |node| {
        node.workloads.get(DETAILS).is_some_and(|w| w.services.contains_key(service))
            && node.services.contains(service)
    })
    .await;
    assert!(node.policies.is_empty());
    let store = cluster.api.store();

    store.create(policy_kind(version)).unwrap();
    store.create(policy(version, "STRICT")).unwrap();
    node.until("STRICT", Node::strict).await;
    assert!(node.policies.contains_key(STATIC_STRICT));

    store.apply(policy(version, "PERMISSIVE")).unwrap();
    node.until("PERMISSIVE", |node| !node.strict()).await;
    // What cannot be read closes.
    store.apply(policy(version, "STRIKT")).unwrap();
    node.until("STRICT", Node::strict).await;
    let enrolled =
        json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } });
    store.patch_status("pods", "bookinfo", "details", &enrolled).unwrap();
    node.until("HBONE", |node| node.workloads[DETAILS].tunnel_protocol() == TunnelProtocol::Hbone)
        .await;
    assert!(node.strict());
    until("an event", async || {
        let events = store.list("events", "bookinfo", "").ok()?;
        events.iter().any(|e| e.to_string().contains("STRIKT")).then_some(())
    })
    .await;

    store.apply(policy(version, "PERMISSIVE")).unwrap();
    node.until("PERMISSIVE", |node| !node.strict()).await;
    store.delete("peerauthentications", "bookinfo", "default", &DeleteOptions::default()).unwrap();
    node.until("no policies", |node| node.policies.is_empty()).await;
    store.delete("pods", "bookinfo", "details", &DeleteOptions::now()).unwrap();
    node.until("no pod", |node| !node.workloads.contains_key(DETAILS)).await;
    let api = cluster.stop().await;
    check_rights(&api);
}

/// What the control plane may do: its roles, as they are deployed, allow this and no more.
const RIGHTS: [(&str, &str, &[&str]); 22] = [
    ("", "namespaces", &["list", "watch"]),
    ("", "nodes", &["list", "watch"]),
    ("", "pods", &["list", "watch"]),
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("security.istio.io", "peerauthentications", &["list", "watch"]),
    ("security.istio.io", "authorizationpolicies", &["list", "watch"]),
    ("networking.istio.io", "destinationrules", &["list", "watch"]),
    ("networking.istio.io", "serviceentries", &["list", "watch"]),
    ("networking.istio.io", "gateways", &["list", "watch"]),
    ("networking.istio.io", "virtualservices", &["list", "watch"]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &["get"]),
    ("security.istio.io", "peerauthentications/status", &["patch"]),
    ("security.istio.io", "authorizationpolicies/status", &["patch"]),
    ("networking.istio.io", "destinationrules/status", &["patch"]),
    ("networking.istio.io", "serviceentries/status", &["patch"]),
    ("networking.istio.io", "gateways/status", &["patch"]),
    ("networking.istio.io", "virtualservices/status", &["patch"]),
    ("", "configmaps", &["list", "watch", "create", "patch"]),
    ("", "secrets", &["get", "create"]),
    ("", "events", &["create"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
];

#[test]
fn the_deployed_roles_allow_what_is_used_and_no_more() {
    let roles = include_str!("../../../deploy/base/control-plane/rbac.yaml");
    let mut allowed = BTreeSet::new();
    for object in kit::objects::parse(roles).unwrap() {
        let words = |rule: &Value, key: &str| {
            let words = rule[key].as_array().unwrap().iter();
            words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for rule in object.data["rules"].as_array().into_iter().flatten() {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        allowed.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    let used = RIGHTS.iter().flat_map(|(group, resource, verbs)| {
        let verbs = verbs.iter();
        verbs.map(|verb| ((*group).to_owned(), (*resource).to_owned(), (*verb).to_owned()))
    });
    assert_eq!(allowed, used.collect());
}

fn check_rights(api: &Arc<ApiServer>) {
    let user = format!("system:serviceaccount:{}:{}", CONTROL_PLANE.0, CONTROL_PLANE.1);
    let used = api.usage(&user);
    assert!(!used.is_empty());
    for right in used {
        let allowed = RIGHTS.iter().any(|(group, resource, verbs)| {
            right.group == *group
                && right.resource == *resource
                && verbs.contains(&right.verb.as_str())
        });
        assert!(allowed, "{right:?}");
    }
}

#[tokio::test]
async fn modes_change_live_in_v1() {
    modes_change_live("v1").await;
}

#[tokio::test]
async fn modes_change_live_in_v1beta1() {
    modes_change_live("v1beta1").await;
}

#[tokio::test]
async fn an_agent_gets_a_certificate() {
    let cluster = start(server()).await;
    let mut client = IstioCertificateServiceClient::new(cluster.channel().await);
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let ask = |identity: &str| {
        let kind = prost_types::value::Kind::StringValue(identity.to_owned());
        let fields = [("ImpersonatedIdentity".to_owned(), prost_types::Value { kind: Some(kind) })];
        let metadata = Some(prost_types::Struct { fields: fields.into() });
        IstioCertificateRequest { csr: csr.clone(), validity_duration: 0, metadata }
    };
    let details = ask("spiffe://cluster.local/ns/bookinfo/sa/details");
    let answer = client.create_certificate(cluster.authorized(details.clone())).await.unwrap();
    assert_eq!(answer.into_inner().cert_chain.last(), cluster.root("bookinfo").as_ref());
    let other = ask("spiffe://cluster.local/ns/bookinfo/sa/reviews");
    let refused = client.create_certificate(cluster.authorized(other)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let refused = client.create_certificate(details).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    check_rights(&cluster.stop().await);
}

#[tokio::test]
async fn replicas_share_one_root_and_repair_what_is_published() {
    let api = server();
    let (config, shutdown) = (config(), Shutdown::new());
    let other = tokio::spawn(control_plane::run(config, client(&api).await, shutdown.clone()));
    let cluster = start(api).await;
    let root = until("the root", async || cluster.root("bookinfo")).await;
    cluster.channel().await;
    let store = cluster.api.store();
    assert_eq!(store.typed::<Secret>().list("istio-system", "").unwrap().len(), 1);

    store
        .create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "late" } }))
        .unwrap();
    until("a new namespace's", async || cluster.root("late").filter(|r| *r == root)).await;
    let spoiled = json!({ "data": { "root-cert.pem": "spoiled" } });
    let maps = store.typed::<ConfigMap>();
    maps.patch("bookinfo", "istio-ca-root-cert", &spoiled).unwrap();
    until("the repair", async || cluster.root("bookinfo").filter(|r| *r == root)).await;
    maps.delete("bookinfo", "istio-ca-root-cert", &DeleteOptions::default()).unwrap();
    until("the replacement", async || cluster.root("bookinfo").filter(|r| *r == root)).await;
    shutdown.drain(Duration::from_secs(10)).await.unwrap();
    other.await.unwrap().unwrap();
    check_rights(&cluster.stop().await);
}

#[tokio::test]
async fn a_corrupt_root_is_an_error_and_stays() {
    let api = server();
    let mut secret = object("v1", "Secret", "istio-system", "sotto-ca-secret");
    secret["stringData"] = json!({ "ca-cert.pem": "spoiled", "ca-key.pem": "spoiled" });
    let before = api.store().create(secret).unwrap();
    let cluster = start(api).await;
    let ended = tokio::time::timeout(PATIENCE, cluster.running).await.unwrap().unwrap();
    let error = ended.unwrap_err();
    assert!(matches!(error, ControlPlaneError::Root(_)), "{error:?}");
    assert!(format!("{error:?}").contains("Corrupt"), "{error:?}");
    let after = cluster.api.store().get("secrets", "istio-system", "sotto-ca-secret").unwrap();
    assert_eq!(before["data"], after["data"]);
    cluster.shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let api = server();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ControlPlaneConfig { listen: taken.local_addr().unwrap(), ..config() };
    let shutdown = Shutdown::new();
    let error = control_plane::run(config, client(&api).await, shutdown.clone()).await.unwrap_err();
    assert!(error.to_string().starts_with("listen on 127.0.0.1:"), "{error}");
    shutdown.drain(PATIENCE).await.unwrap();
}
