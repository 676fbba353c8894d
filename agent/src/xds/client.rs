//! The task that talks to the control plane and writes the store.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | [`run`] | the store, the delta states, the status | when told to stop |

use std::error::Error;
use std::time::Duration;

use arcstr::ArcStr;
use sotto_proto::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Streaming};

use crate::mesh::{ResourceKind, Store};

use super::backoff::Backoff;
use super::config::XdsConfig;
use super::connect::{ConnectError, connect, credentials};
use super::delta::{DeltaState, type_url};
use super::status::{Ending, StatusWriter};
use crate::error::chain;

#[cfg(test)]
mod tests;

/// Istio's limit.
const MAX_MESSAGE_BYTES: usize = 200 << 20;
/// Requests that wait for the control plane to take them; each answers one response, so more
/// than a few mean that it reads nothing.
const REQUEST_QUEUE: usize = 8;
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// A busy control plane may take long to compute the first response; a dead one is found by
/// keep-alive.
const FIRST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("control plane ended the stream with {code:?}: {message}", code = _0.code(), message = _0.message())]
    Status(#[source] Box<tonic::Status>),
    #[error("control plane sent no response")]
    Silent,
    #[error("control plane takes no requests")]
    Stuck,
    #[error("control plane ended the stream")]
    Ended,
}

/// Keeps the store in step with the control plane until told to stop.
pub async fn run(config: XdsConfig, store: Store, stop: CancellationToken, status: StatusWriter) {
    let root = ArcStr::from(&*config.root_namespace);
    let state = |kind| DeltaState::new(kind, root.clone());
    let mut client = Client {
        node: config.node(),
        config,
        store,
        status,
        states: [ResourceKind::Address, ResourceKind::Authorization].map(state),
    };
    let mut backoff = Backoff::new();
    loop {
        let mut worked = false;
        let error = tokio::select! {
            () = stop.cancelled() => return,
            error = client.stream(&mut worked) => error,
        };
        if worked {
            backoff.reset();
        }
        client.report(&error, worked);
        let delay = backoff.delay(&mut rand::rng());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

struct Client {
    config: XdsConfig,
    node: Node,
    store: Store,
    status: StatusWriter,
    states: [DeltaState; 2],
}

impl Client {
    /// One stream, from connecting to its end; `worked` tells whether any response came.
    async fn stream(&mut self, worked: &mut bool) -> StreamError {
        match self.try_stream(worked).await {
            Ok(()) => StreamError::Ended,
            Err(error) => error,
        }
    }

    async fn try_stream(&mut self, worked: &mut bool) -> Result<(), StreamError> {
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        for state in &self.states {
            send(&requests, state.initial_request(&self.node)).await?;
        }
        let opened = tokio::time::timeout(FIRST_RESPONSE_TIMEOUT, self.open(queue)).await;
        let mut responses = opened.map_err(|_| StreamError::Silent)??;
        loop {
            let next = next(&mut responses, *worked).await?;
            let Some(response) = next else { return Ok(()) };
            if let Some(reply) = self.handle(response) {
                *worked = true;
                send(&requests, reply).await?;
            }
        }
    }

    async fn open(
        &self,
        queue: mpsc::Receiver<DeltaDiscoveryRequest>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, StreamError> {
        let credentials = credentials(&self.config).await?;
        let channel = connect(&self.config).await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let requests = ReceiverStream::new(queue);
        let request = Request::from_parts(credentials, Extensions::default(), requests);
        let response = client.delta_aggregated_resources(request).await;
        Ok(response.map_err(|status| StreamError::Status(Box::new(status)))?.into_inner())
    }

    /// Applies a response; none for a type that was never asked for.
    fn handle(&mut self, response: DeltaDiscoveryResponse) -> Option<DeltaDiscoveryRequest> {
        let kinds = [ResourceKind::Address, ResourceKind::Authorization];
        let asked = kinds.iter().position(|kind| type_url(*kind) == response.type_url);
        let Some(state) = asked.and_then(|index| self.states.get_mut(index)) else {
            tracing::warn!(type_url = response.type_url, "response of a type not asked for");
            return None;
        };
        let handled = state.on_response(response);
        for rejection in &handled.rejected {
            tracing::warn!(
                resource = rejection.name,
                error = &rejection.error as &dyn Error,
                "rejected a resource; {}",
                rejection.instead
            );
        }
        tracing::debug!(kind = ?handled.kind, events = handled.events.len(), held = handled.held,
            "applying a response");
        self.status.handled(&handled);
        self.store.apply(handled.events);
        self.store.set_synced(handled.kind);
        Some(handled.reply)
    }

    fn report(&self, error: &StreamError, worked: bool) {
        let ending = match error {
            StreamError::Connect(_) => Ending::ConnectionError,
            StreamError::Ended => Ending::Complete,
            StreamError::Status(_) | StreamError::Silent | StreamError::Stuck => Ending::Error,
        };
        let why = chain(error);
        // A control plane ends streams now and then to spread its load.
        if worked {
            tracing::info!(error = why, "lost the control plane; keeping the last state");
        } else {
            tracing::warn!(error = why, "no answer from the control plane");
        }
        self.status.ended(ending, why);
    }
}

/// The next response; only the first has to come in bounded time, as the mesh may be quiet.
async fn next(
    responses: &mut Streaming<DeltaDiscoveryResponse>,
    worked: bool,
) -> Result<Option<DeltaDiscoveryResponse>, StreamError> {
    let message = responses.message();
    let message = if worked {
        message.await
    } else {
        tokio::time::timeout(FIRST_RESPONSE_TIMEOUT, message)
            .await
            .map_err(|_| StreamError::Silent)?
    };
    message.map_err(|status| StreamError::Status(Box::new(status)))
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), StreamError> {
    match tokio::time::timeout(SEND_TIMEOUT, requests.send(request)).await {
        Ok(Ok(())) => Ok(()),
        // The transport dropped its end.
        Ok(Err(_)) => Err(StreamError::Ended),
        Err(_) => Err(StreamError::Stuck),
    }
}
