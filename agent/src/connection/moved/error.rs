//! What can be wrong with connections of another agent.

use crate::identify::certs::CertificateError;
use crate::identify::peer::PeerError;
use crate::tunnel::MoveError;

/// Why connections are not gone on with here.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// What is told of them makes no sense.
    #[error("what is told of them has {0} that cannot be")]
    Unsound(&'static str),
    /// Their tunnel cannot be gone on with.
    #[error("their tunnel cannot be gone on with")]
    Tunnel(#[from] MoveError),
    /// The runtime does not take their sockets.
    #[error("their sockets cannot be watched")]
    Io(#[from] std::io::Error),
    /// The pod has too many already.
    #[error("no room for them: {0}")]
    Full(String),
    /// The pod has no certificate of its own.
    #[error("the pod is not identified")]
    Identity(#[source] CertificateError),
    /// The peer is not who it was.
    #[error("the peer's certificates name nobody")]
    Peer(#[source] PeerError),
    /// It is not known where this node is.
    #[error("the mesh is not known: {0}")]
    Mesh(String),
}
