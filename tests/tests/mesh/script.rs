//! A control plane that says what the test tells it to, in the order the test wants.
//!
//! One agent is started again with it as its source of discovery; certificates still come from the
//! real control plane.

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kit::netns;
use kit::topology::CONTROL_PLANE_IP;
use kube::ResourceExt;
use prost::Message;
use prost_types::Any;
use sotto::sys::priority;
use sotto_proto::ads::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use sotto_proto::security::Authorization;
use sotto_proto::workload::{Address, Service, TunnelProtocol, Workload, address::Type};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::bench::Bench;
use super::hbone::Root;

const PORT: u16 = 15099;
/// The name that agents want in its certificate.
const NAME: &str = "istiod.istio-system.svc";
/// An agent connects and answers sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent's stream, both ways.
pub(crate) struct Script {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    nonce: u64,
}

impl Script {
    /// Starts the agent of a node, by number from 1, again, and takes its stream. Nothing has been
    /// told on it but of the agent's own pod, and the node's pods are captured.
    pub(crate) async fn take(bench: &mut Bench, number: usize) -> Self {
        let root = Root::of_mesh(&bench.cluster).await;
        let at = SocketAddr::from((CONTROL_PLANE_IP, PORT));
        let place = &bench.cluster.fabric.control_plane;
        let listener = netns::within(place, || TcpListener::bind(at)).unwrap().unwrap();
        let (sender, mut streams) = mpsc::channel(1);
        let tls = ServerTlsConfig::new().identity(root.server(NAME));
        let server = Server::builder().tls_config(tls).unwrap();
        let service = AggregatedDiscoveryServiceServer::new(Taking(sender));
        elsewhere(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            server.serve_with_incoming(service, TcpListenerStream::new(listener)).await.unwrap();
        });
        let agent = &mut bench.cluster.agents[number - 1].process;
        agent.kill().await.unwrap();
        agent.argv_mut().retain(|flag| !flag.starts_with("--xds-address="));
        let flags = [
            format!("--xds-address=https://{at}"),
            format!("--ca-address=https://{CONTROL_PLANE_IP}:15012"),
        ];
        agent.argv_mut().extend(flags);
        agent.start().unwrap();
        let taken = tokio::time::timeout(PATIENCE, streams.recv()).await.unwrap();
        let mut script = taken.unwrap();
        let asked = [script.request().await.type_url, script.request().await.type_url];
        assert_eq!(asked, [ADDRESS_TYPE, AUTHORIZATION_TYPE]);
        // Of the agent's own pod any control plane tells: it says where the node is in the mesh.
        let agents = bench.cluster.pods("istio-system", "app=sotto").await.unwrap();
        let node = bench.agent(number).node().to_owned();
        let is_own = |pod: &&Pod| pod.spec.as_ref().unwrap().node_name.as_ref() == Some(&node);
        let own = workload(agents.iter().find(is_own).unwrap(), &[]);
        let tunnel_protocol = TunnelProtocol::None.into();
        script.workloads(vec![Workload { tunnel_protocol, ..own }]).await;
        captured(bench, number).await;
        script
    }

    /// Tells of workloads, and returns once the agent has taken them.
    pub(crate) async fn workloads(&mut self, workloads: Vec<Workload>) {
        let resources = workloads.into_iter().map(|workload| {
            let (name, message) = (workload.uid.clone(), Type::Workload(workload));
            resource(ADDRESS_TYPE, name, &Address { r#type: Some(message) })
        });
        self.tell(ADDRESS_TYPE, resources.collect(), vec![]).await;
    }

    /// Tells of services.
    pub(crate) async fn services(&mut self, services: Vec<Service>) {
        let resources = services.into_iter().map(|service| {
            let name = format!("{}/{}", service.namespace, service.hostname);
            resource(ADDRESS_TYPE, name, &Address { r#type: Some(Type::Service(service)) })
        });
        self.tell(ADDRESS_TYPE, resources.collect(), vec![]).await;
    }

    /// Tells of policies.
    pub(crate) async fn policies(&mut self, policies: Vec<Authorization>) {
        self.tell(AUTHORIZATION_TYPE, encode(policies), vec![]).await;
    }

    /// Takes policies away.
    pub(crate) async fn remove(&mut self, names: &[&str]) {
        let names = names.iter().map(|name| String::from(*name)).collect();
        self.tell(AUTHORIZATION_TYPE, vec![], names).await;
    }

    /// Sends a response and waits until it is acknowledged.
    pub(crate) async fn tell(
        &mut self,
        type_url: &str,
        resources: Vec<Resource>,
        removed_resources: Vec<String>,
    ) {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let response = DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources: resources.iter().map(Resource::encoded).collect(),
            removed_resources,
            nonce: nonce.clone(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).await.unwrap();
        let answer = self.request().await;
        assert_eq!((answer.response_nonce, answer.error_detail), (nonce, None));
    }

    async fn request(&mut self) -> DeltaDiscoveryRequest {
        let next = tokio::time::timeout(PATIENCE, self.requests.message()).await;
        next.expect("an agent answers").unwrap().unwrap()
    }
}

/// Policies as they are told.
pub(crate) fn encode(policies: Vec<Authorization>) -> Vec<Resource> {
    let one = |policy: Authorization| {
        let name = format!("{}/{}", policy.namespace, policy.name);
        resource(AUTHORIZATION_TYPE, name, &policy)
    };
    policies.into_iter().map(one).collect()
}

/// A pod of the mesh, with the policies that select it.
pub(crate) fn workload(pod: &Pod, policies: &[&str]) -> Workload {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap());
    let (spec, status) = (pod.spec.clone().unwrap(), pod.status.clone().unwrap());
    let ips = status.pod_ips.unwrap_or_default().into_iter();
    let octets = |ip| match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{name}"),
        workload_name: name.clone(),
        name,
        namespace,
        addresses: ips.map(|ip| octets(ip.ip.parse().unwrap())).collect(),
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        service_account: spec.service_account_name.unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        authorization_policies: policies.iter().map(|name| String::from(*name)).collect(),
        cluster_id: String::from("Kubernetes"),
        ..Workload::default()
    }
}

fn resource(type_url: &str, name: String, message: &impl Message) -> Resource {
    let body = Any { type_url: type_url.to_owned(), value: message.encode_to_vec() };
    // A version that no two contents share.
    let version = format!("{:x}", rand::random::<u64>());
    Resource { name, version, resource: Some(body), aliases: vec![] }
}

/// Runs on a thread of its own behind everything else: it would be another machine's work.
pub(crate) fn elsewhere<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(move || {
        priority::step_back().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(work)
    })
}

/// Waits until the agent has its node's pods again.
async fn captured(bench: &Bench, number: usize) {
    let up = async || {
        let dump = bench.agent(number).config_dump().await?;
        let pods = dump["workloadState"].as_object().filter(|pods| !pods.is_empty());
        let identified = dump["certificates"].as_array().is_some_and(|all| {
            !all.is_empty() && all.iter().all(|one| one["state"] == "Available")
        });
        let up = pods.is_some_and(|pods| pods.values().all(|pod| pod["state"] == "Up"));
        Ok((up && identified).then_some(()))
    };
    bench.cluster.wait_until("the pods are captured", PATIENCE, up).await.unwrap();
}

/// Hands each agent's stream to the test; the first is the only one.
struct Taking(mpsc::Sender<Script>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Taking {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, stream) = mpsc::channel(4);
        let script = Script { requests: request.into_inner(), responses, nonce: 0 };
        let taken = self.0.send(script).await;
        taken.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
