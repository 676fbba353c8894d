//! One task for each tunnel: it owns the connection, the TLS session, the HTTP/2 machine, and the
//! sockets of the applications whose streams the tunnel carries.
//!
//! Input: bytes from the wire and from the applications, and what the owners of streams ask for
//! through a [`Link`]. Output: the same bytes on the other side. A pass serves all that is ready,
//! takes a bounded amount, and yields: the tunnels of other pods share the thread. Before a pass that
//! would collect the first of many answers, applications are let run.
//!
//! | bound | by |
//! |---|---|
//! | bytes from the peer that wait for an application | the stream's window, and the pod's account |
//! | bytes from applications that wait for the wire | `Limits::send_buffer`, one pass, and the pod's account |
//! | frames of our own that wait for the wire | the budgets of HTTP/2 |
//! | bytes a stream waits while others have their turn | one pass |
//! | an idle tunnel | nothing but its state: buffers are the thread's |

mod answers;
mod backlog;
mod broken;
mod clock;
mod link;
mod moved;
mod ready;
mod receive;
mod scratch;
mod send;
mod state;
mod stream;
mod wire;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::account::{Account, Held};
use super::chain::Trust;
use super::h2::{Code, Connection, StreamId};
use super::limits::Limits;
use super::tls::Established;
use answers::Answers;
use clock::{Clock, Due};
use ready::Key;
use receive::Piece;
use state::State;
use wire::Wire;

pub use broken::Broken;
pub use link::Unanswered;
pub(super) use link::{Link, StreamHandle};
pub use moved::{MoveError, Moving};
pub(super) use scratch::free_buffers;
pub(super) use stream::{Ended, Passenger};

/// What a tunnel is taken to hold that does nothing, in bytes: it is a socket, too, and idle ones are nobody's connection.
const TUNNEL: usize = 4 << 10;
/// What waits for a peer while the pod holds too much, in bytes.
const TIGHT_SEND: usize = 64 << 10;

/// Something outside that is looked at only when it has happened.
type Signal = Pin<Box<dyn Future<Output = ()>>>;

/// A tunnel's task. Dropped, it resets the applications of all its streams.
pub(super) struct Driver {
    side: Side,
    link: Link,
    wire: Option<Box<Wire>>,
    clock: Clock,
    drain: Option<Signal>,
    abort: Option<Signal>,
    /// The connection's last words, on their way.
    last: Option<Signal>,
    /// Sealed bytes above which applications are not read.
    send_buffer: usize,
    /// What the connection itself holds.
    held: Held,
    answers: Answers,
    pieces: Vec<Piece>,
    again: Vec<StreamId>,
    keys: Vec<Key>,
}

/// Whose end of the tunnel it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that dialled, and opens streams.
    Client,
    /// The one that was dialled.
    Server,
}

/// Whose a tunnel is, and when it shall end.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Of the pod on this side.
    pub account: Rc<Account>,
    /// By what its ends believe each other.
    pub trust: Trust,
    /// Cancelled, it takes no more streams, tells the peer, and ends with its last stream.
    pub drain: CancellationToken,
    /// Cancelled, it ends now; the peer is told so too.
    pub abort: CancellationToken,
}

impl Driver {
    /// The task of a connection whose handshake is done. Nothing moves until it is polled.
    pub(super) fn new(
        tcp: TcpStream,
        established: Established,
        side: Side,
        limits: &Limits,
        terms: Terms,
    ) -> Self {
        let h2 = match side {
            Side::Client => Connection::client(limits.h2(limits.max_response_headers)),
            Side::Server => Connection::server(limits.h2(limits.max_request_headers)),
        };
        Self::with(h2, side, limits, terms, |waker| Wire::new(tcp, established, waker))
    }

