//! From the wire to the applications.
//!
//! What one receive brought is opened in place, cut into frames, and given to each application in
//! one write; only what an application does not take is copied, to its backlog.

use std::io::IoSlice;

use super::super::h2::{Code, Event, StreamId};
use super::broken::Broken;
use super::state::State;
use super::stream::{Ended, Stream};
use super::wire::{Received, Wire};
use super::{Driver, scratch};

/// Slices of one write.
const SLICES: usize = 64;
/// Pieces collected before they are delivered.
const MAX_PIECES: usize = 1024;

/// Bytes of a stream, in the buffer they were received in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    id: StreamId,
    start: usize,
    end: usize,
}

impl Driver {
    /// Receives once if there may be something; what the peer has closed is broken off.
    pub(super) fn receive(&mut self, wire: &mut Wire, state: &mut State) -> Result<(), Broken> {
        let mut budget = scratch::RECEIVE;
        while wire.readable && budget > 0 {
            let mut buffer = scratch::plain();
            let taken = self.take(wire, state, &mut buffer);
            scratch::give_back_plain(buffer);
            budget = budget.saturating_sub(taken?);
        }
        Ok(())
    }

    /// Receives once; tells how many bytes of records that was.
    fn take(
        &mut self,
        wire: &mut Wire,
        state: &mut State,
        buffer: &mut Vec<u8>,
    ) -> Result<usize, Broken> {
        match wire.receive(buffer)? {
            Received::Nothing => Ok(0),
            Received::End => Err(Broken::Closed),
            Received::Plain { length, sealed, closed } => {
                for _ in 0..self.clock.heard() {
                    state.h2.refill();
                }
                let read = self.read_frames(state, &buffer[..length]);
                self.deliver(state, buffer);
                read?;
                if closed { Err(Broken::Closed) } else { Ok(sealed) }
            }
        }
    }

    /// Goes through frames; what belongs to applications is left in `pieces`.
    fn read_frames(&mut self, state: &mut State, plain: &[u8]) -> Result<(), Broken> {
        let mut at = 0;
        loop {
            let (read, event) = state.h2.receive(&plain[at..])?;
            let before = at;
            at += read;
            match event {
                Some(Event::Data { id, bytes }) => {
                    let start = bytes.as_ptr().addr() - plain.as_ptr().addr();
                    self.pieces.push(Piece { id, start, end: start + bytes.len() });
                    if self.pieces.len() >= MAX_PIECES {
                        self.deliver(state, plain);
                    }
                }
                Some(event) => handle(state, event)?,
                None if at == plain.len() || at == before => return Ok(()),
                None => {}
            }
        }
    }

    /// Gives the applications their pieces of `plain`.
    fn deliver(&mut self, state: &mut State, plain: &[u8]) {
        if !self.pieces.is_sorted_by_key(|piece| piece.id) {
            // Stable: within a stream the order stays.
            self.pieces.sort_by_key(|piece| piece.id);
        }
        for pieces in self.pieces.chunk_by(|one, next| one.id == next.id) {
            self.answers.gave();
            deliver_to(state, pieces, plain);
        }
        self.pieces.clear();
    }
}

fn deliver_to(state: &mut State, pieces: &[Piece], plain: &[u8]) {
    let id = pieces[0].id;
    // One that just ended gets nothing, nor needs the peer credit for it.
    let State { streams, account, .. } = state;
    let Some(stream) = streams.get_mut(&id).filter(|stream| stream.ended.is_none()) else {
        return;
    };
    let mut written = 0;
    let mut failed = None;
    for pieces in pieces.chunks(SLICES) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(&plain[piece.start..piece.end]);
        }
        match stream.deliver(&slices[..pieces.len()], account) {
            Ok(some) => written += some,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if written > 0 {
        state.h2.consumed(id, written, stream.backlog.is_empty());
    }
    if let Some(error) = failed {
        state.fail(id, error);
    }
}

fn handle(state: &mut State, event: Event<'_>) -> Result<(), Broken> {
    match event {
        Event::Request { id, request } => {
            if state.unanswered >= state.max_unanswered {
                // Streams that are reset at once do not count against HTTP/2's own limit, yet each
                // costs us a look at the policies and perhaps a connection to the application.
                state.h2.go_away(Code::ENHANCE_YOUR_CALM);
                return Err(Broken::TooFast);
            }
            state.unanswered += 1;
            state.insert(id, Stream { peer_ended: request.end, ..Stream::default() });
            state.incoming.push_back((id, request));
        }
        Event::Response { id, status, headers, end } => {
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.peer_ended = end;
                stream.answer = Some(Box::new((status, headers)));
                if status.is_success() {
                    stream.establish();
                    stream.wake();
                    state.queue(id);
                } else {
                    // Whatever else the peer says is for no application.
                    state.h2.reset(id, Code::CANCEL);
                    state.end(id, Ended::Reset(Code::CANCEL));
                }
            }
        }
        Event::End { id } => {
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.peer_ended = true;
                // Its last bytes may be on their way to the application.
                state.queue(id);
            }
        }
        Event::Reset { id, code } => reset(state, id, code),
        Event::Writable { id } => state.feed(id),
        Event::GoAway { last, code } => {
            tracing::debug!(%last, %code, "the tunnel's peer goes away");
            state.retire();
        }
        Event::Settings => state.settle(),
        Event::Pong { .. } | Event::Data { .. } => {}
    }
    Ok(())
}

fn reset(state: &mut State, id: StreamId, code: Code) {
    let Some(stream) = state.streams.get_mut(&id) else { return };
    // Peers end a stream in order by these two also.
    if stream.established && matches!(code, Code::NO_ERROR | Code::CANCEL) {
        stream.peer_ended = true;
        stream.app_ended = true;
        state.queue(id);
    } else {
        stream.end(Ended::Reset(code));
    }
}
