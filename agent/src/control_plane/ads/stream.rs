//! One node's stream: the session, its clock and its channel.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::room::Room;
use super::session::{Heard, Session};
use crate::control_plane::caller::Caller;
use crate::control_plane::metrics::Metrics;
use crate::control_plane::snapshot::Snapshot;

/// A node that does not answer this long is not following any more: it must start again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a response may wait for the connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// After about this long a node must prove again who it is.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// One node's stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) caller: Caller,
    pub(super) requests: Streaming<DeltaDiscoveryRequest>,
    pub(super) responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) room: Room,
    pub(super) metrics: Metrics,
    pub(super) stop: CancellationToken,
}

impl Stream {
    /// Serves it until either side ends it.
    pub(super) async fn run(mut self) {
        let pod = self.caller.pod.as_ref().map_or("(unbound)", |pod| pod.name.as_str()).to_owned();
        tracing::info!(%pod, "node subscribed");
        self.metrics.nodes.inc();
        let end = self.serve(&pod).await;
        self.metrics.nodes.dec();
        match end {
            Ok(reason) => tracing::info!(%pod, reason, "node's stream ended"),
            Err(status) => {
                tracing::warn!(%pod, error = %status.message(), "node's stream failed");
                // The node may be gone already; then there is nobody to tell.
                self.responses.try_send(Err(status)).unwrap_or_default();
            }
        }
    }

    async fn serve(&mut self, pod: &str) -> Result<&'static str, Status> {
        let mut session = Session::default();
        let jitter = rand::rng().random_range(0.8..1.2);
        let renewal = sleep_until(Instant::now() + MAX_AGE.mul_f64(jitter));
        tokio::pin!(renewal);
        let mut answer_due = Instant::now();
        // For what the node has not answered yet.
        let mut room = None;
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            while let Some(push) = session.next(&snapshot) {
                let kind = push.kind;
                // Who has room does not wait for more, lest all wait for each other.
                if room.is_none() {
                    room = tokio::select! {
                        room = self.room.take(push.bytes()) => room,
                        () = self.stop.cancelled() => return Ok("control plane stops"),
                        () = self.responses.closed() => return Ok("closed by the node"),
                    };
                }
                let response = push.response();
                self.metrics.pushed(kind.name(), response.resources.len());
                tracing::debug!(
                    pod,
                    kind = kind.name(),
                    resources = response.resources.len(),
                    removed = response.removed_resources.len(),
                    "pushed"
                );
                match timeout(SEND_TIMEOUT, self.responses.send(Ok(response))).await {
                    Ok(Ok(())) => answer_due = Instant::now() + ANSWER_TIMEOUT,
                    Ok(Err(_)) => return Ok("closed by the node"),
                    Err(_) => return Err(Status::deadline_exceeded("node does not read")),
                }
            }
            // Each branch is cancel-safe: a message in part stays in the decoder, a watch keeps
            // its mark.
            tokio::select! {
                () = self.stop.cancelled() => return Ok("control plane stops"),
                () = self.responses.closed() => return Ok("closed by the node"),
                () = &mut renewal => return Ok("to be authenticated again"),
                () = sleep_until(answer_due), if session.waiting() => {
                    return Err(Status::deadline_exceeded("node does not answer"));
                }
                request = self.requests.message() => match request? {
                    Some(request) => {
                        self.hear(&mut session, request, pod)?;
                        if !session.waiting() {
                            room = None;
                        }
                    }
                    None => return Ok("ended by the node"),
                },
                changed = self.snapshots.changed() => if changed.is_err() {
                    return Ok("control plane stops");
                },
            }
        }
    }

    fn hear(
        &self,
        session: &mut Session,
        request: DeltaDiscoveryRequest,
        pod: &str,
    ) -> Result<(), Status> {
        let node = request.node.as_ref().map(|node| node.id.clone());
        match session.heard(request) {
            Ok(Heard::Subscribed { kind, held }) => {
                tracing::info!(pod, node, kind = kind.name(), held, "subscription");
            }
            Ok(Heard::Ack(kind)) => tracing::debug!(pod, kind = kind.name(), "acknowledged"),
            Ok(Heard::Nack { kind, reason }) => {
                self.metrics.nacked(kind.name());
                tracing::warn!(pod, kind = kind.name(), reason, "node rejected resources");
            }
            Ok(Heard::Stale) => {}
            Ok(Heard::UnknownType(type_url)) => {
                tracing::info!(pod, type_url, "type is not served");
            }
            Err(error) => return Err(Status::invalid_argument(error.to_string())),
        }
        Ok(())
    }
}
