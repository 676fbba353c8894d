//! What we send: requests, responses, DATA, resets, PING and GOAWAY.

use http::{HeaderMap, StatusCode};

use super::{Connection, Role};
use crate::tunnel::h2::StreamId;
use crate::tunnel::h2::budget::sending_earns;
use crate::tunnel::h2::code::Code;
use crate::tunnel::h2::fields::list_size;
use crate::tunnel::h2::frame::{self, HEAD, Head, MAX_31, flag, kind};
use crate::tunnel::h2::streams::{Receiving, Sending};

/// Why no stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many as the peer allows are open.
    #[error("peer allows no more streams at once")]
    TooManyStreams,
    /// Either end sent GOAWAY, or the connection failed.
    #[error("tunnel is going away")]
    GoingAway,
    /// 2^30 streams were opened.
    #[error("tunnel has no stream ids left")]
    IdsExhausted,
    /// The peer takes no header list that large.
    #[error("headers larger than the peer takes")]
    HeadersTooLarge,
}

/// Why something cannot be sent on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It was reset, or ended both ways.
    #[error("stream is gone")]
    Gone,
    /// Its sending side does not allow it: ended, not answered, or answered before.
    #[error("stream is not in the state to send that")]
    State,
    /// More than the windows or the peer's largest frame allow.
    #[error("more bytes than the peer takes now")]
    OverCapacity,
    /// The peer takes no header list that large.
    #[error("headers larger than the peer takes")]
    HeadersTooLarge,
}

/// How far we are in taking no more streams (RFC 9113 section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The peer was told to open no more; those on their way are still taken.
    Announced,
    /// Streams above `last` are ignored.
    Gone {
        last: u32,
    },
}

impl Leaving {
    /// The last stream that is served, once that is told: it is never raised again.
    pub(super) fn last(self) -> Option<u32> {
        match self {
            Self::Gone { last } => Some(last),
            Self::No | Self::Announced => None,
        }
    }
}

/// The PING behind the first GOAWAY: with its answer all streams opened before have come.
pub(super) const GRACE: [u8; 8] = *b"goodbye\0";

impl Connection {
    /// Opens a tunnel. DATA may follow at once.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was sent then.
    pub fn open(&mut self, authority: &str, headers: &HeaderMap) -> Result<StreamId, OpenError> {
        if self.is_going_away() || self.role == Role::Server {
            return Err(OpenError::GoingAway);
        }
        if self.next > MAX_31 {
            return Err(OpenError::IdsExhausted);
        }
        if self.streams.len() >= self.peer.max_streams as usize {
            return Err(OpenError::TooManyStreams);
        }
        let pseudo = [(":method", &b"CONNECT"[..]), (":authority", authority.as_bytes())];
        let block = self.block(&pseudo, headers).ok_or(OpenError::HeadersTooLarge)?;
        let id = self.next;
        self.next += 2;
        let max = self.max_send_frame();
        frame::put_headers(&mut self.out, id, &block, max, false);
        self.add(id, Receiving::Response, Sending::Body, None, false);
        Ok(StreamId(id))
    }

    /// Whether [`Connection::open`] finds room for a stream.
    pub fn can_open(&self) -> bool {
        !self.is_going_away()
            && self.next <= MAX_31
            && self.streams.len() < self.peer.max_streams as usize
    }

    /// How many streams the peer allows at once; 100 until it told.
    pub fn max_open(&self) -> u32 {
        self.peer.max_streams
    }

