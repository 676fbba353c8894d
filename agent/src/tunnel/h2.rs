//! HTTP/2 for CONNECT (RFC 9113), as a pure state machine: bytes in, events and bytes out.
//!
//! It does no IO, knows no clock and never waits. Both ends, and no more than tunnels need: streams
//! opened by clients, flow control both ways, no push, no priorities.
//!
//! What a peer can send is held to the letter, and is bounded in memory and in work: an error of a
//! stream resets it, any other ends the connection with the code that RFC 9113 demands. Stricter than
//! the RFC, on purpose: a CONNECT with `content-length`, a `host` that differs from `:authority`, a
//! PUSH_PROMISE even before our SETTINGS were acknowledged, frames on a stream that the peer itself
//! ended (all STREAM_CLOSED for the connection, once the stream is gone), header blocks of more than 32
//! CONTINUATION frames, SETTINGS of more than 100 entries.

mod budget;
mod code;
mod config;
mod connection;
mod event;
mod fields;
mod frame;
mod hpack;
mod streams;

#[cfg(test)]
mod tests;

pub use code::{Code, Violation};
pub use config::Config;
pub use connection::{Connection, OpenError, SendError, Unsound};
pub use event::{Event, Request, StreamId};
pub(super) use streams::FEW;
