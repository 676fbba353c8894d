//! What a connection tells its owner.

use std::fmt;

use http::{HeaderMap, Method, StatusCode};

use super::code::Code;

/// A stream of a connection; odd, as only clients open streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(super) u32);

impl StreamId {
    /// The number on the wire.
    pub fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A valid request; whether it is a CONNECT is for the owner to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// CONNECT, or what the owner refuses.
    pub method: Method,
    /// `:authority`; empty if a request that is no CONNECT has none.
    pub authority: String,
    /// All other fields.
    pub headers: HeaderMap,
    /// The client sends nothing after it; no [`Event::End`] follows.
    pub end: bool,
}

/// What happened. DATA borrows from the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Server: a stream was opened.
    Request {
        /// The stream.
        id: StreamId,
        /// What it asks for.
        request: Request,
    },
    /// Client: the final response; informational ones are not told.
    Response {
        /// The stream.
        id: StreamId,
        /// `:status`.
        status: StatusCode,
        /// All other fields.
        headers: HeaderMap,
        /// The server sends nothing after it; no [`Event::End`] follows.
        end: bool,
    },
    /// Bytes of a stream: never padding, never empty.
    Data {
        /// The stream.
        id: StreamId,
        /// A part of the input.
        bytes: &'a [u8],
    },
    /// The peer sends no more on this stream.
    End {
        /// The stream.
        id: StreamId,
    },
    /// The stream is gone, by the peer or by an error of its (RST_STREAM is in the output then).
    Reset {
        /// The stream.
        id: StreamId,
        /// The reason.
        code: Code,
    },
    /// A window that was shut is open: of one stream, or of the connection, or of all streams by
    /// SETTINGS.
    Writable {
        /// The one stream.
        id: Option<StreamId>,
    },
    /// The peer takes no new streams; those above `last` are told by [`Event::Reset`] next.
    GoAway {
        /// The last stream the peer acts on.
        last: StreamId,
        /// Why.
        code: Code,
    },
    /// A PING of ours was answered.
    Pong {
        /// What it carried.
        opaque: [u8; 8],
    },
    /// The peer's settings changed, and with them perhaps how many streams may be opened.
    Settings,
}
