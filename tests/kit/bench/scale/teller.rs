//! A control plane that tells of a mesh of any size, and of its changes one by one. It is another machine's: it stands
//! behind everything else.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rcgen::{CertificateParams, Issuer, KeyPair};
use sotto::sys::priority;
use sotto_proto::ads::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Cluster, SYSTEM};
use crate::netns;
use crate::topology::CONTROL_PLANE_IP;

/// The name that agents want in its certificate.
const NAME: &str = "istiod.istio-system.svc";
/// Changes that an agent may be behind.
const BEHIND: usize = 100_000;

/// What happened on an agent's stream.
#[derive(Debug)]
pub(super) enum Heard {
    /// The first response was made, and is on its way.
    Sent(Instant),
    /// A response was taken: its nonce.
    Taken(String, Instant),
    /// One was refused: why.
    Refused(String),
}

/// The control plane.
pub(super) struct Teller {
    pub(super) at: SocketAddr,
    changes: broadcast::Sender<DeltaDiscoveryResponse>,
    heard: mpsc::Receiver<Heard>,
}

impl Teller {
    /// Starts it in the control plane's place, at a port.
    pub(super) async fn start(
        cluster: &Cluster,
        port: u16,
        all: DeltaDiscoveryResponse,
    ) -> Result<Self> {
        let at = SocketAddr::from((CONTROL_PLANE_IP, port));
        let listener = netns::within(&cluster.fabric.control_plane, || TcpListener::bind(at))??;
        listener.set_nonblocking(true)?;
        let tls = ServerTlsConfig::new().identity(identity(cluster).await?);
        let server = Server::builder().tls_config(tls)?;
        let (changes, _) = broadcast::channel(BEHIND);
        let (sender, heard) = mpsc::channel(BEHIND);
        let service = AggregatedDiscoveryServiceServer::new(Service {
            all: Arc::new(all),
            changes: changes.clone(),
            heard: sender,
        })
        .max_decoding_message_size(256 << 20);
        std::thread::spawn(move || -> Result<()> {
            priority::step_back()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let incoming = TcpListenerStream::new(listener);
                Ok(server.serve_with_incoming(service, incoming).await?)
            })
        });
        Ok(Self { at, changes, heard })
    }

    /// What happens next on any stream.
    pub(super) async fn heard(&mut self) -> Result<Heard> {
        let next = tokio::time::timeout(super::LIMIT, self.heard.recv()).await;
        next.context("the agent says nothing")?.context("the control plane broke")
    }

    /// When a response was taken.
    pub(super) async fn taken(&mut self, nonce: &str) -> Result<Instant> {
        loop {
            match self.heard().await? {
                Heard::Taken(own, at) if own == nonce => return Ok(at),
                Heard::Refused(why) => anyhow::bail!("the agent refused: {why}"),
                Heard::Taken(..) | Heard::Sent(_) => {}
            }
        }
    }

    /// Tells of a change, without waiting.
    pub(super) fn tell(&self, change: DeltaDiscoveryResponse) -> Result<()> {
        self.changes.send(change).map(drop).map_err(|_| anyhow::anyhow!("no agent listens"))
    }
}

/// What a server of the control plane's name shows.
async fn identity(cluster: &Cluster) -> Result<Identity> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let data = secrets.get("sotto-ca-secret").await?.data.context("a secret of nothing")?;
    let text = |key: &str| -> Result<String> {
        Ok(String::from_utf8(data.get(key).context("no such key")?.0.clone())?)
    };
    let root = KeyPair::from_pem(&text("ca-key.pem")?)?;
    let issuer = Issuer::from_ca_cert_pem(&text("ca-cert.pem")?, root)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &issuer)?;
    Ok(Identity::from_pem(leaf.pem(), key.serialize_pem()))
}

struct Service {
    all: Arc<DeltaDiscoveryResponse>,
    changes: broadcast::Sender<DeltaDiscoveryResponse>,
    heard: mpsc::Sender<Heard>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, stream) = mpsc::channel(4);
        let told = Told {
            requests: request.into_inner(),
            responses,
            changes: self.changes.subscribe(),
            heard: self.heard.clone(),
        };
        tokio::spawn(told.run(self.all.clone()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One agent's stream.
struct Told {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    changes: broadcast::Receiver<DeltaDiscoveryResponse>,
    heard: mpsc::Sender<Heard>,
}

impl Told {
    /// Ends with the stream.
    async fn run(mut self, all: Arc<DeltaDiscoveryResponse>) -> Option<()> {
        loop {
            tokio::select! {
                request = self.requests.message() => self.answer(request.ok()??, &all).await?,
                change = self.changes.recv() => self.responses.send(Ok(change.ok()?)).await.ok()?,
            }
        }
    }

    async fn answer(
        &self,
        asked: DeltaDiscoveryRequest,
        all: &DeltaDiscoveryResponse,
    ) -> Option<()> {
        let heard = match (asked.response_nonce.is_empty(), asked.error_detail) {
            (false, Some(status)) => Heard::Refused(status.message),
            (false, None) => Heard::Taken(asked.response_nonce, Instant::now()),
            (true, _) => {
                let first = match asked.type_url.as_str() {
                    // Who comes again has it.
                    ADDRESS_TYPE if asked.initial_resource_versions.is_empty() => all.clone(),
                    other => super::world::told(other, "none", Vec::new()),
                };
                self.responses.send(Ok(first)).await.ok()?;
                Heard::Sent(Instant::now())
            }
        };
        debug_assert!([ADDRESS_TYPE, AUTHORIZATION_TYPE].contains(&asked.type_url.as_str()));
        self.heard.send(heard).await.ok()
    }
}
