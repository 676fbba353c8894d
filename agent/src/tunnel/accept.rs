//! The accepting end of a tunnel: TLS, HTTP/2, and one [`Incoming`] for each CONNECT.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::connect::{ALPN, TLS_BUFFER};
use super::hbone;
use super::keepalive::until_dead;
use super::limits::Limits;
use super::stream::TunnelStream;
use crate::authorize::Permit;

/// How long a refused peer may take to read its alert.
const LINGER: Duration = Duration::from_secs(1);
/// What a refused peer may still send meanwhile, in bytes.
const LINGER_BYTES: u64 = 64 << 10;

/// Why a connection did not become a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No TLS 1.3, no certificate, or the wrong one; or no TLS at all.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The peer does not ask for `h2`.
    #[error("the peer does not speak h2")]
    Protocol,
    /// The peer's HTTP/2 preface is none.
    #[error("HTTP/2 handshake failed")]
    H2(#[source] h2::Error),
    /// The peer is slow, or silent.
    #[error("no handshake within {} s", .0.as_secs())]
    Timeout(Duration),
    /// We are stopping.
    #[error("stopped during the handshake")]
    Stopped,
}

/// A tunnel that a peer dialled. Nothing moves in it unless [`Server::next`] is polled.
pub struct Server {
    /// Gone once the tunnel has ended: only then do the streams of a dead peer end too.
    connection: Option<Connection<TlsStream<TcpStream>, Bytes>>,
    alive: Pin<Box<dyn Future<Output = ()>>>,
    peer: Vec<CertificateDer<'static>>,
    stop: CancellationToken,
    draining: bool,
    /// One more reference for each [`Incoming`] not answered yet.
    unanswered: Rc<()>,
    max_unanswered: usize,
}

/// Takes a tunnel. When `stop` is cancelled, the tunnel says GOAWAY and ends with its last stream.
///
/// # Errors
/// The peer does not do what a tunnel's peer does. It has been sent an alert, if TLS has one, and
/// the connection is closed.
pub async fn accept(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    limits: &Limits,
    stop: CancellationToken,
) -> Result<Server, AcceptError> {
    let patience = limits.handshake_timeout;
    // Boxed, and gone once the tunnel is there: its states are many kilobytes.
    let handshake = timeout(patience, Box::pin(handshake(tcp, tls, limits)));
    let shaken = tokio::select! {
        () = stop.cancelled() => return Err(AcceptError::Stopped),
        done = handshake => done.unwrap_or(Err((AcceptError::Timeout(patience), None))),
    };
    let (mut connection, peer) = match shaken {
        Ok(accepted) => accepted,
        Err((error, tcp)) => {
            if let Some(tcp) = tcp {
                linger(tcp).await;
            }
            return Err(error);
        }
    };
    let alive: Pin<Box<dyn Future<Output = ()>>> = match connection.ping_pong() {
        Some(pings) => {
            let interval = limits.ping_interval;
            Box::pin(until_dead(pings, limits.clone(), interval, || {}))
        }
        None => Box::pin(std::future::pending()),
    };
    let max_unanswered = usize::try_from(limits.max_accepted_streams).unwrap_or(usize::MAX);
    let unanswered = Rc::new(());
    let connection = Some(connection);
    Ok(Server { connection, alive, peer, stop, draining: false, unanswered, max_unanswered })
}

