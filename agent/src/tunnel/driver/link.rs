//! What the rest of the thread holds of a tunnel: the tunnel itself, and its streams.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, StatusCode};
use tokio::sync::{Notify, oneshot};

use super::super::account::{Account, Held};
use super::super::h2::{Code, Connection, OpenError, Request, SendError, StreamId};
use super::super::relay::{Leg, Progress};
use super::broken::Broken;
use super::moved::Moving;
use super::ready::{Key, Ready};
use super::state::State;
use super::stream::{App, Ended, Passenger, Stream};

/// A tunnel, as its users see it. Clones are the same tunnel.
#[derive(Clone)]
pub(in super::super) struct Link(Rc<Shared>);

pub(super) struct Shared {
    pub(super) state: RefCell<State>,
    pub(super) ready: Arc<Ready>,
}

/// Why there is no answer to a CONNECT.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unanswered {
    /// The tunnel broke.
    #[error("the tunnel broke")]
    Broken(#[source] Broken),
    /// The peer reset the stream.
    #[error("the peer reset the stream: {0}")]
    Reset(Code),
    /// The application did not wait for it.
    #[error("the application's connection broke")]
    App(#[source] Arc<io::Error>),
    /// The tunnel takes no such stream.
    #[error("the tunnel takes no more streams")]
    Open(#[source] OpenError),
}

impl Link {
    pub(super) fn new(h2: Connection, account: Rc<Account>, max_unanswered: usize) -> Self {
        let state = RefCell::new(State::new(h2, account, max_unanswered));
        Self(Rc::new(Shared { state, ready: Arc::default() }))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Sends a CONNECT.
    pub(in super::super) fn open(
        &self,
        authority: &str,
        headers: &HeaderMap,
    ) -> Result<StreamHandle, Unanswered> {
        let mut state = self.0.state.borrow_mut();
        if let Some(broken) = &state.broken {
            return Err(Unanswered::Broken(broken.clone()));
        }
        let id = state.h2.open(authority, headers).map_err(Unanswered::Open)?;
        state.insert(id, Stream::default());
        drop(state);
        self.0.ready.mark(Key::State);
        Ok(StreamHandle { link: self.clone(), id })
    }

    /// Takes the tunnel out of its task once it can be left, with all its streams; none if it ends before, or is to stay.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it leaves the tunnel where it is.
    pub(in super::super) async fn leave(&self) -> Option<Box<Moving>> {
        let (mover, moved) = oneshot::channel();
        self.0.state.borrow_mut().mover = Some(mover);
        self.0.ready.mark(Key::State);
        moved.await.ok()
    }

    pub(super) fn handle(&self, id: StreamId) -> StreamHandle {
        StreamHandle { link: self.clone(), id }
    }

    /// A stream of the peer that nobody has seen yet.
    pub(in super::super) fn next_incoming(&self) -> Option<(StreamHandle, Request)> {
        let (id, request) = self.0.state.borrow_mut().next_incoming()?;
        Some((StreamHandle { link: self.clone(), id }, request))
    }

    /// A stream of the peer was answered, or is not going to be.
    pub(in super::super) fn answered(&self) {
        self.0.state.borrow_mut().unanswered -= 1;
    }

    /// Holds bytes on the account of the tunnel's pod, if there is room.
    pub(in super::super) fn hold(&self, bytes: usize) -> Option<Held> {
        self.0.state.borrow().account.hold(bytes).ok()
    }

    /// Takes no new streams, and ends with the last one.
    pub(in super::super) fn retire(&self) {
        self.0.state.borrow_mut().retire();
        self.0.ready.mark(Key::State);
    }

    pub(in super::super) fn is_retired(&self) -> bool {
        self.0.state.borrow().retiring
    }

    /// Whether the peer's settings are here.
    pub(in super::super) fn is_settled(&self) -> bool {
        self.0.state.borrow().settled
    }

    /// Streams that the peer lets us have open at once.
    pub(in super::super) fn max_open(&self) -> usize {
        usize::try_from(self.0.state.borrow().h2.max_open()).unwrap_or(usize::MAX)
    }

    /// Told when it has settled or retired.
    pub(in super::super) fn changed(&self) -> Rc<Notify> {
        Rc::clone(&self.0.state.borrow().changed)
    }
}

/// A stream's owner. Dropped before the stream has ended, it resets the stream and the
/// application.
pub(in super::super) struct StreamHandle {
    link: Link,
    id: StreamId,
}

impl StreamHandle {
    /// The peer's answer to our CONNECT; once.
    pub(in super::super) async fn answer(&self) -> Result<(StatusCode, HeaderMap), Unanswered> {
        std::future::poll_fn(|cx| self.poll_answer(cx)).await
    }

    fn poll_answer(&self, cx: &Context<'_>) -> Poll<Result<(StatusCode, HeaderMap), Unanswered>> {
        let mut state = self.link.0.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(Unanswered::Broken(Broken::Ended)));
        };
        if let Some(answer) = stream.answer.take() {
            return Poll::Ready(Ok(*answer));
        }
        match &stream.ended {
            Some(Ended::Reset(code)) => Poll::Ready(Err(Unanswered::Reset(*code))),
            Some(Ended::Tunnel(broken)) => Poll::Ready(Err(Unanswered::Broken(broken.clone()))),
            Some(Ended::App(error)) => {
                let error = io::Error::new(error.kind(), error.to_string());
                Poll::Ready(Err(Unanswered::App(Arc::new(error))))
            }
            Some(Ended::Moved) => Poll::Ready(Err(Unanswered::Broken(Broken::Moved))),
            Some(Ended::Complete) => Poll::Ready(Err(Unanswered::Broken(Broken::Ended))),
            None => {
                stream.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Answers the peer's CONNECT with a success.
    pub(in super::super) fn accept(&self, headers: &HeaderMap) -> Result<(), SendError> {
        let mut state = self.link.0.state.borrow_mut();
        state.h2.respond(self.id, StatusCode::OK, headers, false)?;
        if let Some(stream) = state.streams.get_mut(&self.id) {
            stream.establish();
        }
        drop(state);
        self.link.0.ready.mark(Key::State);
        Ok(())
    }

    /// Answers the peer's CONNECT with no success, which is the end of it.
    pub(in super::super) fn refuse(self, status: StatusCode) -> Result<(), SendError> {
        let mut state = self.link.0.state.borrow_mut();
        state.h2.respond(self.id, status, &HeaderMap::new(), true)?;
        // RFC 9113 8.1: the rest of the request is not wanted.
        state.h2.reset(self.id, Code::NO_ERROR);
        state.end(self.id, Ended::Complete);
        drop(state);
        self.link.0.ready.mark(Key::State);
        Ok(())
    }

    /// Gives the tunnel's task an application before the peer has answered, which may send up to
    /// `room` bytes meanwhile.
    pub(in super::super) fn board(&self, passenger: Passenger, room: usize) {
        let mut state = self.link.0.state.borrow_mut();
        let State { streams, account, .. } = &mut *state;
        let Some(stream) = streams.get_mut(&self.id) else { return };
        stream.board(passenger, room, account, self.link.0.ready.waker(Key::Stream(self.id)));
        state.queue(self.id);
    }

    /// Takes the application back from a stream that ended unanswered.
    pub(in super::super) fn disembark(&self) -> Option<Passenger> {
        self.link.0.state.borrow_mut().streams.get_mut(&self.id)?.disembark()
    }

    /// Gives the application's socket to the tunnel's task.
    pub(in super::super) fn attach(&self, leg: Leg, progress: &Rc<Progress>) {
        let mut state = self.link.0.state.borrow_mut();
        // One that has ended already resets the application by dropping it.
        let Some(stream) = state.streams.get_mut(&self.id).filter(|stream| stream.ended.is_none())
        else {
            return;
        };
        let waker = self.link.0.ready.waker(Key::Stream(self.id));
        stream.app = Some(App::new(leg, waker, Rc::clone(progress)));
        state.queue(self.id);
        drop(state);
        self.link.0.ready.mark(Key::State);
    }

    /// Ready when the stream has ended; once.
    pub(in super::super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<Ended> {
        let mut state = self.link.0.state.borrow_mut();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Ended::Tunnel(Broken::Ended));
        };
        match stream.ended.take() {
            Some(ended) => {
                // The mark that there is nothing left to reset.
                stream.ended = Some(Ended::Complete);
                Poll::Ready(ended)
            }
            None => {
                stream.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.link.0.state.borrow_mut().remove(self.id);
        self.link.0.ready.mark(Key::State);
    }
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle").field("id", &self.id).finish_non_exhaustive()
    }
}
