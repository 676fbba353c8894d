//! What we advertise, and what a peer may cost us.

use super::frame::{DEFAULT_WINDOW, MAX_31, MAX_MAX_FRAME, MIN_MAX_FRAME};

/// Limits of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes a peer may send on a stream ahead of the application, at first (1 to 2^31-1).
    pub initial_window: u32,
    /// What that grows to where the application keeps up.
    pub max_window: u32,
    /// Bytes by which the windows of all streams together may exceed `initial_window`.
    pub window_budget: u64,
    /// Bytes a peer may send on all streams ahead of us (2^16-1 to 2^31-1); see
    /// [`Connection::tighten`](super::Connection::tighten).
    pub connection_window: u32,
    /// Largest frame we take, in bytes (2^14 to 2^24-1); DATA is passed on in pieces, so a large
    /// frame costs no memory.
    pub max_frame: u32,
    /// Streams the peer may have open at once. One counts until it has ended both ways and all its
    /// bytes were taken.
    pub max_streams: u32,
    /// Largest header list in bytes, as RFC 9113 section 6.5.2 counts them.
    pub max_header_list: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_window: 256 << 10,
            max_window: 1 << 20,
            window_budget: 16 << 20,
            connection_window: 4 << 20,
            max_frame: MAX_MAX_FRAME,
            max_streams: 200,
            max_header_list: 64 << 10,
        }
    }
}

impl Config {
    /// The same with every value within what the protocol allows.
    pub(super) fn clamped(self) -> Self {
        let initial_window = self.initial_window.clamp(1, MAX_31);
        Self {
            initial_window,
            max_window: self.max_window.clamp(initial_window, MAX_31),
            connection_window: self.connection_window.clamp(DEFAULT_WINDOW, MAX_31),
            max_frame: self.max_frame.clamp(MIN_MAX_FRAME, MAX_MAX_FRAME),
            ..self
        }
    }
}
