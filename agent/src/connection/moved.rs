//! Open connections on their way from one agent of a node to the next: taken where nothing of them is half done, and gone
//! on with by the other as if it had opened them.
//!
//! | leaves | with it |
//! |---|---|
//! | a tunnel, either side | its TLS session, its HTTP/2, all its streams and their applications |
//! | a connection without one | both ends, and what was read and not written |
//!
//! A tunnel whose streams are not all answered is left later; one with a tunnel of another network in it, never.

mod leave;
mod resume;
mod told;

use std::net::TcpStream;

use sotto_proto::handover as proto;

use crate::capture::Role;
use crate::mesh::PodUid;
use crate::tunnel::tls::Frozen;

pub use leave::{Departure, departures};
pub use resume::{Host, ResumeError, resume};

/// Connections that nobody serves. Whoever drops the last copy of their sockets resets them.
#[derive(Debug)]
pub struct Parcel {
    /// All but what follows.
    pub message: proto::Parcel,
    /// The keys of a tunnel's TLS session.
    pub session: Option<Frozen>,
    /// As the message says.
    pub sockets: Vec<TcpStream>,
}

impl Parcel {
    /// Of this node.
    pub fn pod(&self) -> PodUid {
        PodUid(self.message.pod_uid.as_str().into())
    }

    /// Which way they go.
    pub fn role(&self) -> Role {
        use proto::parcel::What;
        match &self.message.what {
            Some(What::Accepted(_)) => Role::Hbone,
            Some(What::Plain(plain)) if !plain.connection.as_ref().is_some_and(|c| c.is_client) => {
                Role::Plaintext
            }
            Some(What::Plain(_) | What::Dialled(_)) | None => Role::Outbound,
        }
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        use proto::parcel::What;
        match &self.message.what {
            Some(What::Accepted(tunnel)) => tunnel.connections.len(),
            Some(What::Dialled(tunnel)) => tunnel.connections.len(),
            Some(What::Plain(_)) => 1,
            None => 0,
        }
    }
}
