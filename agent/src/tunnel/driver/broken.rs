//! Why a tunnel ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::super::h2::Violation;

/// Why a tunnel ended. Cheap to clone: all its streams get it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Broken {
    /// Its TCP connection broke.
    #[error("its connection broke")]
    Io(#[source] Arc<io::Error>),
    /// What the peer sent is no TLS, or an alert.
    #[error("TLS failed")]
    Tls(#[source] Arc<rustls::Error>),
    /// What the peer sent is no HTTP/2, or breaks its rules.
    #[error("the peer broke the rules of HTTP/2")]
    Protocol(#[source] Arc<Violation>),
    /// The peer opens streams, and resets them before they are answered.
    #[error("the peer opens and resets streams too fast")]
    TooFast,
    /// A PING was not answered.
    #[error("the peer did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// Nobody reads what it carries, and its pod holds all it may.
    #[error("the pod's share of the agent's memory is used up")]
    Spent,
    /// The peer closed it.
    #[error("the peer closed it")]
    Closed,
    /// Another process goes on with it.
    #[error("another process goes on with it")]
    Moved,
    /// We closed it.
    #[error("it was closed")]
    Ended,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<rustls::Error> for Broken {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(Arc::new(error))
    }
}

impl From<Violation> for Broken {
    fn from(violation: Violation) -> Self {
        Self::Protocol(Arc::new(violation))
    }
}
