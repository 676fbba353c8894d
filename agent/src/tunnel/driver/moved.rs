//! A tunnel on its way to another process: taken between two passes, with all its streams, and gone on with there.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::rc::Rc;

use sotto_proto::handover::{self as proto, TunnelStream};
use tokio::sync::oneshot;

use super::super::account::Spent;
use super::super::h2::{Connection, StreamId, Unsound};
use super::super::limits::Limits;
use super::super::relay::{Leg, Progress};
use super::super::tls::{Frozen, FrozenError, Session};
use super::broken::Broken;
use super::link::StreamHandle;
use super::ready::Key;
use super::state::State;
use super::stream::{App, Ended, Stream};
use super::wire::Wire;
use super::{Driver, Side, Terms};

/// Applications' connections, and what they have carried.
type Apps = Vec<(TcpStream, Rc<Progress>)>;

/// A tunnel that nobody serves.
pub struct Moving {
    /// All but what follows.
    pub tunnel: proto::Tunnel,
    /// The keys of its TLS session.
    pub session: Frozen,
    /// Its own connection.
    pub tcp: TcpStream,
    /// The applications' connections, of each stream in order, and what they have carried.
    pub apps: Apps,
}

/// Why a tunnel cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Its HTTP/2 is none.
    #[error("its HTTP/2 cannot be gone on with")]
    Http2(#[source] Unsound),
    /// Its TLS is none.
    #[error("its TLS session cannot be gone on with")]
    Tls(#[source] FrozenError),
    /// Something is missing, or does not fit the rest.
    #[error("its state has {0} that cannot be")]
    Unsound(&'static str),
    /// The runtime does not take its sockets.
    #[error("its connections cannot be watched")]
    Io(#[from] std::io::Error),
    /// The pod holds all it may.
    #[error("no room for what waits in it")]
    Spent(#[from] Spent),
}

impl Driver {
    /// Parts with the connection and its streams, if somebody has asked for that and it can be.
    pub(super) fn move_if_asked(&self, wire: Box<Wire>, state: &mut State) -> Option<Box<Wire>> {
        let Some(asked) = state.mover.take_if(|asked| !asked.is_closed()) else {
            return Some(wire);
        };
        match self.take_out(wire, state) {
            Ok(moving) => {
                state.broken = Some(Broken::Moved);
                state.retire();
                // Whoever asked runs on this thread, and has not gone: it was not closed a moment ago.
                drop(asked.send(moving));
                None
            }
            Err(wire) => {
                state.mover = Some(asked);
                Some(wire)
            }
        }
    }

    /// Everything, or the connection back.
    fn take_out(&self, wire: Box<Wire>, state: &mut State) -> Result<Box<Moving>, Box<Wire>> {
        let Some((tunnel, apps)) = told(state) else { return Err(wire) };
        let Ok(tcp) = wire.tcp().as_fd().try_clone_to_owned() else { return Err(wire) };
        let (session, partial, sealed) = wire.freeze()?;
        let tunnel = proto::Tunnel { partial, sealed, ..tunnel };
        for stream in state.streams.values_mut() {
            stream.end(Ended::Moved);
        }
        Ok(Box::new(Moving { tunnel, session, tcp: tcp.into(), apps }))
    }

    /// The task of a tunnel that another process served, and its streams in their order.
    ///
    /// # Errors
    /// It is none; nothing was done to its connections.
    pub(in super::super) fn thaw(
        moving: Moving,
        side: Side,
        limits: &Limits,
        terms: Terms,
    ) -> Result<(Self, Vec<StreamHandle>), MoveError> {
        let Moving { tunnel, session, tcp, apps } = moving;
        let http2 = tunnel.http2.ok_or(MoveError::Unsound("no HTTP/2"))?;
        if http2.is_server != (side == Side::Server) {
            return Err(MoveError::Unsound("another end"));
        }
        let h2 = Connection::thaw(http2).map_err(MoveError::Http2)?;
        let session = Session::thaw(&session).map_err(MoveError::Tls)?;
        check(&h2, &tunnel.streams, apps.len())?;
        let tcp = watched(tcp)?;
        let this = Self::with(h2, side, limits, terms, |waker| {
            Wire::resume(tcp, session, (tunnel.partial, tunnel.sealed), waker)
        });
        let mut handles = Vec::new();
        for (told, (tcp, progress)) in tunnel.streams.into_iter().zip(apps) {
            handles.push(this.resume(told, watched(tcp)?, progress)?);
        }
        let mut state = this.link.shared().state.borrow_mut();
        state.settle();
        if side == Side::Client || state.h2.is_going_away() {
            state.retire();
        }
        drop(state);
        Ok((this, handles))
    }

    fn resume(
        &self,
        told: TunnelStream,
        tcp: tokio::net::TcpStream,
        progress: Rc<Progress>,
    ) -> Result<StreamHandle, MoveError> {
        let shared = self.link.shared();
        let mut state = shared.state.borrow_mut();
        let id = state.h2.streams().find(|id| id.value() == told.id);
        let id = id.ok_or(MoveError::Unsound("a stream"))?;
        let waker = shared.ready.waker(Key::Stream(id));
        let mut stream = Stream {
            app: Some(App::new(Leg::new(tcp), waker, progress)),
            established: true,
            peer_ended: told.peer_ended,
            app_ended: told.app_ended,
            finished: told.finished,
            ..Stream::default()
        };
        stream.backlog.extend(&state.account, &[IoSlice::new(&told.backlog)], 0)?;
        state.insert(id, stream);
        state.queue(id);
        Ok(self.link.handle(id))
    }
}

/// What is told of the tunnel's HTTP/2 and streams, and their applications; none if it cannot be left now.
fn told(state: &State) -> Option<(proto::Tunnel, Apps)> {
    let is_quiet = state.broken.is_none()
        && state.settled
        && state.incoming.is_empty()
        && state.unanswered == 0;
    if !is_quiet {
        return None;
    }
    let open = state.streams.iter().filter(|(_, stream)| stream.ended.is_none());
    let mut open: Vec<(&StreamId, &Stream)> = open.collect();
    open.sort_by_key(|(id, _)| **id);
    let known: BTreeSet<StreamId> = state.h2.streams().collect();
    if !known.iter().eq(open.iter().map(|(id, _)| *id)) {
        return None;
    }
    let mut tunnel = proto::Tunnel { http2: Some(state.h2.freeze()?), ..proto::Tunnel::default() };
    let mut apps = Vec::new();
    for (id, stream) in open {
        let (tcp, progress) = stream.to_move()?;
        apps.push((TcpStream::from(tcp.as_fd().try_clone_to_owned().ok()?), progress));
        let (front, back) = stream.backlog.as_slices();
        tunnel.streams.push(TunnelStream {
            id: id.value(),
            peer_ended: stream.peer_ended,
            app_ended: stream.app_ended,
            finished: stream.finished,
            backlog: [front, back].concat(),
        });
    }
    Some((tunnel, apps))
}

/// Whether all streams are told, each with an application, and what waits is what the peer was not given credit for.
fn check(h2: &Connection, told: &[TunnelStream], apps: usize) -> Result<(), MoveError> {
    let known: BTreeSet<u32> = h2.streams().map(StreamId::value).collect();
    let ids: BTreeSet<u32> = told.iter().map(|stream| stream.id).collect();
    if known != ids || ids.len() != told.len() || apps != told.len() {
        return Err(MoveError::Unsound("streams"));
    }
    let fits = |stream: &TunnelStream| h2.untaken(stream.id) as usize == stream.backlog.len();
    if told.iter().all(fits) { Ok(()) } else { Err(MoveError::Unsound("a backlog")) }
}

fn watched(tcp: TcpStream) -> std::io::Result<tokio::net::TcpStream> {
    tcp.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(tcp)
}

/// Who waits for a tunnel to be left.
pub(super) type Mover = oneshot::Sender<Box<Moving>>;

impl std::fmt::Debug for Moving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moving").field("streams", &self.apps.len()).finish_non_exhaustive()
    }
}
