//! The dialling end of a tunnel: TLS, HTTP/2, and one CONNECT.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::driver::{Broken, Link, Passenger, StreamHandle, Unanswered};
use super::h2::{Code, OpenError as Unopened};
use super::limits::Limits;
use super::tls::{self, Established, HandshakeError, RecordLayer};

/// What is asked of the far end. Headers are made when they are sent, and dropped: many connections
/// may wait for their answers at once.
pub trait Asked {
    /// The final destination, as `10.0.0.1:80`, `[fd00::1]:80` or `host:80`.
    fn authority(&self) -> &str;
    /// Headers to send with it; made once more if another tunnel has to be asked.
    fn headers(&self) -> HeaderMap;
}

/// What is asked of the far end, made beforehand.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The final destination, as `10.0.0.1:80`, `[fd00::1]:80` or `host:80`.
    pub authority: String,
    /// Headers to send with it.
    pub headers: HeaderMap,
}

impl Asked for ConnectRequest {
    fn authority(&self) -> &str {
        &self.authority
    }

    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }
}

/// Why there is no stream. Cheap to clone: all that waited for a dial get its error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("failed to reach {gateway}")]
    Tcp {
        /// The far end of the tunnel.
        gateway: SocketAddr,
        /// Why.
        source: Arc<io::Error>,
    },
    /// No TLS session, or with the wrong peer.
    #[error("failed to secure the tunnel to {gateway}")]
    Tls {
        /// The far end of the tunnel.
        gateway: SocketAddr,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The tunnel broke, or its peer reset the stream before answering.
    #[error("failed to open a stream to {gateway}")]
    H2 {
        /// The far end of the tunnel.
        gateway: SocketAddr,
        /// Why.
        source: Arc<Unanswered>,
    },
    /// The peer answered, but with no success.
    #[error("{gateway} refused the stream: {status}")]
    Refused {
        /// The far end of the tunnel.
        gateway: SocketAddr,
        /// 400, 401 (policy), 503...
        status: StatusCode,
    },
    /// The application did not wait for the answer.
    #[error("the application's connection broke")]
    App {
        /// Why.
        source: Arc<io::Error>,
    },
    /// The peer is slow.
    #[error("{step} with {gateway} timed out after {} s", .after.as_secs())]
    Timeout {
        /// The far end of the tunnel.
        gateway: SocketAddr,
        /// What took so long.
        step: &'static str,
        /// Our patience.
        after: Duration,
    },
    /// The authority cannot be sent.
    #[error("{authority:?} is no destination")]
    Authority {
        /// As given.
        authority: String,
        /// Why.
        source: Arc<http::Error>,
    },
    /// The pool is draining.
    #[error("the tunnels are being closed")]
    Stopped,
}

/// A connection just dialled and secured.
pub(super) struct Dialled {
    pub(super) tcp: TcpStream,
    pub(super) established: Established,
}

/// Dials TCP and TLS.
pub(super) async fn dial(
    gateway: SocketAddr,
    tcp: impl Future<Output = io::Result<TcpStream>>,
    tls: Arc<ClientConfig>,
    limits: &Limits,
) -> Result<Dialled, ConnectError> {
    let late = |step, after| ConnectError::Timeout { gateway, step, after };
    let tcp = timeout(limits.dial_timeout, tcp)
        .await
        .map_err(|_| late("TCP connect", limits.dial_timeout))?
        .map_err(|source| ConnectError::Tcp { gateway, source: Arc::new(source) })?;
    timeout(limits.handshake_timeout, handshake(gateway, tcp, tls, limits.record_layer))
        .await
        .map_err(|_| late("TLS handshake", limits.handshake_timeout))?
}

async fn handshake(
    gateway: SocketAddr,
    mut tcp: TcpStream,
    tls: Arc<ClientConfig>,
    layer: RecordLayer,
) -> Result<Dialled, ConnectError> {
    let name = ServerName::IpAddress(gateway.ip().into());
    let shaken = tls::connect(&mut tcp, tls, name, layer).await;
    let established = shaken.map_err(|error| {
        let source = match error {
            HandshakeError::Tls(source) => source,
            HandshakeError::Protocol => io::Error::new(io::ErrorKind::InvalidData, error),
        };
        ConnectError::Tls { gateway, source: Arc::new(source) }
    })?;
    Ok(Dialled { tcp, established })
}

/// Why a stream was not opened.
pub(super) enum OpenError {
    /// The tunnel takes no more streams, or is dead; the peer has not acted on this one.
    Stale(ConnectError),
    /// The answer was no, or there was none.
    Failed(ConnectError),
}

/// Opens one stream, and waits for the answer. The passenger is the stream's then; it comes back if
/// another tunnel may carry it.
pub(super) async fn open(
    gateway: SocketAddr,
    link: &Link,
    request: &impl Asked,
    limits: &Limits,
    passenger: &mut Option<Passenger>,
) -> Result<(StreamHandle, HeaderMap), OpenError> {
    if let Err(invalid) = Authority::try_from(request.authority()) {
        let authority = request.authority().to_owned();
        let source = Arc::new(http::Error::from(invalid));
        return Err(OpenError::Failed(ConnectError::Authority { authority, source }));
    }
    let broken = |error: Unanswered, spoken: bool| {
        let stale = is_stale(&error, spoken);
        let error = match error {
            Unanswered::App(source) => ConnectError::App { source },
            error => ConnectError::H2 { gateway, source: Arc::new(error) },
        };
        if stale { OpenError::Stale(error) } else { OpenError::Failed(error) }
    };
    let opened = link.open(request.authority(), &request.headers());
    let handle = opened.map_err(|error| broken(error, false))?;
    if let Some(passenger) = passenger.take() {
        handle.board(passenger, limits.early_data);
    }
    let after = limits.response_timeout;
    let late = ConnectError::Timeout { gateway, step: "CONNECT", after };
    let answered = timeout(after, handle.answer()).await;
    let answered = answered.map_err(|_| OpenError::Failed(late))?;
    let (status, headers) = match answered {
        Ok(answer) => answer,
        Err(error) => {
            *passenger = handle.disembark();
            let spoken = passenger.as_ref().is_some_and(Passenger::has_spoken);
            return Err(broken(error, spoken));
        }
    };
    if status.is_success() {
        Ok((handle, headers))
    } else {
        Err(OpenError::Failed(ConnectError::Refused { gateway, status }))
    }
}

/// Whether another tunnel may do better. A peer that broke off without a word may have acted on
/// what the application had sent, and nobody may do so twice.
fn is_stale(error: &Unanswered, spoken: bool) -> bool {
    match error {
        Unanswered::Broken(Broken::Io(_) | Broken::Closed | Broken::Ended) => !spoken,
        Unanswered::Reset(code) => *code == Code::REFUSED_STREAM,
        Unanswered::Open(unopened) => !matches!(unopened, Unopened::HeadersTooLarge),
        Unanswered::Broken(_) | Unanswered::App(_) => false,
    }
}
