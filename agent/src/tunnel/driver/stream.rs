//! One stream of a tunnel, and the application's socket it carries.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::BufMut as _;
use http::{HeaderMap, StatusCode};
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;

use super::super::account::{Account, Held, Spent};
use super::super::h2::Code;
use super::super::relay::{Leg, Progress, ReadSize};
use super::backlog::Backlog;
use super::broken::Broken;

/// How a stream ended.
#[derive(Debug)]
pub(in super::super) enum Ended {
    /// Both directions, in order.
    Complete,
    /// By the peer's reset, or one of ours for the peer's fault.
    Reset(Code),
    /// The application's connection broke.
    App(io::Error),
    /// The tunnel did.
    Tunnel(Broken),
    /// It goes on in another process.
    Moved,
}

/// What a stream's owner, its application and its tunnel's task know of it.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) app: Option<App>,
    /// None of one that both sides agreed to: most, for most of their lives.
    pub(super) early: Option<Box<Early>>,
    /// Bytes that the application has not taken yet; no more than the stream's window.
    pub(super) backlog: Backlog,
    /// Both sides agreed to the stream: the application's bytes may go.
    pub(super) established: bool,
    /// The peer sends no more.
    pub(super) peer_ended: bool,
    /// The application sends no more, and the peer knows.
    pub(super) app_ended: bool,
    /// The application knows that the peer sends no more.
    pub(super) finished: bool,
    /// It waits for its turn.
    pub(super) queued: bool,
    /// It waits for the peer's window.
    pub(super) starved: bool,
    /// The peer's answer, until the owner takes it.
    pub(super) answer: Option<Box<(StatusCode, HeaderMap)>>,
    pub(super) ended: Option<Ended>,
    /// The owner.
    pub(super) waiter: Option<Waker>,
}

/// What an application may send before the peer has answered.
#[derive(Default)]
pub(super) struct Early {
    /// Bytes that still may go.
    pub(super) room: usize,
    /// Those that went, until the answer comes: another tunnel may have to carry them.
    pub(super) sent: Vec<u8>,
    /// How many of them go again, the last ones.
    pub(super) again: usize,
    /// For as many as there may be.
    _held: Option<Held>,
}

/// An application on its way into a tunnel.
pub(in super::super) struct Passenger {
    leg: Leg,
    progress: Rc<Progress>,
    /// What a tunnel that did not take it has read of it.
    sent: Vec<u8>,
}

impl Passenger {
    pub(in super::super) fn new(leg: Leg, progress: &Rc<Progress>) -> Self {
        Self { leg, progress: Rc::clone(progress), sent: Vec::new() }
    }

    /// Its socket.
    pub(in super::super) fn tcp(&self) -> &tokio::net::TcpStream {
        &self.leg.tcp
    }

    /// Whether a peer may have passed on bytes of it.
    pub(in super::super) fn has_spoken(&self) -> bool {
        !self.sent.is_empty()
    }
}

/// An application's socket in the care of a tunnel's task.
pub(super) struct App {
    leg: Leg,
    waker: Waker,
    /// The event loop may not have looked at the socket yet.
    fresh: Cell<bool>,
    pub(super) size: ReadSize,
    pub(super) progress: Rc<Progress>,
}

impl App {
    pub(super) fn new(leg: Leg, waker: Waker, progress: Rc<Progress>) -> Self {
        Self { leg, waker, fresh: Cell::new(true), size: ReadSize::default(), progress }
    }

    fn into_passenger(self, sent: Vec<u8>) -> Passenger {
        Passenger { leg: self.leg, progress: self.progress, sent }
    }

    /// Reads up to `max` bytes behind those in `into`; 0 at the end. If pending, the stream's key
    /// is noted once there is something.
    pub(super) fn poll_read(&mut self, into: &mut Vec<u8>, max: usize) -> Poll<io::Result<usize>> {
        into.reserve(max);
        let mut limited = into.limit(max);
        // Knows after a short read that there is no more, without asking the kernel again.
        pin!(self.leg.tcp.read_buf(&mut limited)).poll(&mut Context::from_waker(&self.waker))
    }

    /// Writes what the socket takes now. If that is not all, the stream's key is noted once it
    /// takes more.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.fresh.take() {
            // A connection just made takes bytes, but the event loop says so a turn later: then the
            // application would have its request only after the peer has our answer.
            match SockRef::from(&self.leg.tcp).send_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                written => return written,
            }
        }
        loop {
            // One slice, the usual case of small messages, costs the kernel less by itself.
            let written = match slices {
                [slice, rest @ ..] if rest.iter().all(|slice| slice.is_empty()) => {
                    self.leg.tcp.try_write(slice)
                }
                slices => self.leg.tcp.try_write_vectored(slices),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
            let mut context = Context::from_waker(&self.waker);
            match self.leg.tcp.poll_write_ready(&mut context) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(0),
            }
        }
    }

    /// Sends FIN. That the application is gone already is no error at the end.
    fn finish(&self) -> io::Result<()> {
        match SockRef::from(&self.leg.tcp).shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()),
        }
    }
}

