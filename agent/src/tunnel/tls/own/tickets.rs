//! The tickets that a server sends, with which a later handshake may be shorter.

use rustls::Error;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;

use super::fault::Fault;

/// Who takes them.
pub(super) enum Tickets {
    /// rustls, which keeps them or not.
    Kept(Box<KernelConnection<ClientConnectionData>>),
    /// Nobody, though the peer may send them: rustls' part of the session is not in this process.
    Dropped,
    /// It is the peer that is the client: it may send none.
    Refused,
}

impl Tickets {
    /// Whether the peer may send any.
    pub(super) fn are_taken(&self) -> bool {
        !matches!(self, Self::Refused)
    }

    /// One came, which is the payload of a `NewSessionTicket`.
    pub(super) fn keep(&mut self, ticket: &[u8]) -> Result<(), Fault> {
        let kept = match self {
            Self::Kept(kernel) => kernel.handle_new_session_ticket(ticket),
            Self::Dropped | Self::Refused => Ok(()),
        };
        kept.map_err(|error| match error {
            Error::InvalidMessage(invalid) => Fault::malformed(invalid),
            other => Fault::ours(other),
        })
    }
}
