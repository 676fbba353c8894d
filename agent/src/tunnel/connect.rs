//! The dialling end of a tunnel: TLS, HTTP/2, and one CONNECT.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Reason, client};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::limits::Limits;
use super::stream::TunnelStream;

/// Plaintext that TLS takes before it waits for the socket, in bytes: frames of many streams leave
/// in one send.
pub(super) const TLS_BUFFER: usize = 256 << 10;
/// The one application protocol of tunnels.
pub(super) const ALPN: &[u8] = b"h2";

/// What is asked of the far end.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The final destination, as `10.0.0.1:80`, `[fd00::1]:80` or `host:80`.
    pub authority: String,
    /// Headers to send with it.
    pub headers: HeaderMap,
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
        source: Arc<h2::Error>,
    },
    /// The peer answered, but with no success.
    #[error("{gateway} refused the stream: {status}")]
    Refused {
        /// The far end of the tunnel.
        gateway: SocketAddr,
        /// 400, 401 (policy), 503...
        status: StatusCode,
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

/// A tunnel just dialled.
pub(super) struct Dialled {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) connection: Connection<TlsStream<TcpStream>, Bytes>,
    pub(super) peer: Vec<CertificateDer<'static>>,
}

/// Dials TCP, TLS and HTTP/2.
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
    timeout(limits.handshake_timeout, handshake(gateway, tcp, tls, limits))
        .await
        .map_err(|_| late("TLS handshake", limits.handshake_timeout))?
}

async fn handshake(
    gateway: SocketAddr,
    tcp: TcpStream,
    tls: Arc<ClientConfig>,
    limits: &Limits,
) -> Result<Dialled, ConnectError> {
    let insecure = |source| ConnectError::Tls { gateway, source: Arc::new(source) };
    let name = ServerName::IpAddress(gateway.ip().into());
    let mut tls = TlsConnector::from(tls).connect(name, tcp).await.map_err(insecure)?;
    let session = tls.get_mut().1;
    if session.alpn_protocol() != Some(ALPN) {
        let why = "the peer did not agree to speak h2";
        return Err(insecure(io::Error::new(io::ErrorKind::InvalidData, why)));
    }
    session.set_buffer_limit(Some(TLS_BUFFER));
    let peer = session.peer_certificates().unwrap_or_default().to_vec();
    let (sender, connection) = client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.max_frame)
        .max_header_list_size(limits.max_response_headers)
        .max_send_buffer_size(limits.send_buffer)
        // One, until the peer has told its limit.
        .initial_max_send_streams(1)
        .enable_push(false)
        .handshake(tls)
        .await
        .map_err(|source| ConnectError::H2 { gateway, source: Arc::new(source) })?;
    Ok(Dialled { sender, connection, peer })
}

/// Why a stream was not opened.
pub(super) enum OpenError {
    /// The tunnel takes no more streams, or is dead; the peer has not acted on this one.
    Stale(ConnectError),
    /// The answer was no, or there was none.
    Failed(ConnectError),
}

/// Opens one stream, and waits for the answer.
pub(super) async fn open(
    gateway: SocketAddr,
    mut sender: SendRequest<Bytes>,
    request: &ConnectRequest,
    limits: &Limits,
) -> Result<(TunnelStream, HeaderMap), OpenError> {
    let head = head(request).map_err(|source| {
        let authority = request.authority.clone();
        OpenError::Failed(ConnectError::Authority { authority, source: Arc::new(source) })
    })?;
    let broken = |error: h2::Error| {
        let stale =
            error.is_go_away() || error.is_io() || error.reason() == Some(Reason::REFUSED_STREAM);
        let error = ConnectError::H2 { gateway, source: Arc::new(error) };
        if stale { OpenError::Stale(error) } else { OpenError::Failed(error) }
    };
    let exchange = async {
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.map_err(broken)?;
        let (answer, send) = sender.send_request(head, false).map_err(broken)?;
        Ok((answer.await.map_err(broken)?, send))
    };
    let after = limits.response_timeout;
    let late = ConnectError::Timeout { gateway, step: "CONNECT", after };
    let (answer, send) = timeout(after, exchange).await.unwrap_or(Err(OpenError::Failed(late)))?;
    let (head, recv) = answer.into_parts();
    if head.status.is_success() {
        Ok((TunnelStream::new(send, recv), head.headers))
    } else {
        Err(OpenError::Failed(ConnectError::Refused { gateway, status: head.status }))
    }
}

fn head(request: &ConnectRequest) -> Result<Request<()>, http::Error> {
    let uri = Uri::builder().authority(request.authority.as_str()).build()?;
    let mut head = Request::builder().method(Method::CONNECT).uri(uri).body(())?;
    *head.headers_mut() = request.headers.clone();
    Ok(head)
}