    /// Answers a request. With `end`, nothing follows.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    pub fn respond(
        &mut self,
        id: StreamId,
        status: StatusCode,
        headers: &HeaderMap,
        end: bool,
    ) -> Result<(), SendError> {
        let stream = self.streams.get(&id.0).ok_or(SendError::Gone)?;
        if stream.sending != Sending::Response {
            return Err(SendError::State);
        }
        let pseudo = [(":status", status.as_str().as_bytes())];
        let block = self.block(&pseudo, headers).ok_or(SendError::HeadersTooLarge)?;
        let max = self.max_send_frame();
        self.owe(|out| frame::put_headers(out, id.0, &block, max, end));
        self.budgets.resets.earn(1);
        if let Some(stream) = self.streams.get_mut(&id.0) {
            stream.sending = if end { Sending::Ended } else { Sending::Body };
        }
        self.settle(id.0);
        Ok(())
    }

    /// A header block, unless the peer takes none that large.
    pub(super) fn block(
        &mut self,
        pseudo: &[(&str, &[u8])],
        headers: &HeaderMap,
    ) -> Option<Vec<u8>> {
        let fields = || {
            let others = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            pseudo.iter().copied().chain(others)
        };
        let size = list_size(fields());
        if size > self.peer.max_header_list as usize {
            return None;
        }
        let mut block = Vec::with_capacity(size);
        self.encoder.start(&mut block);
        for (name, value) in fields() {
            self.encoder.field(name, value, &mut block);
        }
        Some(block)
    }

    /// Bytes that may be sent on a stream now; in frames of at most
    /// [`max_send_frame`](Connection::max_send_frame).
    #[inline]
    pub fn capacity(&self, id: StreamId) -> usize {
        let Some(stream) = self.streams.get(&id.0) else { return 0 };
        if stream.sending != Sending::Body {
            return 0;
        }
        // Below 0 is nothing.
        u32::try_from(stream.send_window).unwrap_or(0).min(self.send_window) as usize
    }

    /// The largest payload the peer takes.
    #[inline]
    pub fn max_send_frame(&self) -> usize {
        self.peer.max_frame as usize
    }

    /// The head of a DATA frame; the owner sends it and `payload` bytes after it, behind all output
    /// taken so far. An empty payload needs no capacity.
    ///
    /// # Errors
    /// See [`SendError`]; nothing may be sent then.
    #[inline]
    pub fn data(
        &mut self,
        id: StreamId,
        payload: usize,
        end: bool,
    ) -> Result<[u8; HEAD], SendError> {
        let length = u32::try_from(payload).map_err(|_| SendError::OverCapacity)?;
        let stream = self.streams.get_mut(&id.0).ok_or(SendError::Gone)?;
        if stream.sending != Sending::Body {
            return Err(SendError::State);
        }
        if length > 0 {
            let window = stream.send_window.checked_sub_unsigned(length).filter(|left| *left >= 0);
            let shared = self.send_window.checked_sub(length);
            let (Some(window), Some(shared)) = (window, shared) else {
                return Err(SendError::OverCapacity);
            };
            if length > self.peer.max_frame {
                return Err(SendError::OverCapacity);
            }
            (stream.send_window, self.send_window) = (window, shared);
            self.budgets.idle.earn(sending_earns(length));
        }
        let mut flags = 0;
        if end {
            flags = flag::END_STREAM;
            stream.sending = Sending::Ended;
            if stream.is_done() {
                self.remove(id.0);
            }
        }
        Ok(Head { length, kind: kind::DATA, flags, stream: id.0 }.bytes())
    }

    /// Ends a stream both ways and forgets it; what is still on its way is ignored.
    pub fn reset(&mut self, id: StreamId, code: Code) {
        let Some(stream) = self.streams.get(&id.0) else { return };
        // Nothing may be sent on a stream that both ended (section 5.1).
        let closed = stream.is_closed();
        self.forget(id.0);
        if !closed {
            self.owe(|out| frame::put_reset(out, id.0, code));
        }
    }

    /// Asks for a sign of life, told by [`Event::Pong`](crate::tunnel::h2::Event::Pong).
    pub fn ping(&mut self, opaque: [u8; 8]) {
        frame::put_ping(&mut self.out, opaque, false);
    }

    /// Takes no more streams. A server without an error does so in two steps: the client is told,
    /// and what it opened before it knew is still served; the second step follows by itself when a
    /// PING is answered, or by another call. Open streams go on in any case.
    pub fn go_away(&mut self, code: Code) {
        let graceful = self.role == Role::Server && code == Code::NO_ERROR;
        if self.failed.is_some() {
            return;
        }
        if graceful && self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            frame::put_go_away(&mut self.out, MAX_31, code);
            frame::put_ping(&mut self.out, GRACE, false);
        } else {
            self.leave(code);
        }
    }

    pub(super) fn leave(&mut self, code: Code) {
        let told = self.leaving.last();
        if told.is_some() && code == Code::NO_ERROR {
            return;
        }
        let last = told.unwrap_or(self.last_peer);
        self.leaving = Leaving::Gone { last };
        frame::put_go_away(&mut self.out, last, code);
    }
}
