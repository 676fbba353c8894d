//! Moves bytes both ways between an application's connection and a stream of a tunnel, or another
//! plain connection.
//!
//! Each direction ends by itself (FIN is END_STREAM and the other way round); an error in either
//! resets both sides at once, as does dropping the relay before it has finished. A side that does
//! not read stops the other: what waits in between is bounded by the stream's window and one read.
//!
//! Between an application and a tunnel it is the tunnel's task that moves them; the relay waits.

mod brake;
mod buffer;
mod plain;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::account::Account;
use super::driver::{Broken, Ended};
use super::h2::Code;
use super::stream::TunnelStream;
use crate::authorize::Permit;
use crate::sys::socket;
use plain::Side;

pub use brake::{Brake, MovingPlain, Way};
pub(super) use buffer::{ReadSize, free};

/// Bytes moved so far; may be read while the relay runs.
#[derive(Debug, Default)]
pub struct Progress {
    sent: Cell<u64>,
    received: Cell<u64>,
    stays: bool,
}

impl Progress {
    /// Of a connection that has moved so many bytes before.
    pub fn at(sent: u64, received: u64) -> Self {
        Self { sent: Cell::new(sent), received: Cell::new(received), stays: false }
    }

    /// Of one whose first end is this process': no other can go on with it.
    pub fn staying() -> Self {
        Self { stays: true, ..Self::default() }
    }

    pub(super) fn stays(&self) -> bool {
        self.stays
    }

    /// Bytes from the first connection to the other side.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes from the other side to the first connection.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    pub(super) fn add_sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        add(&self.received, bytes);
    }
}

fn add(counter: &Cell<u64>, bytes: usize) {
    counter.set(counter.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
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
    Reset(Code),
    /// The tunnel broke.
    #[error("the tunnel broke")]
    Tunnel(#[source] Broken),
    /// It is another process that goes on with it: nothing was reset.
    #[error("another process goes on with it")]
    Moved,
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
pub(super) struct Leg {
    pub(super) tcp: TcpStream,
    ended: bool,
}

impl Leg {
    /// From here on whatever ends it is a reset, also the sudden end of this process.
    pub(super) fn new(tcp: TcpStream) -> Self {
        if let Err(error) = socket::reset_on_close(&tcp) {
            tracing::debug!(%error, "a connection will be closed instead of reset");
        }
        Self { tcp, ended: false }
    }

    /// Closes it in order; what is still queued is sent.
    pub(super) fn end(mut self) {
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
    tunnel: TunnelStream,
    progress: &Rc<Progress>,
) -> impl Future<Output = Result<(), RelayError>> + Unpin + use<> {
    // Here, not at the first poll, so that a drop before it resets too.
    tunnel.attach(Leg::new(app), progress);
    relay_aboard(tunnel)
}

/// Relays between a stream and the application that it was opened with
/// ([`Pool::connect_aboard`](super::Pool::connect_aboard)), until both directions have ended.
///
/// # Errors
/// A side broke; both have been reset.
///
/// # Cancel safety
/// Dropping the future resets both sides.
pub fn relay_aboard(
    tunnel: TunnelStream,
) -> impl Future<Output = Result<(), RelayError>> + Unpin + use<> {
    // Not an async function: it would hold the stream twice, as argument and as variable.
    poll_fn(move |cx| {
        tunnel.poll_ended(cx).map(|ended| match ended {
            Ended::Complete => Ok(()),
            Ended::Reset(code) => Err(RelayError::Reset(code)),
            Ended::App(error) => Err(RelayError::App(error)),
            Ended::Tunnel(broken) => Err(RelayError::Tunnel(broken)),
            Ended::Moved => Err(RelayError::Moved),
        })
    })
}

/// Relays between two plain connections of the account's pod, until both directions have ended, or somebody pulls the
/// brake.
///
/// # Errors
/// A side broke; both have been reset. Or [`RelayError::Moved`]: both are with who pulled the brake.
///
/// # Cancel safety
/// Dropping the future resets both sides.
pub fn relay_tcp(
    app: TcpStream,
    peer: TcpStream,
    _passage: Passage<'_>,
    (progress, brake): (&Rc<Progress>, &Rc<Brake>),
    account: &Rc<Account>,
) -> impl Future<Output = Result<(), RelayError>> + use<> {
    let (mut app, mut peer) = (Leg::new(app), Leg::new(peer));
    let (progress, account) = (Rc::clone(progress), Rc::clone(account));
    let brake = Rc::clone(brake);
    async move {
        let (app_read, app_write) = app.tcp.split();
        let (peer_read, peer_write) = peer.tcp.split();
        let from_app = Side { half: app_read, failed: RelayError::App };
        let from_peer = Side { half: peer_read, failed: RelayError::Peer };
        let to_app = Side { half: app_write, failed: RelayError::App };
        let to_peer = Side { half: peer_write, failed: RelayError::Peer };
        let copied = futures::future::try_join(
            plain::copy(from_app, to_peer, (&progress.sent, brake.first()), &account),
            plain::copy(from_peer, to_app, (&progress.received, brake.second()), &account),
        );
        tokio::select! {
            biased;
            copied = copied => copied.map(drop)?,
            () = brake.pulled() => {
                brake.give((app, peer));
                return Err(RelayError::Moved);
            }
        }
        app.end();
        peer.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
