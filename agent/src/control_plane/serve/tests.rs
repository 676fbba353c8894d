//! Both services over TLS on loopback, as a node agent uses them.

use std::collections::HashMap;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair};
use secrecy::{ExposeSecret as _, SecretString};
use sotto_proto::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sotto_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use sotto_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};

use super::*;
use crate::control_plane::ads::{Ads, AdsConfig};
use crate::control_plane::ca::{Admission, Authority, Ca, CaConfig, KeptAuthority};
use crate::control_plane::caller::{Authenticate, AuthenticateError, Caller, CallerPod};
use crate::control_plane::ends::Ends;
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::ObjectKey;
use crate::control_plane::snapshot::{Entry, NodeIdentity, PodFacts, Snapshot};
use crate::control_plane::source::Source;

mod floods;

const NAME: &str = "istiod.istio-system.svc";
const DETAILS: &str = "spiffe://cluster.local/ns/bookinfo/sa/details";

/// Knows the agent's token, and one of somebody else.
#[derive(Debug)]
struct Known;

impl Authenticate for Known {
    async fn authenticate(
        &self,
        token: &SecretString,
        _: Source,
    ) -> Result<Caller, AuthenticateError> {
        let pod = Some(CallerPod { name: "sotto-x".to_owned(), uid: "u1".to_owned() });
        match token.expose_secret() {
            "agent" => Ok(Caller { account: ObjectKey::new("istio-system", "sotto"), pod }),
            "other" => Ok(Caller { account: ObjectKey::new("foo", "web"), pod: None }),
            "slow" => Err(AuthenticateError::Unavailable("no API server".into())),
            _ => Err(AuthenticateError::Rejected("unknown token".to_owned())),
        }
    }
}

struct Server {
    address: SocketAddr,
    root_pem: String,
    snapshots: watch::Sender<Arc<Snapshot>>,
    shutdown: Shutdown,
    served: tokio::task::JoinHandle<Result<(), ServeError>>,
}

async fn start() -> Server {
    let now = SystemTime::now();
    let root = KeptAuthority::generate("cluster.local", now).unwrap();
    let authority = Arc::new(Authority::load(&root, now).unwrap());
    // What is held is not replaced here.
    let held = watch::channel(authority.clone()).1;
    let shutdown = Shutdown::new();
    let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let node_accounts: Arc<[ObjectKey]> = Arc::from([ObjectKey::new("istio-system", "sotto")]);
    let ads = Ads::service(AdsConfig {
        authenticator: Arc::new(Known),
        accounts: node_accounts.clone(),
        cluster_id: "Kubernetes".to_owned(),
        snapshots: receiver.clone(),
        metrics: Metrics::default(),
        shutdown: shutdown.clone(),
    });
    let ca = Ca::service(CaConfig {
        authenticator: Arc::new(Known),
        admission: Admission {
            node_accounts,
            trust_domain: "cluster.local".into(),
            workloads: false,
        },
        authority: held.clone(),
        cluster_id: "Kubernetes".to_owned(),
        snapshots: receiver,
        default_lifetime: Duration::from_secs(24 * 3600),
        max_lifetime: Duration::from_secs(24 * 3600),
        metrics: Metrics::default(),
    });
    let tls =
        tls(held, (vec![NAME.to_owned()], Ends::default()), SystemTime::now, &shutdown).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = shutdown.clone();
    let served =
        tokio::spawn(
            async move { grpc(listener, tls, (ads, ca), &Metrics::default(), &stop).await },
        );
    let root_pem = authority.bundle_pem().to_owned();
    Server { address, root_pem, snapshots, shutdown, served }
}

