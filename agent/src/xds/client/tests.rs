//! The client against a control plane on the loopback, over TLS.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use prost::Message;
use prost_types::Any;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sotto_proto::ads::Resource;
use sotto_proto::ads::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, workload as proto};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::mesh::{Given, MeshReader, WorkloadUid};

use super::super::status::{StatusReader, XdsStatus};
use super::*;

/// Long enough for anything that will happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream as the control plane sees it.
struct Stream {
    token: String,
    cluster: Option<String>,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, tonic::Status>>,
}

impl Stream {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon(self.requests.message()).await.unwrap().unwrap()
    }

    async fn respond(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }

    /// Both initial requests, by type.
    async fn initial(&mut self) -> BTreeMap<String, DeltaDiscoveryRequest> {
        let both = [self.request().await, self.request().await];
        both.into_iter().map(|request| (request.type_url.clone(), request)).collect()
    }
}

/// Hands every stream to the test.
struct ControlPlane(mpsc::Sender<Stream>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for ControlPlane {
    type DeltaAggregatedResourcesStream =
        ReceiverStream<Result<DeltaDiscoveryResponse, tonic::Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        let (responses, stream) = mpsc::channel(4);
        let header = |name| Some(request.metadata().get(name)?.to_str().unwrap().to_owned());
        let (token, cluster) = (header("authorization").unwrap(), header("clusterid"));
        let stream_seen = Stream { token, cluster, requests: request.into_inner(), responses };
        self.0.send(stream_seen).await.unwrap();
        Ok(tonic::Response::new(ReceiverStream::new(stream)))
    }
}

struct World {
    directory: tempfile::TempDir,
    address: SocketAddr,
    streams: mpsc::Receiver<Stream>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.abort();
    }
}

/// A root, and a server identity of `control-plane.test` under it.
fn certificates() -> (String, Identity) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["control-plane.test".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    (root_pem, Identity::from_pem(leaf.pem(), key.serialize_pem()))
}

async fn world() -> World {
    let (root, identity) = certificates();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("root.pem"), root).unwrap();
    std::fs::write(directory.path().join("token"), "first\n").unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, streams) = mpsc::channel(4);
    let service = AggregatedDiscoveryServiceServer::new(ControlPlane(sender));
    let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    let server = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        server.serve_with_incoming(service, incoming).await.unwrap();
    });
    World { directory, address, streams, stop: CancellationToken::new(), server }
}

impl World {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self) -> (MeshReader, StatusReader, JoinHandle<()>) {
        self.start_with(XdsConfig::RENEWAL)
    }

    fn start_with(&self, renewal: Duration) -> (MeshReader, StatusReader, JoinHandle<()>) {
        let cluster_id = Some("Kubernetes".into());
        self.start_on(renewal, Given { cluster_id, ..Given::default() })
    }

    fn start_on(
        &self,
        renewal: Duration,
        given: Given,
    ) -> (MeshReader, StatusReader, JoinHandle<()>) {
        let config = XdsConfig { renewal, ..config(self.address, self.directory.path()) };
        let (store, reader) = Store::on(given);
        let (writer, status) = StatusWriter::new();
        let task = tokio::spawn(run(config, store, self.stop.clone(), writer));
        (reader, status, task)
    }

    async fn stream(&mut self) -> Stream {
        soon(self.streams.recv()).await.unwrap()
    }
}

