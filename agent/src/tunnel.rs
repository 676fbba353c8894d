//! How the bytes go: HBONE, that is HTTP/2 CONNECT over mutual TLS, and the relay of plain bytes.
//!
//! [`pool`] dials tunnels and opens streams in them, [`accept`] takes tunnels and the streams in
//! them, [`relay()`] moves bytes between an application and a stream (or a plain connection). This
//! module knows addresses, TLS configurations and bytes, but neither policy nor Kubernetes; the one
//! thing it demands is a `Permit` for each stream or plain connection it takes.
//!
//! Everything runs on the thread that took the connection: futures need not be `Send`.

pub mod accept;
pub mod account;
pub mod chain;
pub mod connect;
mod driver;
mod exit;
pub mod h2;
pub mod hbone;
pub mod limits;
pub mod pool;
mod proxy_header;
pub mod relay;
pub mod stream;
pub mod tls;

#[cfg(test)]
mod testing;

pub use accept::{AcceptError, Incoming, Server};
pub use account::{Account, Budget, Share};
pub use chain::{Chain, Lapse, Trust};
pub use connect::{Asked, ConnectError, ConnectRequest};
pub use driver::{Broken, MoveError, Moving, Terms, Unanswered};
pub use exit::Exit;
pub use limits::Limits;
pub use pool::{Caller, Departing, Pool, PoolKey, Verdict};
pub use proxy_header::ProxyHeader;
pub use relay::{Brake, Passage, Progress, RelayError, Way, relay, relay_aboard, relay_tcp};
pub use stream::TunnelStream;

/// Lets go of the thread's buffers, if none was used since the last call. Not in the middle of a pass.
pub fn free_buffers() {
    driver::free_buffers();
    relay::free();
}
