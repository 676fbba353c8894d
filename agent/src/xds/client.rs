//! The task that talks to the control plane and writes the store.
//!
//! Control planes end a stream after about half an hour, so that who follows must prove again who it
//! is. Before that the next one is opened, and the old one is let go when the next has told
//! something: who cannot reach its control plane just then goes on with what it has.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | [`run`] | the store, the delta states, the status | when told to stop |

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arcstr::ArcStr;
use rand::Rng as _;
use sotto_proto::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Extensions, Request, Streaming};

use crate::mesh::{ResourceKind, Store};

use super::backoff::Backoff;
use super::config::XdsConfig;
use super::connect::{ConnectError, connect, credentials};
use super::delta::{DeltaState, type_url};
use super::kept::Kept;
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
/// For the next stream to stand; so long the old one is not listened to.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent waits for its control plane before it goes by what another run of it knew. Connections are held
/// longer than that.
const GRACE: Duration = Duration::from_secs(2);
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
    #[error(
        "control plane refuses the agent's token, with {code:?}: {message}; it wants one of its own cluster, or of one \
         that --cluster-id names, with the audience istio-ca, and a pod that is still there",
        code = _0.code(), message = _0.message()
    )]
    Refused(Box<tonic::Status>),
    #[error("control plane sent a malformed response")]
    Malformed(#[from] prost::DecodeError),
    #[error("control plane sent no response")]
    Silent,
    #[error("control plane takes no requests")]
    Stuck,
    #[error("control plane ended the stream")]
    Ended,
}

impl StreamError {
    fn of(status: tonic::Status) -> Self {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused(Box::new(status)),
            _ => Self::Status(Box::new(status)),
        }
    }
}

/// Keeps the store in step with the control plane until told to stop.
pub async fn run(config: XdsConfig, store: Store, stop: CancellationToken, status: StatusWriter) {
    let root = ArcStr::from(&*config.root_namespace);
    let state = |kind| DeltaState::new(kind, root.clone());
    let mut client = Client {
        config,
        store,
        status,
        states: [ResourceKind::Address, ResourceKind::Authorization].map(state),
        introduced: false,
        doubted: false,
    };
    let mut backoff = Backoff::new();
    let (mut kept, grace) = (client.config.kept.take(), Instant::now() + GRACE);
    loop {
        let worked = AtomicBool::new(false);
        let useless = AtomicBool::new(false);
        // Only an attempt that has not come to anything is cut short, for something better, and made again at once.
        let overdue = async {
            sleep_until(grace).await;
            if worked.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            if let Some(before) = before(kept.clone()).await {
                return before;
            }
            useless.store(true, Ordering::Relaxed);
            std::future::pending().await
        };
        let error = tokio::select! {
            () = stop.cancelled() => return,
            error = client.stream(&worked) => error,
            before = overdue, if kept.is_some() => {
                kept = None;
                client.remember(before);
                continue;
            }
        };
        client.doubted = matches!(error, StreamError::Refused(_)) && !client.doubted;
        client.introduced &= !client.doubted;
        let worked = worked.into_inner();
        if worked || useless.into_inner() {
            kept = None;
        }
        if worked {
            backoff.reset();
        }
        client.report(&error, worked);
        let mut next = Instant::now() + backoff.delay(&mut rand::rng());
        if kept.is_some() {
            next = next.min(grace);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(next) => {}
        }
    }
}

/// What another run of the agent knew, and how long ago that was.
type Before = ([DeltaDiscoveryResponse; 2], Duration);

/// Reads it; none if nothing is to be believed.
async fn before(kept: Option<Kept>) -> Option<Before> {
    let kept = kept?;
    match tokio::task::spawn_blocking(move || kept.read(SystemTime::now())).await {
        Ok(Ok(before)) => Some(before),
        Ok(Err(error)) => {
            let error = chain(&error);
            tracing::warn!(error, "no control plane, and nothing is known from before");
            None
        }
        Err(error) => {
            tracing::error!(%error, "reading what is known of the mesh panicked");
            None
        }
    }
}

/// A stream that was opened.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// The control plane was told of which cluster we are.
    named: bool,
}

struct Client {
    config: XdsConfig,
    store: Store,
    status: StatusWriter,
    states: [DeltaState; 2],
    /// A stream was opened in the name of a cluster that was not known at first, or the attempt was made.
    introduced: bool,
    /// The control plane has refused us in the name that it told itself: the cluster may have another by now.
    doubted: bool,
}

impl Client {
    /// One stream, from connecting to its end; `worked` tells whether any response came.
    async fn stream(&mut self, worked: &AtomicBool) -> StreamError {
        match self.try_stream(worked).await {
            Ok(()) => StreamError::Ended,
            Err(error) => error,
        }
    }

    async fn try_stream(&mut self, worked: &AtomicBool) -> Result<(), StreamError> {
        let opened = timeout(FIRST_RESPONSE_TIMEOUT, self.open(connect(&self.config).await?)).await;
        let mut stream = opened.map_err(|_| StreamError::Silent)??;
        loop {
            self.follow(&mut stream, worked).await?;
            // Meanwhile the old one is not read, so that each learns all that the other does not tell.
            // What it told in between is told by whichever goes on.
            match timeout(RENEWAL_TIMEOUT, self.renew()).await {
                Ok(Ok((renewed, first))) => {
                    tracing::debug!("the next stream stands, the old one ends");
                    stream = renewed;
                    self.take(&stream, first, worked).await?;
                }
                Ok(Err(error)) => tracing::debug!(error = chain(&error), "stream not renewed"),
                Err(_) => tracing::debug!("stream not renewed: no answer in time"),
            }
        }
    }

