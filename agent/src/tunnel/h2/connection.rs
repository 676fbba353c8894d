//! One HTTP/2 connection, either end.

mod control;
mod data;
mod frozen;
mod headers;
mod read;
mod send;

use std::collections::VecDeque;

use self::headers::Block;
use self::read::Reader;
use self::send::Leaving;
use super::budget::Budgets;
use super::code::{Code, Violation};
use super::config::Config;
use super::event::Event;
use super::frame::{self, DEFAULT_WINDOW, MAX_31, MIN_MAX_FRAME, PREFACE, setting};
use super::hpack::{self, Decoder, Encoder};
use super::streams::{self, ById, Forgotten, Stream};

pub use frozen::Unsound;
pub use send::{OpenError, SendError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// What the peer's SETTINGS say (RFC 9113 section 6.5.2).
#[derive(Debug)]
struct Peer {
    initial_window: u32,
    max_frame: u32,
    max_streams: u32,
    max_header_list: u32,
    connect_protocol: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            initial_window: DEFAULT_WINDOW,
            max_frame: MIN_MAX_FRAME,
            // Unlimited by the letter; this is the least that section 6.5.2 recommends to allow.
            max_streams: 100,
            max_header_list: u32::MAX,
            connect_protocol: false,
        }
    }
}

/// The state of a connection: bytes in, events and bytes out.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    peer: Peer,
    reader: Reader,
    failed: Option<Violation>,
    /// Events found while another was told; as many as one frame can cause.
    pending: VecDeque<Event<'static>>,
    out: Vec<u8>,
    /// Bytes of `out` that the peer caused.
    owed: usize,
    streams: ById<Stream>,
    forgotten: Forgotten,
    decoder: Decoder,
    encoder: Encoder,
    /// A header block that goes on.
    block: Option<Block>,
    /// What we may send on all streams.
    send_window: u32,
    /// What the peer may send on all streams.
    recv_window: u32,
    /// Received, and not yet given back.
    credit: u32,
    /// Bytes told and not taken, of all streams.
    untaken: u64,
    /// No more bytes are wanted than are taken.
    tight: bool,
    /// Bytes by which streams' windows exceed the initial one.
    grown: u64,
    /// Server: the highest stream the peer opened.
    last_peer: u32,
    /// Client: the next stream to open.
    next: u32,
    /// The peer's SETTINGS came.
    introduced: bool,
    /// Our SETTINGS were acknowledged.
    acknowledged: bool,
    /// The least last stream of the peer's GOAWAYs.
    peer_last: Option<u32>,
    leaving: Leaving,
    budgets: Budgets,
}

impl Connection {
    /// A client; preface and SETTINGS are in its output.
    pub fn client(config: Config) -> Self {
        let mut this = Self::new(Role::Client, config);
        this.out.extend_from_slice(PREFACE);
        this.introduce(&[(setting::ENABLE_PUSH, 0)]);
        this
    }

    /// A server, which expects a client's preface; SETTINGS are in its output.
    pub fn server(config: Config) -> Self {
        let mut this = Self::new(Role::Server, config);
        this.introduce(&[(setting::MAX_CONCURRENT_STREAMS, this.config.max_streams)]);
        this
    }

    fn new(role: Role, config: Config) -> Self {
        Self {
            role,
            config: config.clamped(),
            peer: Peer::default(),
            reader: Reader::new(role == Role::Server),
            failed: None,
            pending: VecDeque::new(),
            out: Vec::new(),
            owed: 0,
            streams: ById::default(),
            forgotten: Forgotten::default(),
            decoder: Decoder::new(hpack::TABLE_SIZE),
            encoder: Encoder::new(),
            block: None,
            send_window: DEFAULT_WINDOW,
            recv_window: DEFAULT_WINDOW,
            credit: 0,
            untaken: 0,
            tight: false,
            grown: 0,
            last_peer: 0,
            next: 1,
            introduced: false,
            acknowledged: false,
            peer_last: None,
            leaving: Leaving::No,
            budgets: Budgets::new(),
        }
    }

    fn introduce(&mut self, own: &[(u16, u32)]) {
        let common = [
            (setting::INITIAL_WINDOW_SIZE, self.config.initial_window),
            (setting::MAX_FRAME_SIZE, self.config.max_frame),
            (setting::MAX_HEADER_LIST_SIZE, self.config.max_header_list),
        ];
        frame::put_settings(&mut self.out, &[own, &common].concat());
        let window = self.config.connection_window;
        if window > self.recv_window {
            frame::put_window_update(&mut self.out, 0, window - self.recv_window);
            self.recv_window = window;
        }
    }

