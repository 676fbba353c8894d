//! Why a session ends, and what the peer is told.

use rustls::{AlertDescription, Error, InvalidMessage};

/// Why a session ends, and what the peer is told.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) alert: Option<AlertDescription>,
}

impl Fault {
    pub(super) fn new(alert: AlertDescription, error: impl Into<Error>) -> Self {
        Self { error: error.into(), alert: Some(alert) }
    }

    /// The peer is told nothing: it knows.
    pub(super) fn silent(error: Error) -> Self {
        Self { error, alert: None }
    }

    /// What came has no place here.
    pub(super) fn unexpected(error: impl Into<Error>) -> Self {
        Self::new(AlertDescription::UnexpectedMessage, error)
    }

    /// What came cannot be read.
    pub(super) fn malformed(error: InvalidMessage) -> Self {
        Self::new(AlertDescription::DecodeError, error)
    }

    /// It is not the peer's.
    pub(super) fn ours(error: Error) -> Self {
        Self::new(AlertDescription::InternalError, error)
    }
}