fn config(address: SocketAddr, directory: &Path) -> XdsConfig {
    XdsConfig {
        address: format!("https://{address}"),
        server_name: Some("control-plane.test".to_owned()),
        root_cert: directory.join("root.pem"),
        token: directory.join("token"),
        node_name: "node1".to_owned(),
        pod_name: "sotto-x".to_owned(),
        pod_namespace: "istio-system".to_owned(),
        root_namespace: "istio-system".to_owned(),
        instance_ip: IpAddr::from([172, 31, 0, 11]),
        renewal: XdsConfig::RENEWAL,
        kept: None,
        metadata: BTreeMap::new(),
        headers: Default::default(),
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it happens in time")
}

async fn status(reader: &mut StatusReader, is: impl FnMut(&XdsStatus) -> bool) -> XdsStatus {
    soon(reader.wait_for(is)).await.unwrap().clone()
}

/// A pod of the cluster that its name begins with.
fn workload(uid: &str, nonce: &str) -> DeltaDiscoveryResponse {
    let cluster_id = uid.split("//").next().unwrap_or_default().to_owned();
    let workload = proto::Workload {
        uid: uid.into(),
        namespace: "ns".into(),
        cluster_id,
        ..Default::default()
    };
    let address = proto::Address { r#type: Some(proto::address::Type::Workload(workload)) };
    let any = Any { type_url: ADDRESS_TYPE.into(), value: address.encode_to_vec() };
    let resource =
        Resource { name: uid.into(), version: "v1".into(), resource: Some(any), aliases: vec![] };
    DeltaDiscoveryResponse { resources: vec![resource.encoded()], ..empty(ADDRESS_TYPE, nonce) }
}

fn empty(type_url: &str, nonce: &str) -> DeltaDiscoveryResponse {
    let (type_url, nonce) = (type_url.to_owned(), nonce.to_owned());
    DeltaDiscoveryResponse { type_url, nonce, ..Default::default() }
}

#[tokio::test]
async fn a_client_learns_acknowledges_and_comes_back_for_what_changed() {
    let mut world = world().await;
    let (reader, mut state, _task) = world.start();
    let mut stream = world.stream().await;
    assert_eq!((&*stream.token, stream.cluster.as_deref()), ("Bearer first", Some("Kubernetes")));
    let initial = stream.initial().await;
    let node = initial[ADDRESS_TYPE].node.as_ref().unwrap();
    let id = "ztunnel~172.31.0.11~sotto-x.istio-system~istio-system.svc.cluster.local";
    assert_eq!(node.id, id);
    let fields = &node.metadata.as_ref().unwrap().fields;
    let names = ["CLUSTER_ID", "INSTANCE_IPS", "NAME", "NAMESPACE", "NODE_NAME"];
    assert_eq!(fields.keys().collect::<Vec<_>>(), names);
    assert!(initial[AUTHORIZATION_TYPE].initial_resource_versions.is_empty());

    stream.respond(workload("uid-a", "1")).await;
    let ack = stream.request().await;
    assert_eq!((&*ack.response_nonce, ack.error_detail), ("1", None));
    let uid = WorkloadUid("uid-a".into());
    assert!(reader.load().workload(&uid).is_some() && !reader.load().synced());
    stream.respond(empty(AUTHORIZATION_TYPE, "2")).await;
    assert_eq!(stream.request().await.response_nonce, "2");
    assert!(reader.load().synced());
    let now = status(&mut state, XdsStatus::synced).await;
    assert!(now.connected && now.last_error.is_none());
    assert_eq!(now.address.held, 1);

    // The token has been rotated when the control plane ends the stream.
    std::fs::write(world.path("token"), "second").unwrap();
    drop(stream);
    let mut stream = world.stream().await;
    assert_eq!(stream.token, "Bearer second");
    let versions = stream.initial().await.remove(ADDRESS_TYPE).unwrap().initial_resource_versions;
    assert_eq!(versions, [("uid-a".to_owned(), "v1".to_owned())].into());
    let now = status(&mut state, |status| status.terminations.complete == 1).await;
    assert!(!now.connected && now.synced());
    // What was learnt stays in force.
    assert!(reader.load().workload(&uid).is_some());
    let gone = DeltaDiscoveryResponse {
        removed_resources: vec!["uid-a".to_owned()],
        ..empty(ADDRESS_TYPE, "3")
    };
    stream.respond(gone).await;
    assert_eq!(stream.request().await.response_nonce, "3");
    assert!(reader.load().workload(&uid).is_none());
}

#[tokio::test]
async fn a_rejected_resource_is_reported_until_it_is_replaced() {
    let mut world = world().await;
    let (reader, mut state, _task) = world.start();
    let mut stream = world.stream().await;
    stream.initial().await;
    let mut bad = workload("uid-a", "1");
    let mut broken = bad.decoded().unwrap().remove(0);
    broken.resource.as_mut().unwrap().value = vec![0xff];
    bad.resources = vec![broken.encoded()];
    bad.resources.extend(workload("uid-b", "1").resources);
    stream.respond(bad).await;
    let nack = stream.request().await;
    assert!(nack.error_detail.unwrap().message.starts_with("uid-a: malformed message"));
    assert!(reader.load().workload(&WorkloadUid("uid-b".into())).is_some());
    let now = status(&mut state, |status| !status.rejected.is_empty()).await;
    assert_eq!(now.rejected.keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["uid-a"]);
    assert!(now.rejected.values().all(|why| why.ends_with("; it is left out")));
    assert_eq!((now.address.messages, now.address.rejected_messages), (1, 1));
    stream.respond(workload("uid-a", "2")).await;
    assert_eq!(stream.request().await.error_detail, None);
    status(&mut state, |status| status.rejected.is_empty()).await;
}

#[tokio::test]
async fn a_control_plane_of_another_root_is_not_believed_until_the_root_file_says_so() {
    let mut world = world().await;
    let right = std::fs::read(world.path("root.pem")).unwrap();
    std::fs::write(world.path("root.pem"), certificates().0).unwrap();
    let (_reader, mut state, _task) = world.start();
    let now = status(&mut state, |status| status.terminations.connection_error >= 2).await;
    assert!(
        now.last_error.as_ref().unwrap().contains("invalid peer certificate"),
        "{:?}",
        now.last_error
    );
    assert!(world.streams.try_recv().is_err());
    std::fs::write(world.path("root.pem"), right).unwrap();
    world.stream().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let world = world().await;
    let check = async |name: &str, content: Option<&str>, expected: &str| {
        let path = world.path(name);
        let before = std::fs::read(&path).unwrap();
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let (_reader, mut state, task) = world.start();
        let now = status(&mut state, |status| status.terminations.connection_error > 0).await;
        let error = now.last_error.unwrap().replace(world.directory.path().to_str().unwrap(), "D");
        assert_eq!(error, expected);
        task.abort();
        std::fs::write(&path, before).unwrap();
    };
    let missing = "No such file or directory (os error 2)";
    check("token", None, &format!("failed to read D/token: {missing}")).await;
    check("root.pem", None, &format!("failed to read D/root.pem: {missing}")).await;
    check("root.pem", Some("hello"), "no certificate in D/root.pem").await;
    check("token", Some(" \n"), "an empty token cannot be sent in a header").await;
    check("token", Some("a\u{1}b"), "the token cannot be sent in a header").await;
}

/// Long enough for a test to see what comes before it.
const RENEWAL: Duration = Duration::from_millis(300);

#[tokio::test]
async fn the_next_stream_stands_before_the_old_one_is_let_go() {
    let mut world = world().await;
    let (reader, mut state, _task) = world.start_with(RENEWAL);
    let mut old = world.stream().await;
    old.initial().await;
    old.respond(workload("uid-a", "1")).await;
    old.request().await;
    let mut new = world.stream().await;
    assert!(!old.responses.is_closed(), "the old one is gone before the next stands");
    let versions = new.initial().await.remove(ADDRESS_TYPE).unwrap().initial_resource_versions;
    assert_eq!(versions, [("uid-a".to_owned(), "v1".to_owned())].into());
    // Not listened to any more: what it tells now, the next one must.
    old.respond(workload("uid-b", "2")).await;
    new.respond(workload("uid-c", "1")).await;
    assert_eq!(new.request().await.response_nonce, "1");
    soon(old.responses.closed()).await;
    let has = |uid: &str| reader.load().workload(&WorkloadUid(uid.into())).is_some();
    assert!(has("uid-a") && has("uid-c") && !has("uid-b"));
    let now = status(&mut state, |status| status.connected).await;
    assert_eq!(now.terminations, Default::default(), "nothing ended");
    new.respond(workload("uid-b", "2")).await;
    assert_eq!(new.request().await.response_nonce, "2");
    assert!(has("uid-b"));
}

#[tokio::test]
async fn the_cluster_is_told_as_soon_as_the_control_plane_has_said_which_it_is() {
    let mut world = world().await;
    let (reader, ..) = world.start_on(XdsConfig::RENEWAL, Given::default());
    let mut nameless = world.stream().await;
    assert_eq!(nameless.cluster, None);
    let fields = |initial: &BTreeMap<String, DeltaDiscoveryRequest>| {
        initial[ADDRESS_TYPE].node.as_ref().unwrap().metadata.as_ref().unwrap().fields.clone()
    };
    assert!(!fields(&nameless.initial().await).contains_key("CLUSTER_ID"));
    nameless.respond(workload("east//Pod/ns/a", "1")).await;
    nameless.request().await;
    nameless.respond(empty(AUTHORIZATION_TYPE, "2")).await;
    nameless.request().await;
    assert_eq!(reader.load().cluster_id().map(|id| id.as_str()), Some("east"));
    let mut named = world.stream().await;
    assert_eq!(named.cluster.as_deref(), Some("east"));
    let told = fields(&named.initial().await)["CLUSTER_ID"].kind.clone();
    assert_eq!(told, Some(prost_types::value::Kind::StringValue("east".to_owned())));
    // The old one ends only now that there is the next.
    assert!(!nameless.responses.is_closed());
    named.respond(empty(ADDRESS_TYPE, "1")).await;
    named.request().await;
    soon(nameless.responses.closed()).await;
}

#[tokio::test]
async fn a_cluster_that_was_given_another_name_is_not_called_by_the_old_one_for_ever() {
    let mut world = world().await;
    let (reader, ..) = world.start_on(XdsConfig::RENEWAL, Given::default());
    let mut stream = world.stream().await;
    stream.initial().await;
    stream.respond(workload("east//Pod/ns/a", "1")).await;
    stream.request().await;
    drop(stream);
    assert_eq!(reader.load().cluster_id().map(|id| id.as_str()), Some("east"));
    let refuse = async |stream: Stream| {
        let refusal = tonic::Status::unauthenticated("authentication failure");
        stream.responses.send(Err(refusal)).await.unwrap();
    };
    let named = world.stream().await;
    assert_eq!(named.cluster.as_deref(), Some("east"));
    refuse(named).await;
    let nameless = world.stream().await;
    assert_eq!(nameless.cluster, None, "istiod takes it for one of its own then");
    // It may have been the token, for a moment.
    refuse(nameless).await;
    assert_eq!(world.stream().await.cluster.as_deref(), Some("east"));
}

#[tokio::test]
async fn an_old_stream_goes_on_when_there_is_no_next_one() {
    let mut world = world().await;
    let (reader, mut state, _task) = world.start_with(RENEWAL);
    let mut old = world.stream().await;
    old.initial().await;
    old.respond(workload("uid-a", "1")).await;
    old.request().await;
    // The next one is refused, again and again.
    for nonce in ["2", "3"] {
        let refused = world.stream().await;
        let status = tonic::Status::unauthenticated("not now");
        refused.responses.send(Err(status)).await.unwrap();
        old.respond(workload(&format!("uid-{nonce}"), nonce)).await;
        assert_eq!(old.request().await.response_nonce, nonce);
    }
    assert!(reader.load().workload(&WorkloadUid("uid-3".into())).is_some());
    let now = status(&mut state, |status| status.connected).await;
    assert_eq!(now.terminations, Default::default(), "nothing ended");
    // It ends: then as ever.
    drop(old);
    status(&mut state, |status| status.terminations.complete == 1).await;
}

#[tokio::test]
async fn a_refused_token_is_explained() {
    let mut world = world().await;
    let (_reader, mut state, _task) = world.start();
    let stream = world.stream().await;
    let refusal = tonic::Status::unauthenticated("authentication failure");
    stream.responses.send(Err(refusal)).await.unwrap();
    let told = status(&mut state, |status| status.last_error.is_some()).await.last_error.unwrap();
    for word in ["authentication failure", "istio-ca", "--cluster-id"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[tokio::test]
async fn a_client_told_to_stop_stops() {
    let mut world = world().await;
    let (_reader, _state, task) = world.start();
    let _stream = world.stream().await;
    world.stop.cancel();
    soon(task).await.unwrap();
}

#[tokio::test]
async fn a_type_not_asked_for_is_ignored() {
    let mut world = world().await;
    let (reader, _state, _task) = world.start();
    let mut stream = world.stream().await;
    stream.initial().await;
    stream.respond(empty("type.googleapis.com/other", "1")).await;
    stream.respond(workload("uid-a", "2")).await;
    assert_eq!(stream.request().await.response_nonce, "2");
    assert!(reader.load().workload(&WorkloadUid("uid-a".into())).is_some());
}

/// An agent that has learnt of a workload, written down, and ended.
async fn known_before(world: &mut World) -> Kept {
    let kept = Kept::new(world.directory.path(), "m".to_owned());
    let (reader, mut state, task) = world.start();
    let mut stream = world.stream().await;
    stream.initial().await;
    stream.respond(workload("uid-a", "1")).await;
    stream.respond(empty(AUTHORIZATION_TYPE, "2")).await;
    status(&mut state, XdsStatus::synced).await;
    let stop = CancellationToken::new();
    stop.cancel();
    kept.clone().keep(reader, state, stop).await;
    task.abort();
    kept
}

#[tokio::test]
async fn without_a_control_plane_the_mesh_is_as_it_was_until_there_is_one() {
    let mut world = world().await;
    let kept = known_before(&mut world).await;
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let at = world.address;
    for (address, after) in [(nobody, None), (at, Some("uid-b"))] {
        let kept = Some(kept.clone());
        let config = XdsConfig { kept, ..config(address, world.directory.path()) };
        let (store, reader) = Store::new();
        let (writer, mut state) = StatusWriter::new();
        let task = tokio::spawn(run(config, store, world.stop.clone(), writer));
        let mut changes = reader.changes();
        while !reader.load().synced() {
            soon(changes.changed()).await.unwrap();
        }
        let has = |uid: &str| reader.load().workload(&WorkloadUid(uid.into())).is_some();
        assert!(has("uid-a") && !state.borrow().synced(), "that is no answer of a control plane");
        if let Some(after) = after {
            // The attempt before the agent went by what it knew was left.
            let _left = world.stream().await;
            let mut stream = world.stream().await;
            stream.initial().await;
            stream.respond(workload(after, "1")).await;
            stream.respond(empty(AUTHORIZATION_TYPE, "2")).await;
            status(&mut state, XdsStatus::synced).await;
            assert!(has(after) && !has("uid-a"), "what it does not have is gone");
        }
        task.abort();
    }
}