    /// Takes bytes, in whatever pieces they come. Returns how many were taken and at most one
    /// event; to be called again with the rest until it took all and told nothing.
    ///
    /// # Errors
    /// The peer broke the protocol. GOAWAY is in the output; every further call returns the same.
    pub fn receive<'a>(
        &mut self,
        input: &'a [u8],
    ) -> Result<(usize, Option<Event<'a>>), Violation> {
        if let Some(violation) = self.failed {
            return Err(violation);
        }
        let read = self.read(input);
        if let Err(violation) = read {
            self.fail(violation);
        }
        read
    }

    /// The peer closed the transport.
    ///
    /// # Errors
    /// In the middle of a frame, or with streams open.
    pub fn closed(&self) -> Result<(), Violation> {
        match self.failed {
            Some(violation) => Err(violation),
            None if self.reader.is_within_frame() || self.block.is_some() => {
                Err(Violation::protocol("transport ends within a frame"))
            }
            None if !self.streams.is_empty() => {
                Err(Violation::protocol("transport ends with streams open"))
            }
            None => Ok(()),
        }
    }

    /// Whether frames wait to be sent.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Appends the frames that wait. They must go out before DATA whose head is made later. What
    /// the peer causes is bounded as long as it stays here: take no more than can be written.
    pub fn take_output(&mut self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.out);
        // A burst must not cost memory for the rest of the connection's life.
        if self.out.capacity() > 4096 {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        self.owed = 0;
    }

    /// Bytes that the connection holds for what was sent and received in part, all streams together.
    pub fn buffered(&self) -> usize {
        self.out.capacity() + self.reader.held() + self.block.as_ref().map_or(0, Block::held)
    }

    /// Streams that are open or half-closed, or whose bytes were not all taken.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether either end takes no new streams.
    pub fn is_going_away(&self) -> bool {
        self.failed.is_some() || self.peer_last.is_some() || self.leaving != Leaving::No
    }

    /// To be called once a second: what a peer may do without use comes back.
    pub fn refill(&mut self) {
        self.budgets.refill();
    }

    fn fail(&mut self, violation: Violation) {
        self.failed = Some(violation);
        self.pending.clear();
        self.streams.clear();
        self.untaken = 0;
        self.block = None;
        let last = self.leaving.last().unwrap_or(self.last_peer);
        frame::put_go_away(&mut self.out, last, violation.code);
    }

    /// What we may owe a peer that does not read: enough for an answer to each stream at once.
    fn most_owed(&self) -> usize {
        (64 << 10) + self.config.max_streams as usize * 1024
    }

    /// Runs `put` on the output and counts what it adds as caused by the peer.
    fn owe(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let before = self.out.len();
        put(&mut self.out);
        self.owed += self.out.len() - before;
    }

    /// Whether a stream was never used (RFC 9113 section 5.1.1). Even ones never are: servers do not
    /// push here.
    fn is_idle(&self, id: u32) -> bool {
        let used = match self.role {
            Role::Client => id < self.next,
            Role::Server => id <= self.last_peer,
        };
        id.is_multiple_of(2) || !used
    }

    /// Ends a stream by an error of the peer's (section 5.4.2).
    fn stream_error(&mut self, id: u32, code: Code) -> Result<(), Violation> {
        self.budgets.errors.spend(1)?;
        self.forget(id);
        self.owe(|out| frame::put_reset(out, id, code));
        self.pending.push_back(Event::Reset { id: super::StreamId(id), code });
        Ok(())
    }

    /// The stream is gone before the peer may know.
    fn forget(&mut self, id: u32) {
        if let Some(stream) = self.remove(id)
            && stream.receiving != streams::Receiving::Ended
        {
            self.forgotten.insert(id, stream.recv_window);
        }
    }

    fn remove(&mut self, id: u32) -> Option<Stream> {
        let stream = streams::remove(&mut self.streams, id)?;
        self.grown -= u64::from(stream.target - self.config.initial_window);
        self.untaken -= u64::from(stream.untaken);
        Some(stream)
    }

    /// A stream that ended both ways, and whose bytes were taken, is no more.
    fn settle(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(Stream::is_done) {
            self.remove(id);
        }
    }

    /// What a peer may send on a new stream. Until it acknowledged our SETTINGS it may go by the
    /// default (section 6.9.3).
    fn first_window(&self) -> i32 {
        let window = if self.acknowledged {
            self.config.initial_window
        } else {
            self.config.initial_window.max(DEFAULT_WINDOW)
        };
        window.min(MAX_31).cast_signed()
    }
}
