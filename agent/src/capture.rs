//! How enrolled pods' connections come to us: from the kernel to [`Captured`].
//!
//! Input: a pod and its network namespace. Output: a stream for each connection, with its original destination.
//! Invariant: nothing of a pod is redirected before someone listens, and nothing is left behind after its release.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::mesh::LocalPod;
use crate::sys::Netns;

pub mod bpf;
pub mod check;
pub mod kubelet;
mod legacy;
pub mod listeners;
mod places;
mod prefixes;
pub mod questions;
mod routing;

pub use bpf::StandIns;
pub use listeners::PodListeners;
pub use places::ListenError;
pub use prefixes::{RangeError, StandInRanges};
pub use questions::{Question, QuestionSocket, Questions};
pub use routing::confine;

/// Which way a captured connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The pod opened it.
    Outbound,
    /// It came to the pod as it is.
    Plaintext,
    /// It came to the pod's HBONE port.
    Hbone,
}

/// A pod and its network namespace: what a data thread knows of a pod.
#[derive(Debug)]
pub struct PodCapture {
    /// The pod.
    pub pod: Arc<LocalPod>,
    /// Its network namespace.
    pub netns: Netns,
    /// What addresses inside it really are.
    pub stand_ins: StandIns,
}

/// A connection that the kernel handed to us.
#[derive(Debug)]
pub struct Captured<S = TcpStream> {
    /// Our end of it. Closing it resets, if the other end is an application.
    pub stream: S,
    /// Which way it goes.
    pub role: Role,
    /// Whether it was redirected for what it may ask of a resolver, wherever that is.
    pub asks: bool,
    /// Whose it is.
    pub pod: Arc<PodCapture>,
    /// Who opened it, canonical.
    pub client: SocketAddr,
    /// Where the client wanted to go, canonical.
    pub original_destination: SocketAddr,
}

/// A captured connection between two threads: no runtime watches it.
pub type Detached = Captured<std::net::TcpStream>;

impl Captured {
    /// Takes it from the calling thread's runtime.
    ///
    /// # Errors
    /// The runtime does not let go of it.
    pub fn detach(self) -> io::Result<Detached> {
        self.with(TcpStream::into_std)
    }
}

impl Detached {
    /// Gives it to the calling thread's runtime.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn attach(self) -> io::Result<Captured> {
        self.with(TcpStream::from_std)
    }
}

impl<S> Captured<S> {
    fn with<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Captured<T>> {
        let Self { stream, role, asks, pod, client, original_destination } = self;
        Ok(Captured { stream: change(stream)?, role, asks, pod, client, original_destination })
    }
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Plaintext, Self::Hbone];

    /// Its number in the kernel.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Outbound => sotto_abi::ROLE_OUTBOUND,
            Self::Plaintext => sotto_abi::ROLE_PLAINTEXT,
            Self::Hbone => sotto_abi::ROLE_HBONE,
        }
    }
}