type Accepted = (Connection<TlsStream<TcpStream>, Bytes>, Vec<CertificateDer<'static>>);

/// A refused peer's connection is given back: its alert is still on the way.
async fn handshake(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    limits: &Limits,
) -> Result<Accepted, (AcceptError, Option<TcpStream>)> {
    let shaken = TlsAcceptor::from(tls).accept(tcp).into_fallible().await;
    let mut tls = shaken.map_err(|(error, tcp)| (AcceptError::Tls(error), Some(tcp)))?;
    let session = tls.get_mut().1;
    if session.alpn_protocol() != Some(ALPN) {
        // rustls lets a client pass that offers no protocol at all.
        session.send_close_notify();
        let tcp = tls.flush().await.is_ok().then(|| tls.into_inner().0);
        return Err((AcceptError::Protocol, tcp));
    }
    session.set_buffer_limit(Some(TLS_BUFFER));
    let peer = session.peer_certificates().unwrap_or_default().to_vec();
    let connection = server::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.max_frame)
        .max_concurrent_streams(limits.max_accepted_streams)
        .max_header_list_size(limits.max_request_headers)
        .max_send_buffer_size(limits.send_buffer)
        .handshake(tls)
        .await
        .map_err(|error| (AcceptError::H2(error), None))?;
    Ok((connection, peer))
}

/// Closes so that the alert arrives: unread bytes at close would make the kernel reset.
async fn linger(mut tcp: TcpStream) {
    let drained = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut (&mut tcp).take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Whatever becomes of it, the connection is closed now.
    if let Ok(Err(error)) = timeout(LINGER, drained).await {
        tracing::trace!(%error, "refused peer left");
    }
}

impl Server {
    /// The peer's verified certificate chain, its own first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.peer
    }

    /// The next stream; none once the tunnel has ended. Must be polled without pause, as it also
    /// moves the bytes of the streams taken before: handle each stream in a task of its own.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Incoming> {
        loop {
            let connection = self.connection.as_mut()?;
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                () = &mut self.alive => {
                    tracing::debug!("tunnel's peer is dead");
                    self.connection = None;
                    return None;
                }
                () = self.stop.cancelled(), if !self.draining => {
                    self.draining = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            match accepted {
                // Streams that are reset at once do not count against HTTP/2's own limit, yet each
                // costs us a look at the policies and perhaps a connection to the application.
                Some(Ok(_)) if Rc::strong_count(&self.unanswered) > self.max_unanswered => {
                    tracing::debug!("the tunnel's peer opens and resets streams too fast");
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                Some(Ok((request, respond))) => {
                    let unanswered = Rc::clone(&self.unanswered);
                    if let Some(incoming) = Incoming::new(request, respond, unanswered) {
                        return Some(incoming);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "tunnel ended");
                    self.connection = None;
                    return None;
                }
                None => {
                    self.connection = None;
                    return None;
                }
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("draining", &self.draining).finish_non_exhaustive()
    }
}

/// A CONNECT that waits for its answer; dropped, it is reset.
pub struct Incoming {
    authority: String,
    headers: HeaderMap,
    respond: SendResponse<Bytes>,
    body: RecvStream,
    _unanswered: Rc<()>,
}

impl Incoming {
    /// None for what is no CONNECT: that is answered here.
    fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        unanswered: Rc<()>,
    ) -> Option<Self> {
        let (head, body) = request.into_parts();
        let authority = head.uri.authority().map(|authority| authority.as_str().to_owned());
        let connect = head.method == Method::CONNECT;
        let incoming = Self {
            authority: authority.unwrap_or_default(),
            headers: head.headers,
            respond,
            body,
            _unanswered: unanswered,
        };
        if connect && !incoming.authority.is_empty() {
            return Some(incoming);
        }
        incoming.refuse(hbone::BAD_REQUEST);
        None
    }

    /// The destination as the peer wrote it.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Answers 200 with these headers; the bytes of the stream follow.
    ///
    /// # Errors
    /// The peer gave up, or the tunnel is gone.
    pub fn accept(
        mut self,
        _permit: &Permit,
        headers: HeaderMap,
    ) -> Result<TunnelStream, h2::Error> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = self.respond.send_response(response, false)?;
        Ok(TunnelStream::new(send, self.body))
    }

    /// Answers with a status that is no success, and ends the stream.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        if let Err(error) = self.respond.send_response(response, true) {
            tracing::debug!(%error, %status, "refused a stream that is gone");
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("authority", &self.authority).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
