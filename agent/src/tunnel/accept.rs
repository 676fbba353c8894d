//! The accepting end of a tunnel: TLS, HTTP/2, and one [`Incoming`] for each CONNECT.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::account::{Held, Spent};
use super::chain::Chain;
use super::driver::{Broken, Driver, Link, MoveError, Moving, Side, StreamHandle, Terms};
use super::exit::Exit;
use super::h2::{Request, SendError};
use super::hbone;
use super::limits::Limits;
use super::stream::TunnelStream;
use super::tls::{self, HandshakeError};
use crate::authorize::Permit;
use http::{HeaderMap, Method, StatusCode};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::time::timeout;

/// What a handshake is taken to hold, in bytes: the peer's messages in part, and rustls' own state.
const HANDSHAKE: usize = 16 << 10;
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
    H2(#[source] Broken),
    /// The peer is slow, or silent.
    #[error("no handshake within {} s", .0.as_secs())]
    Timeout(Duration),
    /// We are stopping.
    #[error("stopped during the handshake")]
    Stopped,
    /// The pod holds all it may.
    #[error("no room for another handshake")]
    Spent(#[source] Spent),
}

/// A tunnel that a peer dialled. Nothing moves in it unless [`Server::next`] is polled.
pub struct Server {
    /// Gone once the tunnel has ended.
    driver: Option<Driver>,
    peer: Rc<Chain>,
}

/// Takes a tunnel.
///
/// # Errors
/// The peer does not do what a tunnel's peer does. It has been sent an alert, if TLS has one, and
/// the connection is closed.
pub async fn accept(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    limits: &Limits,
    terms: Terms,
) -> Result<Server, AcceptError> {
    let patience = limits.handshake_timeout;
    let _held = terms.account.hold(HANDSHAKE).map_err(AcceptError::Spent)?;
    let (drain, abort) = (terms.drain.clone(), terms.abort.clone());
    // Boxed, and gone once the tunnel is there: its states are many kilobytes.
    let handshake = timeout(patience, Box::pin(handshake(tcp, tls, limits, terms)));
    let shaken = tokio::select! {
        () = drain.cancelled() => return Err(AcceptError::Stopped),
        () = abort.cancelled() => return Err(AcceptError::Stopped),
        done = handshake => done.unwrap_or(Err((AcceptError::Timeout(patience), None))),
    };
    match shaken {
        Ok(server) => Ok(server),
        Err((error, tcp)) => {
            if let Some(tcp) = tcp {
                linger(tcp).await;
            }
            Err(error)
        }
    }
}

/// A refused peer's connection is given back: its alert is still on the way.
async fn handshake(
    mut tcp: TcpStream,
    tls: Arc<ServerConfig>,
    limits: &Limits,
    terms: Terms,
) -> Result<Server, (AcceptError, Option<TcpStream>)> {
    let mut established = match tls::accept(&mut tcp, tls, limits.record_layer).await {
        Ok(established) => established,
        Err(HandshakeError::Tls(error)) => return Err((AcceptError::Tls(error), Some(tcp))),
        Err(HandshakeError::Protocol) => return Err((AcceptError::Protocol, Some(tcp))),
    };
    let peer = Rc::new(Chain::new(std::mem::take(&mut established.peer), terms.trust));
    let mut driver = Driver::new(tcp, established, Side::Server, limits, terms);
    let link = driver.link().clone();
    poll_fn(|cx| match driver.poll(cx) {
        Poll::Pending if link.is_settled() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
        Poll::Ready(broken) => Poll::Ready(Err((AcceptError::H2(broken), None))),
    })
    .await?;
    Ok(Server { driver: Some(driver), peer })
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
        self.peer.certificates()
    }

    /// The same, to be looked at again while the tunnel lasts.
    pub fn peer(&self) -> &Rc<Chain> {
        &self.peer
    }

    /// By which the tunnel may be taken elsewhere.
    pub fn exit(&self) -> Option<Exit> {
        self.driver.as_ref().map(|driver| Exit::new(driver.link().clone()))
    }

    /// A tunnel that another process took, with its streams in their order, to be relayed by
    /// [`relay_aboard`](super::relay_aboard).
    ///
    /// # Errors
    /// It is none that this version can go on with; nothing was done to its connections.
    pub fn thaw(
        moving: Moving,
        peer: Vec<CertificateDer<'static>>,
        limits: &Limits,
        terms: Terms,
    ) -> Result<(Self, Vec<TunnelStream>), MoveError> {
        let peer = Rc::new(Chain::new(peer, terms.trust));
        let (driver, streams) = Driver::thaw(moving, Side::Server, limits, terms)?;
        let streams = streams.into_iter().map(TunnelStream::new).collect();
        Ok((Self { driver: Some(driver), peer }, streams))
    }

    /// The next stream; none once the tunnel has ended. Must be polled without pause, as it also
    /// moves the bytes of the streams taken before: handle each stream in a task of its own.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Incoming> {
        // The tunnel bounds what it does at a time by itself.
        unconstrained(poll_fn(|cx| self.poll_next(cx))).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let Some(driver) = &mut self.driver else { return Poll::Ready(None) };
        if let Some(incoming) = next_connect(driver.link()) {
            return Poll::Ready(Some(incoming));
        }
        match driver.poll(cx) {
            Poll::Ready(broken) => {
                tracing::debug!(error = %broken, "tunnel ended");
                self.driver = None;
                Poll::Ready(None)
            }
            Poll::Pending => match next_connect(driver.link()) {
                Some(incoming) => Poll::Ready(Some(incoming)),
                None => Poll::Pending,
            },
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("ended", &self.driver.is_none()).finish_non_exhaustive()
    }
}