impl Stream {
    /// Takes an application before the answer, with up to `room` bytes of it if they can be held.
    pub(super) fn board(
        &mut self,
        passenger: Passenger,
        room: usize,
        account: &Rc<Account>,
        waker: Waker,
    ) {
        let Passenger { leg, progress, sent } = passenger;
        let room = room.saturating_sub(sent.len());
        let held = account.hold(room + sent.len()).ok();
        let room = if held.is_some() { room } else { 0 };
        self.early = Some(Box::new(Early { room, again: sent.len(), sent, _held: held }));
        self.app = Some(App::new(leg, waker, progress));
    }

    /// Gives the application back, if the stream ended before the answer.
    pub(super) fn disembark(&mut self) -> Option<Passenger> {
        let sent = self.early.as_mut().map(|early| std::mem::take(&mut early.sent));
        let app = self.app.take_if(|_| self.ended.is_some());
        app.map(|app| app.into_passenger(sent.unwrap_or_default()))
    }

    /// The peer agreed.
    pub(super) fn establish(&mut self) {
        self.established = true;
        self.early.take_if(|early| early.again == 0);
    }

    /// Bytes of the application that may go now, windows apart.
    pub(super) fn allowance(&self) -> usize {
        let early = || self.early.as_ref().map_or(0, |early| early.room);
        if self.established { usize::MAX } else { early() }
    }

    /// Gives the application what just arrived, in one write if it takes it; the rest waits on the account of its pod.
    /// Tells how much the application has taken.
    pub(super) fn deliver(
        &mut self,
        slices: &[IoSlice<'_>],
        account: &Rc<Account>,
    ) -> io::Result<usize> {
        let mut written = match &self.app {
            Some(app) if self.backlog.is_empty() => app.try_write(slices)?,
            _ => 0,
        };
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        if written == all {
            self.count(written);
            return Ok(written);
        }
        self.count(written);
        self.backlog.extend(account, slices, written).map_err(spent)?;
        if written > 0 {
            // The socket may take more, or tell when.
            written += self.drain()?;
        }
        Ok(written)
    }

    /// Writes what waits for the application; tells how much it took.
    pub(super) fn drain(&mut self) -> io::Result<usize> {
        let mut drained = 0;
        while let Some(app) = &self.app
            && !self.backlog.is_empty()
        {
            let (front, back) = self.backlog.as_slices();
            let written = app.try_write(&[IoSlice::new(front), IoSlice::new(back)])?;
            if written == 0 {
                break;
            }
            self.backlog.taken(written);
            self.count(written);
            drained += written;
        }
        Ok(drained)
    }

    /// Passes the peer's end on, once all before it is written. True if that was the last to do.
    pub(super) fn settle(&mut self) -> io::Result<bool> {
        let Some(app) = &self.app else { return Ok(false) };
        if !self.peer_ended || !self.backlog.is_empty() {
            return Ok(false);
        }
        if self.app_ended {
            return Ok(true);
        }
        if !self.finished {
            app.finish()?;
            self.finished = true;
        }
        Ok(false)
    }

    /// Nothing more happens on it. Closed in order if it ended so, the application is reset
    /// otherwise.
    pub(super) fn end(&mut self, ended: Ended) {
        if self.ended.is_some() {
            return;
        }
        let unanswered = !self.established && self.answer.is_none();
        match ended {
            Ended::Complete => {
                if let Some(app) = self.app.take() {
                    app.leg.end();
                }
            }
            // Its owner may find it another tunnel.
            Ended::Reset(_) | Ended::Tunnel(_) if unanswered => {}
            Ended::Reset(_) | Ended::Tunnel(_) | Ended::App(_) | Ended::Moved => self.app = None,
        }
        self.backlog = Backlog::default();
        self.ended = Some(ended);
        self.wake();
    }

    /// The application and what it has carried, if both sides agreed to the stream and nothing waits for its owner.
    pub(super) fn to_move(&self) -> Option<(&tokio::net::TcpStream, Rc<Progress>)> {
        let app = self.app.as_ref()?;
        let is_carried = self.established && self.answer.is_none() && self.early.is_none();
        let is_carried = is_carried && !app.progress.stays();
        is_carried.then(|| (&app.leg.tcp, Rc::clone(&app.progress)))
    }

    pub(super) fn wake(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    fn count(&self, written: usize) {
        if let Some(app) = &self.app {
            app.progress.add_received(written);
        }
    }
}

/// What an application that does not read is reset for.
pub(super) fn spent(spent: Spent) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, spent)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    use super::super::super::testing::unbounded;
    use super::*;

    #[tokio::test]
    async fn a_connection_just_made_gets_bytes_before_the_event_loop_has_seen_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let made = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        made.set_nonblocking(true).unwrap();
        let leg = Leg::new(tokio::net::TcpStream::from_std(made).unwrap());
        let app = App::new(leg, Waker::noop().clone(), Rc::default());
        let mut stream = Stream { app: Some(app), ..Stream::default() };
        let pieces = [IoSlice::new(b"what came "), IoSlice::new(b"with the request")];
        assert_eq!(stream.deliver(&pieces, &unbounded()).unwrap(), 26);
        assert!(stream.backlog.is_empty());
        let (mut application, _) = listener.accept().unwrap();
        let mut received = [0; 26];
        application.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"what came with the request");
    }
}
