//! From the applications to the wire.
//!
//! Each stream that is ready gets a turn: its backlog is written, and its application read straight
//! behind the header of the frame it becomes. Frames of all streams and those of HTTP/2 itself share
//! records and one send.

use std::io;
use std::task::Poll;

use super::super::h2::{Connection, StreamId};
use super::Driver;
use super::state::State;
use super::stream::{App, Early, Ended, Stream};

/// Bytes read from applications in one pass.
const PASS: usize = 512 << 10;
/// What a stream may send in one turn at least, in bytes, however many wait.
const MIN_TURN: usize = 16 << 10;
/// A frame's header (RFC 9113 4.1), in bytes.
const HEADER: usize = 9;

/// How far a stream's turn brought it.
enum Turn {
    /// It waits for the application.
    Idle,
    /// It waits for the peer's window.
    Starved,
    /// It has had its share, and has more.
    More,
    /// The wire is full.
    Blocked,
    /// The application's end is told.
    Ended,
}

impl Driver {
    /// Gives each stream that has something to do a turn. Without a wire, only what the peer has sent
    /// moves.
    pub(super) fn serve(&mut self, state: &mut State, plain: &mut Vec<u8>, room: usize) {
        let waiting = state.run.len();
        let turn = (PASS / waiting.max(1)).max(MIN_TURN);
        let room = room.min(PASS);
        for _ in 0..waiting {
            let Some(id) = state.run.pop_front() else { break };
            match take_turn(state, id, plain, room, turn) {
                Ok(Turn::Idle | Turn::Ended) => {}
                Ok(Turn::Starved) => state.starve(id),
                Ok(Turn::More) => self.again.push(id),
                Ok(Turn::Blocked) => state.queue(id),
                Err(error) => state.fail(id, error),
            }
        }
        // Those that had a turn come after those that had none.
        for id in self.again.drain(..) {
            state.queue(id);
        }
    }
}

fn take_turn(
    state: &mut State,
    id: StreamId,
    plain: &mut Vec<u8>,
    room: usize,
    turn: usize,
) -> io::Result<Turn> {
    let Some(stream) = state.streams.get_mut(&id) else { return Ok(Turn::Idle) };
    stream.queued = false;
    if stream.ended.is_some() {
        return Ok(Turn::Idle);
    }
    if !stream.backlog.is_empty() {
        let drained = stream.drain()?;
        if drained > 0 {
            state.h2.consumed(id, drained, stream.backlog.is_empty());
        }
    }
    if stream.settle()? {
        stream.end(Ended::Complete);
        return Ok(Turn::Idle);
    }
    let turn = upload(stream, &mut state.h2, id, plain, (room, turn))?;
    if matches!(turn, Turn::Ended) && stream.settle()? {
        stream.end(Ended::Complete);
    }
    Ok(turn)
}

/// Reads the application until it has no more, or the stream's turn is over.
fn upload(
    stream: &mut Stream,
    h2: &mut Connection,
    id: StreamId,
    plain: &mut Vec<u8>,
    (room, mut left): (usize, usize),
) -> io::Result<Turn> {
    loop {
        let allowed = stream.allowance();
        let Stream { app: Some(app), app_ended: false, early, established, .. } = stream else {
            return Ok(Turn::Idle);
        };
        if allowed == 0 && again(early) == 0 {
            return Ok(Turn::Idle);
        }
        if plain.len() >= room {
            return Ok(Turn::Blocked);
        }
        if left == 0 {
            return Ok(Turn::More);
        }
        let capacity = h2.capacity(id).min(h2.max_send_frame());
        if capacity == 0 {
            return Ok(Turn::Starved);
        }
        if h2.has_output() {
            // A window or a header must not be overtaken by what depends on it.
            h2.take_output(plain);
        }
        if let Some(sent) = early.as_deref_mut().filter(|early| early.again > 0) {
            left -= send_again(sent, h2, id, plain, capacity.min(left))?;
            if *established && sent.again == 0 {
                *early = None;
            }
            continue;
        }
        let asked = capacity.min(app.size.bytes()).min(left).min(allowed);
        let at = plain.len();
        let Some(read) = read_frame(app, h2, id, plain, asked)? else { return Ok(Turn::Idle) };
        if read == 0 {
            stream.app_ended = true;
            return Ok(Turn::Ended);
        }
        if !*established && let Some(early) = early {
            early.room -= read;
            early.sent.extend_from_slice(&plain[at + HEADER..]);
        }
        app.size.learn(asked, read);
        app.progress.add_sent(read);
        left -= read;
    }
}

/// How many bytes go again.
fn again(early: &Option<Box<Early>>) -> usize {
    early.as_ref().map_or(0, |early| early.again)
}

/// Reads up to `max` bytes behind the head of the frame they are; 0 is the end, and the last frame.
/// None while there is nothing to read.
fn read_frame(
    app: &mut App,
    h2: &mut Connection,
    id: StreamId,
    plain: &mut Vec<u8>,
    max: usize,
) -> io::Result<Option<usize>> {
    let at = plain.len();
    plain.extend_from_slice(&[0; HEADER]);
    let Poll::Ready(read) = app.poll_read(plain, max) else {
        plain.truncate(at);
        return Ok(None);
    };
    let framed = read.and_then(|read| {
        let header = h2.data(id, read, read == 0);
        header.map(|header| (read, header)).map_err(io::Error::other)
    });
    let (read, header) = framed.inspect_err(|_| plain.truncate(at))?;
    plain[at..at + HEADER].copy_from_slice(&header);
    Ok(Some(read))
}

/// Sends up to `max` bytes that another tunnel was given in vain; tells how many.
fn send_again(
    early: &mut Early,
    h2: &mut Connection,
    id: StreamId,
    plain: &mut Vec<u8>,
    max: usize,
) -> io::Result<usize> {
    let length = early.again.min(max);
    let start = early.sent.len() - early.again;
    let header = h2.data(id, length, false).map_err(io::Error::other)?;
    plain.extend_from_slice(&header);
    plain.extend_from_slice(&early.sent[start..start + length]);
    early.again -= length;
    Ok(length)
}
