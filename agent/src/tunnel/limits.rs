//! What a tunnel may take: windows, frames, streams, headers and time.

use std::time::Duration;

use super::h2::Config;
use super::tls::RecordLayer;
use crate::sys::socket;

/// Limits of one tunnel and of the pool that dials them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a peer may send on one stream ahead of the application that reads them, at most; it
    /// starts with less and grows while the application keeps up.
    pub stream_window: u32,
    /// Bytes by which the streams of a tunnel may together exceed what they start with.
    pub window_budget: u64,
    /// Bytes a peer may send on all streams of a tunnel beyond what we have read, and beyond what the applications
    /// have while their pod holds too much.
    pub connection_window: u32,
    /// Largest frame we take, in bytes; it is passed on piecemeal and costs no memory.
    pub max_frame: u32,
    /// Streams a peer may have open in one tunnel.
    pub max_accepted_streams: u32,
    /// Streams we open in one tunnel, if the peer allows as many.
    pub max_opened_streams: usize,
    /// Size of a request's headers, in bytes as RFC 9113 6.5.2 counts them.
    pub max_request_headers: u32,
    /// Size of a response's headers.
    pub max_response_headers: u32,
    /// Bytes of a tunnel that wait for the peer; with more, its applications are not read.
    pub send_buffer: usize,
    /// Who seals and opens the tunnel's TLS records.
    pub record_layer: RecordLayer,
    /// Bytes of an application that go behind its CONNECT before the peer has answered; 0 to wait.
    /// A peer that refuses the stream drops them.
    pub early_data: usize,
    /// TCP connect of a tunnel. The application waits for it, and gives up when it likes.
    pub dial_timeout: Duration,
    /// How much longer the dial goes on for an application that has ended its side: it may have closed, or wait for an
    /// answer.
    pub ended_patience: Duration,
    /// TLS and the HTTP/2 preface, on either side.
    pub handshake_timeout: Duration,
    /// From CONNECT to its answer: the peer may wait for its control plane and then for the application, as long as a
    /// kernel does.
    pub response_timeout: Duration,
    /// A PING goes out this often...
    pub ping_interval: Duration,
    /// ...and must be answered within this, else the tunnel is dead.
    pub ping_timeout: Duration,
    /// A tunnel that we dialled is closed after this without a stream.
    pub idle_timeout: Duration,
    /// The same of a tunnel that a peer dialled; longer, as it is the peer's to close.
    pub accepted_idle_timeout: Duration,
}

/// What a stream's window starts with, in bytes.
const INITIAL_WINDOW: u32 = 256 << 10;

impl Limits {
    /// The limits of a tunnel's HTTP/2.
    pub(super) fn h2(&self, max_header_list: u32) -> Config {
        Config {
            initial_window: self.stream_window.min(INITIAL_WINDOW),
            max_window: self.stream_window,
            window_budget: self.window_budget,
            connection_window: self.connection_window,
            max_frame: self.max_frame,
            max_streams: self.max_accepted_streams,
            max_header_list,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            window_budget: 16 << 20,
            connection_window: 4 << 20,
            max_frame: (1 << 24) - 1,
            max_accepted_streams: 200,
            max_opened_streams: 100,
            max_request_headers: 64 << 10,
            max_response_headers: 16 << 10,
            send_buffer: 512 << 10,
            record_layer: RecordLayer::default(),
            early_data: 16 << 10,
            dial_timeout: socket::DIAL,
            ended_patience: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            response_timeout: socket::DIAL + Duration::from_secs(15),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
            accepted_idle_timeout: Duration::from_secs(900),
        }
    }
}