    /// Takes in what a stream tells, until it is time for the next one.
    async fn follow(
        &mut self,
        stream: &mut Stream,
        worked: &AtomicBool,
    ) -> Result<(), StreamError> {
        let spread = rand::rng().random_range(0.8..=1.0);
        let renewal = tokio::time::sleep(self.config.renewal.mul_f64(spread));
        tokio::pin!(renewal);
        loop {
            // Both branches are cancel-safe.
            let next = tokio::select! {
                next = next(&mut stream.responses, worked.load(Ordering::Relaxed)) => next?,
                () = &mut renewal, if worked.load(Ordering::Relaxed) => return Ok(()),
            };
            let Some(response) = next else { return Err(StreamError::Ended) };
            self.take(stream, response, worked).await?;
            // Only what it tells says of which cluster we are, and that goes with the next stream.
            let mesh = self.store.mesh();
            let learned = !stream.named && mesh.synced() && mesh.cluster_id().is_some();
            if learned && !std::mem::replace(&mut self.introduced, true) {
                self.doubted = false;
                return Ok(());
            }
        }
    }

    async fn take(
        &mut self,
        stream: &Stream,
        response: DeltaDiscoveryResponse,
        worked: &AtomicBool,
    ) -> Result<(), StreamError> {
        if let Some(reply) = self.handle(&response)? {
            worked.store(true, Ordering::Relaxed);
            send(&stream.requests, reply).await?;
        }
        Ok(())
    }

    /// The next stream, on a connection of its own, and its first response.
    async fn renew(&self) -> Result<(Stream, DeltaDiscoveryResponse), StreamError> {
        let mut stream = self.open(connect(&self.config).await?).await?;
        match next(&mut stream.responses, false).await? {
            Some(first) => Ok((stream, first)),
            None => Err(StreamError::Ended),
        }
    }

    /// The cluster to name: the one we were told, else the one that the control plane tells, as long as it takes that.
    fn cluster(&self) -> Option<&ArcStr> {
        let mesh = self.store.mesh();
        mesh.given().cluster_id.as_ref().or_else(|| mesh.cluster_id().filter(|_| !self.doubted))
    }

    /// Opens a stream, and asks for all that is not held.
    async fn open(&self, channel: Channel) -> Result<Stream, StreamError> {
        let cluster = self.cluster();
        let (node, named) = (self.config.node(cluster), cluster.is_some());
        let credentials = credentials(&self.config, cluster).await?;
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        for state in &self.states {
            send(&requests, state.initial_request(&node)).await?;
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let queue = ReceiverStream::new(queue);
        let request = Request::from_parts(credentials, Extensions::default(), queue);
        let response = client.delta_aggregated_resources(request).await;
        let response = response.map_err(StreamError::of)?;
        Ok(Stream { requests, responses: response.into_inner(), named })
    }

    /// Applies a response; none for a type that was never asked for.
    fn handle(
        &mut self,
        response: &DeltaDiscoveryResponse,
    ) -> Result<Option<DeltaDiscoveryRequest>, StreamError> {
        let kinds = [ResourceKind::Address, ResourceKind::Authorization];
        let asked = kinds.iter().position(|kind| type_url(*kind) == response.type_url);
        let Some(state) = asked.and_then(|index| self.states.get_mut(index)) else {
            tracing::warn!(type_url = response.type_url, "response of a type not asked for");
            return Ok(None);
        };
        let bytes = response.resources.iter().map(|one| one.len() as u64).sum();
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
        self.status.handled(&handled, bytes);
        self.store.apply(handled.events);
        let reply = handled.reply?;
        self.store.set_synced(handled.kind);
        Ok(Some(reply))
    }

    /// Goes by what another run of the agent knew.
    fn remember(&mut self, (before, age): Before) {
        for (state, before) in self.states.iter_mut().zip(before) {
            let kind = state.kind();
            match state.remember(&before) {
                Ok(events) => self.store.apply(events),
                Err(error) => {
                    tracing::error!(%error, ?kind, "what is known of the mesh is no response");
                    continue;
                }
            }
            self.store.set_synced(kind);
        }
        tracing::warn!(age = %humantime::format_duration(Duration::from_secs(age.as_secs())),
            "no control plane: the mesh is taken to be as it was when it was last known");
    }

    fn report(&self, error: &StreamError, worked: bool) {
        let ending = match error {
            StreamError::Connect(_) => Ending::ConnectionError,
            StreamError::Ended => Ending::Complete,
            StreamError::Status(_)
            | StreamError::Refused(_)
            | StreamError::Malformed(_)
            | StreamError::Silent
            | StreamError::Stuck => Ending::Error,
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
        timeout(FIRST_RESPONSE_TIMEOUT, message).await.map_err(|_| StreamError::Silent)?
    };
    message.map_err(StreamError::of)
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), StreamError> {
    match timeout(SEND_TIMEOUT, requests.send(request)).await {
        Ok(Ok(())) => Ok(()),
        // The transport dropped its end.
        Ok(Err(_)) => Err(StreamError::Ended),
        Err(_) => Err(StreamError::Stuck),
    }
}
