//! A connection as a plain value, for the process that goes on with it.
//!
//! It is taken between the bytes of DATA or of frames' heads, where nothing is half known; what a peer may do without use
//! is counted anew.

use sotto_proto::handover::{Advertised, Compression, Http2, Http2Stream, WithinData, http2};

use super::read::{At, Reader};
use super::send::Leaving;
use super::{Connection, Peer, Role};
use crate::tunnel::h2::StreamId;
use crate::tunnel::h2::config::Config;
use crate::tunnel::h2::frame::{HEAD, MAX_31, MAX_MAX_FRAME, MIN_MAX_FRAME};
use crate::tunnel::h2::hpack::{Decoder, Encoder};
use crate::tunnel::h2::streams::{Forgotten, Receiving, Sending, Stream};

/// What no connection comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an HTTP/2 connection's state has {0} that cannot be")]
pub struct Unsound(pub(super) &'static str);

impl Connection {
    /// The connection, if it can be taken now: all its streams are answered CONNECTs, and nothing but DATA is half read.
    pub fn freeze(&self) -> Option<Http2> {
        if self.failed.is_some() || self.block.is_some() || !self.pending.is_empty() {
            return None;
        }
        let streams = self.streams.iter().map(|(id, stream)| freeze_stream(*id, stream));
        Some(Http2 {
            is_server: self.role == Role::Server,
            advertised: Some(advertised(&self.config)),
            peer_initial_window: self.peer.initial_window,
            peer_max_frame: self.peer.max_frame,
            peer_max_streams: self.peer.max_streams,
            peer_max_header_list: self.peer.max_header_list,
            peer_connect_protocol: self.peer.connect_protocol,
            at: Some(self.reader.freeze()?),
            out: self.out.clone(),
            owed: self.owed as u64,
            streams: streams.collect::<Option<_>>()?,
            forgotten: self.forgotten.freeze(),
            horizon: self.forgotten.horizon(),
            decoder: Some(self.decoder.freeze()),
            encoder: Some(self.encoder.freeze()),
            send_window: self.send_window,
            recv_window: self.recv_window,
            credit: self.credit,
            last_peer: self.last_peer,
            next: self.next,
            introduced: self.introduced,
            acknowledged: self.acknowledged,
            peer_last: self.peer_last,
            announced: self.leaving != Leaving::No,
            last: self.leaving.last(),
        })
    }

    /// The connection that another process froze.
    ///
    /// # Errors
    /// It is none.
    pub fn thaw(frozen: Http2) -> Result<Self, Unsound> {
        let role = if frozen.is_server { Role::Server } else { Role::Client };
        let config = config(frozen.advertised.ok_or(Unsound("no settings"))?)?;
        let mut this = Self::new(role, config);
        this.peer = Peer {
            initial_window: within(frozen.peer_initial_window, 0, MAX_31, "a first window")?,
            max_frame: within(frozen.peer_max_frame, MIN_MAX_FRAME, MAX_MAX_FRAME, "a frame size")?,
            max_streams: frozen.peer_max_streams,
            max_header_list: frozen.peer_max_header_list,
            connect_protocol: frozen.peer_connect_protocol,
        };
        this.last_peer = within(frozen.last_peer, 0, MAX_31, "a last stream")?;
        this.next = within(frozen.next, 1, MAX_31 + 2, "a next stream")?;
        if this.next.is_multiple_of(2) {
            return Err(Unsound("a next stream"));
        }
        for stream in frozen.streams {
            this.thaw_stream(stream)?;
        }
        this.reader = Reader::thaw(frozen.at.ok_or(Unsound("no place"))?)?;
        this.owed = usize::try_from(frozen.owed).unwrap_or(usize::MAX);
        if this.owed > frozen.out.len() {
            return Err(Unsound("more frames"));
        }
        this.out = frozen.out;
        let gone = frozen.forgotten.into_iter().map(|gone| (gone.id, gone.window));
        this.forgotten = Forgotten::thaw(gone.collect(), frozen.horizon)
            .ok_or(Unsound("more streams that were reset"))?;
        let table = |table: Option<Compression>| table.ok_or(Unsound("no table"));
        this.decoder = Decoder::thaw(&table(frozen.decoder)?).ok_or(Unsound("a table"))?;
        this.encoder = Encoder::thaw(&table(frozen.encoder)?).ok_or(Unsound("a table"))?;
        this.send_window = within(frozen.send_window, 0, MAX_31, "a window")?;
        this.recv_window = within(frozen.recv_window, 0, MAX_31, "a window")?;
        this.credit = within(frozen.credit, 0, MAX_31 - this.recv_window, "credit")?;
        this.introduced = frozen.introduced;
        this.acknowledged = frozen.acknowledged;
        this.peer_last = frozen.peer_last;
        this.leaving = match (frozen.announced, frozen.last) {
            (false, None) => Leaving::No,
            (true, None) => Leaving::Announced,
            (true, Some(last)) => Leaving::Gone { last },
            (false, Some(_)) => return Err(Unsound("a last stream")),
        };
        Ok(this)
    }

    fn thaw_stream(&mut self, frozen: Http2Stream) -> Result<(), Unsound> {
        let Http2Stream { id, target, credit, untaken, .. } = frozen;
        if self.is_idle(id) || self.streams.contains_key(&id) {
            return Err(Unsound("a stream"));
        }
        let (least, most) = (self.config.initial_window, self.config.max_window);
        // What the peer may send, and what of it was not given back, is no more than what it ever could.
        let ahead = u64::try_from(frozen.recv_window).unwrap_or(0);
        let held = ahead + u64::from(credit) + u64::from(untaken);
        let most_held = u64::from(target.max(self.first_window().unsigned_abs()));
        let far_below = |window: i32| window < -MAX_31.cast_signed();
        if !(least..=most).contains(&target)
            || held > most_held
            || far_below(frozen.recv_window)
            || far_below(frozen.send_window)
        {
            return Err(Unsound("a stream's window"));
        }
        let receiving = if frozen.received { Receiving::Ended } else { Receiving::Body };
        let sending = if frozen.sent { Sending::Ended } else { Sending::Body };
        let stream = Stream {
            send_window: frozen.send_window,
            recv_window: frozen.recv_window,
            target,
            credit,
            untaken,
            expected: None,
            receiving,
            sending,
            tunnel: true,
        };
        self.grown += u64::from(target - least);
        self.untaken += u64::from(untaken);
        self.streams.insert(id, stream);
        Ok(())
    }

    /// Bytes of a stream told and not taken.
    pub fn untaken(&self, id: u32) -> u32 {
        self.streams.get(&id).map_or(0, |stream| stream.untaken)
    }

    /// The streams that are not over.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.streams.keys().map(|id| StreamId(*id))
    }
}

