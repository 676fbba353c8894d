//! What a tunnel may take: windows, frames, streams, headers and time.

use std::time::Duration;

/// Limits of one tunnel and of the pool that dials them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a peer may send on one stream ahead of the application that reads them.
    pub stream_window: u32,
    /// The same over all streams of a tunnel. Several times `stream_window`, so that a few slow
    /// applications cannot stop the others.
    pub connection_window: u32,
    /// Largest frame we take, in bytes; it is collected whole before it is passed on.
    pub max_frame: u32,
    /// Streams a peer may have open in one tunnel.
    pub max_accepted_streams: u32,
    /// Streams we open in one tunnel, if the peer allows as many.
    pub max_opened_streams: usize,
    /// Size of a request's headers, in bytes as RFC 9113 6.5.2 counts them.
    pub max_request_headers: u32,
    /// Size of a response's headers.
    pub max_response_headers: u32,
    /// Bytes of one stream that wait for the tunnel.
    pub send_buffer: usize,
    /// TCP connect of a tunnel.
    pub dial_timeout: Duration,
    /// TLS and the HTTP/2 preface, on either side.
    pub handshake_timeout: Duration,
    /// From CONNECT to its answer: the peer may wait for its control plane (5 s) and then for the
    /// application (10 s).
    pub response_timeout: Duration,
    /// A PING goes out this often...
    pub ping_interval: Duration,
    /// ...and must be answered within this, else the tunnel is dead.
    pub ping_timeout: Duration,
    /// A tunnel without streams is closed after this.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            max_frame: 256 << 10,
            max_accepted_streams: 200,
            max_opened_streams: 100,
            max_request_headers: 64 << 10,
            max_response_headers: 16 << 10,
            send_buffer: 1 << 20,
            dial_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(20),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
        }
    }
}
