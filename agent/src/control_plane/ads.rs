//! Delta ADS: tells each node what the mesh is, and then only what changes.

mod room;
mod session;
mod stream;

use std::sync::Arc;

use sotto_proto::ads::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::caller::{Authenticate, authenticate};
use super::gate::Ticket;
use super::metrics::Metrics;
use super::model::ObjectKey;
use super::snapshot::Snapshot;
use crate::sys::Shutdown;

/// The largest request: a reconnecting node names all it holds.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// Serves snapshots to node agents.
#[derive(Debug)]
pub struct Ads<A> {
    authenticator: Arc<A>,
    accounts: Arc<[ObjectKey]>,
    cluster_id: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    room: room::Room,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// What [`Ads`] is made of.
#[derive(Debug)]
pub struct AdsConfig<A> {
    /// Tells who calls.
    pub authenticator: Arc<A>,
    /// Service accounts that may subscribe.
    pub accounts: Arc<[ObjectKey]>,
    /// The cluster whose nodes may.
    pub cluster_id: String,
    /// What to tell them.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Counts.
    pub metrics: Metrics,
    /// Owns the streams.
    pub shutdown: Shutdown,
}

impl<A: Authenticate> Ads<A> {
    /// The gRPC service.
    pub fn service(config: AdsConfig<A>) -> AggregatedDiscoveryServiceServer<Self> {
        let AdsConfig { authenticator, accounts, cluster_id, snapshots, metrics, shutdown } =
            config;
        AggregatedDiscoveryServiceServer::new(Self {
            authenticator,
            accounts,
            cluster_id,
            snapshots,
            room: room::Room::default(),
            metrics,
            shutdown,
        })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

#[tonic::async_trait]
impl<A: Authenticate> AggregatedDiscoveryService for Ads<A> {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let ticket = Ticket::of(request.extensions());
        let call = (request.metadata(), ticket.as_deref());
        let caller = authenticate(&*self.authenticator, call, &self.cluster_id).await?;
        if !self.accounts.contains(&caller.account) {
            let account = &caller.account;
            if ticket.is_none_or(|ticket| ticket.spend()) {
                tracing::warn!(%account, "subscriber is not a trusted node account");
            }
            return Err(Status::permission_denied(format!(
                "service account {account} is not a trusted node account"
            )));
        }
        ticket.iter().for_each(|ticket| ticket.prove());
        // One response of each type is in flight at most, so this never fills.
        let (out, responses) = mpsc::channel(2);
        let stream = stream::Stream {
            caller,
            requests: request.into_inner(),
            responses: out,
            snapshots: self.snapshots.clone(),
            room: self.room.clone(),
            metrics: self.metrics.clone(),
            stop: self.shutdown.token.clone(),
        };
        self.shutdown.spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
