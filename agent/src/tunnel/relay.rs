//! Moves bytes both ways between an application's connection and a stream of a tunnel, or another
//! plain connection.
//!
//! Each direction ends by itself (FIN is END_STREAM and the other way round); an error in either
//! resets both sides at once, as does dropping the relay before it has finished. A side that does
//! not read stops the other: what waits in between is bounded by the stream's window and one read.

mod buffer;
mod plain;
mod tunnelled;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use h2::Reason;
use tokio::net::TcpStream;

use super::stream::TunnelStream;
use crate::authorize::Permit;
use crate::sys::socket;

/// Bytes moved so far; may be read by any thread while the relay runs.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Progress {
    /// Bytes from the first connection to the other side.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from the other side to the first connection.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Adds to a counter that one thread writes.
fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Why a relay ended before both directions had.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The first connection was reset, or timed out.
    #[error("the application's connection broke")]
    App(#[source] io::Error),
    /// The second connection was reset, or timed out.
    #[error("the peer's connection broke")]
    Peer(#[source] io::Error),
    /// The peer reset the stream.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// The tunnel broke.
    #[error("the tunnel broke")]
    Tunnel(#[source] h2::Error),
}

/// By what right a plain connection is relayed.
#[derive(Debug, Clone, Copy)]
pub enum Passage<'a> {
    /// To a pod of this node: policy has allowed it.
    Inbound(&'a Permit),
    /// From a pod of this node, which may go where it likes.
    Outbound,
}

/// A plain connection that is reset when dropped, unless it ended in order.
struct Leg {
    tcp: TcpStream,
    ended: bool,
}

impl Leg {
    /// From here on whatever ends it is a reset, also the sudden end of this process.
    fn new(tcp: TcpStream) -> Self {
        if let Err(error) = socket::reset_on_close(&tcp) {
            tracing::debug!(%error, "a connection will be closed instead of reset");
        }
        Self { tcp, ended: false }
    }

    /// Closes it in order; what is still queued is sent.
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if self.ended
            && let Err(error) = socket::clear_reset(&self.tcp)
        {
            tracing::debug!(%error, "a connection is reset instead of closed");
        }
    }
}

/// Relays between an application and a stream of a tunnel, until both directions have ended.
///
/// # Errors
/// A side broke; both have been reset.
///
/// # Cancel safety
/// Dropping the future resets both sides.
pub fn relay(
    app: TcpStream,
    mut tunnel: TunnelStream,
    progress: &Progress,
) -> impl Future<Output = Result<(), RelayError>> {
    // Made here, not at the first poll, so that a drop before it resets too.
    let mut app = Leg::new(app);
    async move {
        let (send, recv) = tunnel.halves();
        let (read, write) = app.tcp.split();
        futures::future::try_join(
            tunnelled::upload(read, send, &progress.sent),
            tunnelled::download(recv, write, &progress.received),
        )
        .await?;
        app.end();
        tunnel.finish();
        Ok(())
    }
}

/// Relays between two plain connections, until both directions have ended.
///
/// # Errors
/// A side broke; both have been reset.
///
/// # Cancel safety
/// Dropping the future resets both sides.
pub fn relay_tcp(
    app: TcpStream,
    peer: TcpStream,
    _passage: Passage<'_>,
    progress: &Progress,
) -> impl Future<Output = Result<(), RelayError>> {
    let (mut app, mut peer) = (Leg::new(app), Leg::new(peer));
    async move {
        let (app_read, app_write) = app.tcp.split();
        let (peer_read, peer_write) = peer.tcp.split();
        let (from_app, from_peer) = (RelayError::App, RelayError::Peer);
        futures::future::try_join(
            plain::copy(app_read, from_app, peer_write, from_peer, &progress.sent),
            plain::copy(peer_read, from_peer, app_write, from_app, &progress.received),
        )
        .await?;
        app.end();
        peer.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