impl Server {
    async fn channel(&self) -> Channel {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.root_pem))
            .domain_name(NAME);
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    async fn create(
        &self,
        metadata: &[(&'static str, &str)],
        request: IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Status> {
        let mut client = IstioCertificateServiceClient::new(self.channel().await);
        client.create_certificate(with(metadata, request)).await.map(tonic::Response::into_inner)
    }

    /// What a request is refused with.
    async fn refused(
        &self,
        metadata: &[(&'static str, &str)],
        request: IstioCertificateRequest,
    ) -> (Code, String) {
        let status = self.create(metadata, request).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }

    async fn stop(self) {
        self.shutdown.drain(Duration::from_secs(5)).await.unwrap();
        self.served.await.unwrap().unwrap();
    }
}

fn with<T>(metadata: &[(&'static str, &str)], message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

fn csr() -> IstioCertificateRequest {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    let identity = prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(DETAILS.to_owned())),
    };
    let fields = [("ImpersonatedIdentity".to_owned(), identity)];
    IstioCertificateRequest {
        csr: params.serialize_request(&key).unwrap().pem().unwrap(),
        validity_duration: 3600,
        metadata: Some(prost_types::Struct { fields: fields.into() }),
    }
}

/// The agent, and a pod of `bookinfo/details`, on the same node.
fn node() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (namespace, account, name, uid) in
        [("istio-system", "sotto", "sotto-x", "u1"), ("bookinfo", "details", "details-x", "u2")]
    {
        let facts =
            PodFacts { uid: uid.into(), node: "n1".into(), service_account: account.into() };
        snapshot.pods.insert(ObjectKey::new(namespace, name), facts);
        let account = ObjectKey::new(namespace, account);
        snapshot.identities.insert(NodeIdentity { node: "n1".into(), account }, 1);
    }
    snapshot
}

const AGENT: [(&str, &str); 2] = [("authorization", "Bearer agent"), ("clusterid", "Kubernetes")];

#[tokio::test]
async fn an_agent_gets_a_certificate_for_a_pod_of_its_node() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    let answer = server.create(&AGENT, csr()).await.unwrap();
    assert_eq!(answer.cert_chain.len(), 2);
    assert_eq!(answer.cert_chain[1], server.root_pem);
    server.stop().await;
}

#[tokio::test]
async fn a_pod_not_heard_of_yet_is_waited_for() {
    let server = start().await;
    let snapshots = server.snapshots.clone();
    let idle = snapshots.receiver_count();
    let heard = async {
        // The request looks at snapshots itself once it waits.
        while snapshots.receiver_count() == idle {
            tokio::task::yield_now().await;
        }
        snapshots.send_replace(Arc::new(Snapshot::default()));
        snapshots.send_replace(Arc::new(node()));
    };
    let answer = tokio::join!(server.create(&AGENT, csr()), heard);
    answer.0.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn callers_that_prove_nothing_are_refused() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    let failure = (Code::Unauthenticated, "authentication failure".to_owned());
    for metadata in [
        &[][..],
        &[("authorization", "Basic agent")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Bearer forged")],
        &[("authorization", "Bearer agent"), ("clusterid", "elsewhere")],
    ] {
        assert_eq!(server.refused(metadata, csr()).await, failure, "{metadata:?}");
    }
    let unavailable = server.refused(&[("authorization", "Bearer slow")], csr()).await;
    assert_eq!(unavailable, (Code::Unavailable, "token cannot be reviewed".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn requests_that_may_not_be_granted_are_refused() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    let impersonation =
        (Code::Unauthenticated, "request impersonation authentication failure".to_owned());
    let other = [("authorization", "Bearer other")];
    assert_eq!(server.refused(&other, csr()).await, impersonation);
    let mut odd = csr();
    odd.metadata.as_mut().unwrap().fields.values_mut().for_each(|value| value.kind = None);
    assert_eq!(server.refused(&AGENT, odd).await, impersonation);

    let past = IstioCertificateRequest { validity_duration: -1, ..csr() };
    assert_eq!(server.refused(&AGENT, past).await.0, Code::InvalidArgument);
    let garbage = IstioCertificateRequest { csr: "garbage".to_owned(), ..csr() };
    assert_eq!(server.refused(&AGENT, garbage).await.0, Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn a_workload_gets_no_certificate_of_its_own() {
    let server = start().await;
    let own = IstioCertificateRequest { metadata: None, validity_duration: 0, ..csr() };
    let refused = server.refused(&[("authorization", "Bearer other")], own).await;
    let told = "request impersonation authentication failure".to_owned();
    assert_eq!(refused, (Code::Unauthenticated, told));
    server.stop().await;
}

#[tokio::test]
async fn whoever_asks_for_long_gets_the_longest() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    for (asked, hours) in [(90 * 24 * 3600, 24), (i64::MAX, 24), (0, 24), (3600, 1)] {
        let request = IstioCertificateRequest { validity_duration: asked, ..csr() };
        let answer = server.create(&AGENT, request).await.unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(answer.cert_chain[0].as_bytes()).unwrap();
        let ends = pem.parse_x509().unwrap().validity().time_to_expiration().unwrap();
        let ends = ends.whole_minutes();
        assert!((hours * 60 - 2..=hours * 60).contains(&ends), "{asked}: {ends} minutes");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_is_no_certificate_s_is_not_read_to_its_end() {
    let server = start().await;
    let large = IstioCertificateRequest { csr: "x".repeat(1 << 20), ..csr() };
    assert_eq!(server.refused(&[], large).await.0, Code::OutOfRange);
    server.stop().await;
}

fn resources(pairs: &[(&str, &str)]) -> crate::control_plane::snapshot::Resources {
    let entry = |version: &str| Entry { version: version.into(), body: Arc::from(*b"x") };
    pairs.iter().map(|(name, version)| (arcstr::ArcStr::from(*name), entry(version))).collect()
}

fn mesh(addresses: &[(&str, &str)], policies: &[(&str, &str)]) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        addresses: resources(addresses),
        authorizations: resources(policies),
        ..Snapshot::default()
    })
}

struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Subscriber {
    async fn open(server: &Server, metadata: &[(&'static str, &str)]) -> Result<Self, Status> {
        let mut client = AggregatedDiscoveryServiceClient::new(server.channel().await);
        let (requests, outgoing) = mpsc::channel(8);
        let request = with(metadata, ReceiverStream::new(outgoing));
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn subscribe(&self, type_url: &str, held: &[(&str, &str)]) {
        let held = held.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            initial_resource_versions: held.collect::<HashMap<_, _>>(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next response, acknowledged: its type's last word, names and removed names.
    async fn next(&mut self) -> (String, Vec<String>, Vec<String>) {
        let wait = timeout(Duration::from_secs(5), self.responses.message());
        let response = wait.await.unwrap().unwrap().unwrap();
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(answer).await.unwrap();
        let kind = response.type_url.rsplit('.').next().unwrap().to_owned();
        let names = response.decoded().unwrap().into_iter().map(|resource| resource.name).collect();
        (kind, names, response.removed_resources)
    }
}

fn told(kind: &str, names: &[&str], removed: &[&str]) -> (String, Vec<String>, Vec<String>) {
    let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    (kind.to_owned(), all(names), all(removed))
}

#[tokio::test]
async fn a_node_follows_the_mesh() {
    let server = start().await;
    server.snapshots.send_replace(mesh(&[("a", "1"), ("b", "1")], &[("p", "1")]));
    let mut node = Subscriber::open(&server, &AGENT).await.unwrap();
    node.subscribe(AUTHORIZATION_TYPE, &[]).await;
    assert_eq!(node.next().await, told("Authorization", &["p"], &[]));
    node.subscribe(ADDRESS_TYPE, &[("a", "1"), ("gone", "1")]).await;
    assert_eq!(node.next().await, told("Address", &["b"], &["gone"]));
    server.snapshots.send_replace(mesh(&[("a", "2")], &[("q", "1")]));
    assert_eq!(node.next().await, told("Authorization", &["q"], &[]));
    assert_eq!(node.next().await, told("Address", &["a"], &["b"]));
    assert_eq!(node.next().await, told("Authorization", &[], &["p"]));
    server.stop().await;
    let end = timeout(Duration::from_secs(5), node.responses.message()).await.unwrap();
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn only_node_agents_may_subscribe() {
    let server = start().await;
    let refused = |metadata: Vec<(&'static str, &'static str)>| {
        let server = &server;
        async move { Subscriber::open(server, &metadata).await.err().unwrap().code() }
    };
    assert_eq!(refused(vec![]).await, Code::Unauthenticated);
    assert_eq!(refused(vec![("authorization", "Bearer other")]).await, Code::PermissionDenied);
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_by_name_is_an_error() {
    let server = start().await;
    let mut node = Subscriber::open(&server, &AGENT).await.unwrap();
    let request = DeltaDiscoveryRequest {
        type_url: ADDRESS_TYPE.to_owned(),
        resource_names_subscribe: vec!["/10.0.0.1".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    node.requests.send(request).await.unwrap();
    let status = node.responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn garbage_harms_nobody_else() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut garbage = TcpStream::connect(server.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut end = Vec::new();
    // An alert and the end, or a reset.
    drop(garbage.read_to_end(&mut end).await);
    server.create(&AGENT, csr()).await.unwrap();
    server.stop().await;
    drop(silent.read_to_end(&mut end).await);
}