    fn with(
        h2: Connection,
        side: Side,
        limits: &Limits,
        terms: Terms,
        wire: impl FnOnce(Waker) -> Wire,
    ) -> Self {
        let idle = match side {
            Side::Client => limits.idle_timeout,
            Side::Server => limits.accepted_idle_timeout,
        };
        let max_unanswered = usize::try_from(limits.max_accepted_streams).unwrap_or(usize::MAX);
        let held = Held::nothing(&terms.account);
        let link = Link::new(h2, terms.account, max_unanswered);
        let ready = &link.shared().ready;
        for key in [Key::Wire, Key::Clock, Key::Drain, Key::Abort] {
            ready.mark(key);
        }
        Self {
            side,
            wire: Some(Box::new(wire(ready.waker(Key::Wire)))),
            clock: Clock::new(limits, idle, ready.waker(Key::Clock)),
            drain: Some(Box::pin(terms.drain.cancelled_owned())),
            abort: Some(Box::pin(terms.abort.cancelled_owned())),
            last: None,
            send_buffer: limits.send_buffer,
            held,
            answers: Answers::default(),
            pieces: Vec::new(),
            again: Vec::new(),
            keys: Vec::new(),
            link,
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Runs the tunnel to its end.
    pub(super) async fn run(mut self) -> Broken {
        // A pass is bounded by itself, and yields.
        unconstrained(poll_fn(|cx| self.poll(cx))).await
    }

    /// Moves what can be moved now. Ready when the tunnel has ended, and no stream is left of which
    /// an application waits for the rest.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let link = self.link.clone();
        let mut state = link.shared().state.borrow_mut();
        let noted = self.note(&mut state, cx.waker());
        if noted.is_ok() && self.lets_applications_run(&state) {
            come_back(cx);
            return Poll::Pending;
        }
        if let Some(mut wire) = self.wire.take() {
            let done = noted.and_then(|()| self.pass(&mut wire, &mut state));
            match done {
                Ok(()) if is_over(&wire, &state) => self.leave(*wire, &mut state, &Broken::Ended),
                Ok(()) => self.wire = self.move_if_asked(wire, &mut state),
                Err(broken) => self.leave(*wire, &mut state, &broken),
            }
        }
        if self.wire.is_none() {
            // Also at once: what came with the connection's end is to be passed on.
            self.serve(&mut state, &mut Vec::new(), 0);
        }
        if let Some(wire) = &self.wire {
            self.clock.arm(state.idle_since.filter(|_| !state.retiring));
            let sendable = !state.run.is_empty() && wire.waiting() < self.send_buffer(wire);
            if wire.readable || sendable {
                come_back(cx);
            }
            return Poll::Pending;
        }
        if let Some(last) = &mut self.last
            && last.as_mut().poll(cx).is_ready()
        {
            self.last = None;
        }
        match &state.broken {
            Some(broken) if self.last.is_none() && !state.is_busy() => Poll::Ready(broken.clone()),
            _ => Poll::Pending,
        }
    }

    /// Takes in what woke the task.
    fn note(&mut self, state: &mut State, task: &Waker) -> Result<(), Broken> {
        let mut keys = std::mem::take(&mut self.keys);
        self.link.shared().ready.take(&mut keys, task);
        let mut noted = Ok(());
        for key in keys.drain(..) {
            match key {
                Key::State => {}
                Key::Stream(id) => state.queue(id),
                Key::Wire => {
                    if let Some(wire) = &mut self.wire {
                        wire.readable = true;
                    }
                }
                Key::Clock => {
                    let ticked = self.tick(state);
                    noted = noted.and(ticked);
                }
                Key::Drain => {
                    if is_given(&mut self.drain, self.link.shared().ready.waker(key)) {
                        self.go_away(state);
                    }
                }
                Key::Abort => {
                    if is_given(&mut self.abort, self.link.shared().ready.waker(key)) {
                        noted = Err(Broken::Ended);
                    }
                }
            }
        }
        self.keys = keys;
        noted
    }

    /// Lets applications run before a pass that would collect few of the answers they are about to give.
    fn lets_applications_run(&mut self, state: &State) -> bool {
        let quiet = self.wire.as_ref().is_some_and(|wire| !wire.readable);
        quiet && self.answers.are_few(state.run.len()) && answers::let_applications_run()
    }

    fn pass(&mut self, wire: &mut Wire, state: &mut State) -> Result<(), Broken> {
        let tight = state.account.is_tight();
        state.h2.tighten(tight);
        wire.tighten(tight);
        self.receive(wire, state)?;
        self.answers.passed(state.run.len());
        let room = self.send_buffer(wire).saturating_sub(wire.waiting());
        let mut plain = scratch::plain();
        self.serve(state, &mut plain, room);
        if room > 0 && state.h2.has_output() {
            state.h2.take_output(&mut plain);
        }
        let sealed = wire.seal(&plain);
        scratch::give_back_plain(plain);
        sealed?;
        wire.send()?;
        let held = TUNNEL + wire.held() + state.h2.buffered();
        self.held.resize(held).map_err(|_| Broken::Spent)
    }

    /// Sealed bytes above which applications are not read now.
    fn send_buffer(&self, wire: &Wire) -> usize {
        if wire.is_tight() { self.send_buffer.min(TIGHT_SEND) } else { self.send_buffer }
    }

    fn tick(&mut self, state: &mut State) -> Result<(), Broken> {
        match self.clock.due(state.idle_since.filter(|_| !state.retiring))? {
            Due::Nothing => {}
            Due::Ping => state.h2.ping([0; 8]),
            Due::Idle => self.go_away(state),
        }
        Ok(())
    }

    /// No new streams; the tunnel ends with the last one.
    fn go_away(&self, state: &mut State) {
        if self.side == Side::Server {
            state.h2.go_away(Code::NO_ERROR);
        }
        state.retire();
    }

    /// Parts with the connection.
    fn leave(&mut self, wire: Wire, state: &mut State, why: &Broken) {
        state.sever(why);
        let mut last = Vec::new();
        match why {
            // Nobody is there.
            Broken::Io(_) | Broken::Silent(_) | Broken::Moved => return,
            // The session says what is to be said.
            Broken::Tls(_) => {}
            Broken::Protocol(_) | Broken::TooFast => state.h2.take_output(&mut last),
            Broken::Closed | Broken::Ended | Broken::Spent => {
                state.h2.go_away(Code::NO_ERROR);
                state.h2.take_output(&mut last);
            }
        }
        self.last = Some(Box::pin(wire.leave(last)));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = self.link.shared().state.borrow_mut();
        state.sever(&Broken::Ended);
        for stream in state.streams.values_mut() {
            stream.end(Ended::Tunnel(Broken::Ended));
        }
    }
}

/// Wakes the task once the runtime has looked after everybody else.
fn come_back(cx: &mut Context<'_>) {
    let yielded = pin!(yield_now()).poll(cx);
    debug_assert!(yielded.is_pending(), "a yield takes a turn");
}

fn is_over(wire: &Wire, state: &State) -> bool {
    state.retiring
        && state.incoming.is_empty()
        && wire.waiting() == 0
        && !state.h2.has_output()
        && !state.is_busy()
}

/// Whether a signal was given; if not, `waker` is woken when it is.
fn is_given(signal: &mut Option<Signal>, waker: Waker) -> bool {
    let given = match signal {
        Some(signal) => signal.as_mut().poll(&mut Context::from_waker(&waker)).is_ready(),
        None => false,
    };
    if given {
        *signal = None;
    }
    given
}

#[cfg(test)]
mod tests;
