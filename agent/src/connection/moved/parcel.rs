//! What goes over together.

use std::net::TcpStream;

use sotto_proto::handover::{self as proto, parcel::What};

use crate::capture::Role;
use crate::mesh::PodUid;
use crate::tunnel::tls::Frozen;

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
        match &self.message.what {
            Some(What::Accepted(tunnel)) => tunnel.connections.len(),
            Some(What::Dialled(tunnel)) => tunnel.connections.len(),
            Some(What::Plain(_)) => 1,
            None => 0,
        }
    }
}