/// The next CONNECT; anything else is answered here.
fn next_connect(link: &Link) -> Option<Incoming> {
    while let Some((handle, request)) = link.next_incoming() {
        let Request { method, authority, headers, .. } = request;
        let unanswered = Unanswered(link.clone());
        let held = link.hold(size(&authority, &headers));
        let incoming = Incoming { authority, headers, handle, _unanswered: unanswered, held };
        if incoming.held.is_none() {
            incoming.refuse(hbone::UNAVAILABLE);
            continue;
        }
        if method == Method::CONNECT && !incoming.authority.is_empty() {
            return Some(incoming);
        }
        incoming.refuse(hbone::BAD_REQUEST);
    }
    None
}

/// Bytes of a request, with what its headers cost each.
fn size(authority: &str, headers: &HeaderMap) -> usize {
    let each = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64);
    authority.len() + each.sum::<usize>()
}

/// Counts a stream as one that waits for its answer, until dropped.
struct Unanswered(Link);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// A CONNECT that waits for its answer; dropped, it is reset.
pub struct Incoming {
    authority: String,
    headers: HeaderMap,
    handle: StreamHandle,
    _unanswered: Unanswered,
    /// None if there was no room.
    held: Option<Held>,
}

impl Incoming {
    /// The destination as the peer wrote it.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Waits until the peer waits no more for its answer.
    ///
    /// # Cancel safety
    /// Cancel safe, until it is ready.
    pub async fn gave_up(&self) {
        poll_fn(|cx| self.handle.poll_ended(cx)).await;
    }

    /// Answers 200 with these headers; the bytes of the stream follow.
    ///
    /// # Errors
    /// The peer gave up, or the tunnel is gone.
    pub fn accept(self, _permit: &Permit, headers: HeaderMap) -> Result<TunnelStream, SendError> {
        self.handle.accept(&headers)?;
        Ok(TunnelStream::new(self.handle))
    }

    /// Answers with a status that is no success, and ends the stream.
    pub fn refuse(self, status: StatusCode) {
        if let Err(error) = self.handle.refuse(status) {
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
