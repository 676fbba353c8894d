//! The TLS listener of ADS and CA, with a certificate of what signs.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Code, Status};

use super::ca::AuthorityError;
use super::gate::{Gate, Limits, Ticket};
use super::metrics::Metrics;
use crate::sys::Shutdown;
use crate::sys::socket::reset_on_close;
pub use certificate::{Clock, tls};
use guarded::Guarded;

mod certificate;
mod guarded;

/// How long a peer may take to say hello...
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// ...for its whole handshake...
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(6);
/// ...and until it has proven who it is, which takes us a token review.
const PROOF_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections until then. A node agent has two.
const LIMITS: Limits = Limits { per_source: 64, total: 1024 };
/// How often an idle connection is probed, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at a time on one connection.
const MAX_STREAMS: u32 = 32;
/// Pause after a failed accept, usually for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why it cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No certificate of our own.
    #[error("make the serving certificate")]
    Certificate(#[source] AuthorityError),
    /// TLS refuses it.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// gRPC ended with an error.
    #[error("serve gRPC")]
    Grpc(#[source] tonic::transport::Error),
}

/// Serves both services on `listener` until `shutdown` says so.
///
/// # Errors
/// gRPC fails as a whole; a connection's failure is its own.
pub async fn grpc(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    (ads, ca): (impl Grpc, impl Grpc),
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let (ready, connections) = mpsc::channel(64);
    let gate = Gate::new(LIMITS, metrics.dropped.clone());
    shutdown.spawn(accept(listener, config, (gate, ready), shutdown.clone()));
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .serve_with_incoming_shutdown(
            either(ads, ca),
            ReceiverStream::new(connections),
            shutdown.token.clone().cancelled_owned(),
        )
        .await
        .map_err(ServeError::Grpc)
}

/// A gRPC service as tonic generates it.
pub trait Grpc:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Grpc for S where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Whichever of two services a request names; both are always ready.
fn either<A: Grpc, B: Grpc>(
    a: A,
    b: B,
) -> impl Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |request: http::Request<Body>| {
        let (mut a, mut b) = (a.clone(), b.clone());
        async move {
            let service = request.uri().path().split('/').nth(1).unwrap_or_default();
            if service == A::NAME {
                a.call(request).await
            } else if service == B::NAME {
                b.call(request).await
            } else {
                Ok(Status::new(Code::Unimplemented, "no such service").into_http())
            }
        }
    })
}

type Ready = mpsc::Sender<io::Result<Guarded<TlsStream<TcpStream>>>>;

async fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    (gate, ready): (Gate, Ready),
    shutdown: Shutdown,
) {
    let stop = shutdown.token.clone();
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((tcp, peer)) if !gate.may_come(peer.ip().into()) => {
                    // It takes no memory of ours any more; an invalid socket does not either.
                    let _gone = reset_on_close(&tcp);
                }
                Ok((tcp, peer)) => {
                    let ticket = Arc::new(gate.admit(peer.ip().into()));
                    let task = secure(tcp, peer, (config.clone(), ticket), ready.clone());
                    let stop = shutdown.token.clone();
                    shutdown.spawn(async move { stop.run_until_cancelled(task).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// Shakes hands with a peer, and hands the connection on.
async fn secure(
    tcp: TcpStream,
    peer: SocketAddr,
    (config, ticket): (Arc<ServerConfig>, Arc<Ticket>),
    ready: Ready,
) {
    let deadline = Instant::now() + PROOF_TIMEOUT;
    let handed_on = async {
        let stream = timeout(HANDSHAKE_TIMEOUT, handshake(tcp, config)).await??;
        // While it waits to be served it may have to give way, too.
        let guarded = Guarded::new(stream, ticket.clone(), deadline);
        ready.send(Ok(guarded)).await.map_err(|_| io::Error::other("stopping"))
    };
    // Each branch may be dropped: with the connection.
    tokio::select! {
        () = ticket.evicted() => tracing::debug!(%peer, "too many connections: the oldest ends"),
        result = handed_on => if let Err(error) = result {
            ticket.gave_up();
            tracing::debug!(%peer, %error, "no handshake");
        },
    }
}

async fn handshake(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp);
    timeout(HELLO_TIMEOUT, hello).await??.into_stream(config).await
}

#[cfg(test)]
mod tests;