fn freeze_stream(id: u32, stream: &Stream) -> Option<Http2Stream> {
    let is_answered =
        stream.receiving != Receiving::Response && stream.sending != Sending::Response;
    (stream.tunnel && is_answered).then(|| Http2Stream {
        id,
        send_window: stream.send_window,
        recv_window: stream.recv_window,
        target: stream.target,
        credit: stream.credit,
        untaken: stream.untaken,
        received: stream.receiving == Receiving::Ended,
        sent: stream.sending == Sending::Ended,
    })
}

fn advertised(config: &Config) -> Advertised {
    Advertised {
        initial_window: config.initial_window,
        max_window: config.max_window,
        window_budget: config.window_budget,
        connection_window: config.connection_window,
        max_frame: config.max_frame,
        max_streams: config.max_streams,
        max_header_list: config.max_header_list,
    }
}

/// What the peer was told holds, whatever this process would tell.
fn config(told: Advertised) -> Result<Config, Unsound> {
    let config = Config {
        initial_window: told.initial_window,
        max_window: told.max_window,
        window_budget: told.window_budget,
        connection_window: told.connection_window,
        max_frame: told.max_frame,
        max_streams: told.max_streams,
        max_header_list: told.max_header_list,
    };
    if config.clamped() == config { Ok(config) } else { Err(Unsound("settings")) }
}

fn within(value: u32, least: u32, most: u32, what: &'static str) -> Result<u32, Unsound> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(Unsound(what)) }
}

impl Reader {
    /// None within a frame that is handled whole.
    fn freeze(&self) -> Option<http2::At> {
        match self.at {
            At::Head => Some(http2::At::Head(self.begun().to_vec())),
            At::Data { id, left, padding, end } => {
                Some(http2::At::Data(WithinData { id, left, padding, end }))
            }
            At::Skip { left } => Some(http2::At::Skip(left)),
            At::Preface { .. } | At::Payload { .. } | At::PadLength { .. } => None,
        }
    }

    fn thaw(at: http2::At) -> Result<Self, Unsound> {
        let mut reader = Self::new(false);
        match at {
            http2::At::Head(begun) if begun.len() < HEAD => reader.begin_with(&begun),
            http2::At::Head(_) => return Err(Unsound("a frame's head")),
            http2::At::Skip(left) if left <= MAX_MAX_FRAME => reader.at = At::Skip { left },
            http2::At::Data(WithinData { id, left, padding, end })
                if left.saturating_add(padding) <= MAX_MAX_FRAME =>
            {
                reader.at = At::Data { id, left, padding, end };
            }
            http2::At::Skip(_) | http2::At::Data(_) => return Err(Unsound("a frame's length")),
        }
        Ok(reader)
    }
}
