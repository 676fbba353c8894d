//! What the mesh answers a pod that asks for a name: a pure function of the question, who asks, and what we know.
//!
//! Input: the bytes of a question. Output: the bytes of an answer, or that it is not the mesh's to answer: then the resolver
//! that the pod has asked does, as if nobody had looked.
//! Invariant: nothing is answered but addresses of services that the mesh has under that name.

mod lookup;
mod names;
mod wire;

use crate::mesh::{LocalPod, Network};

pub use lookup::{Answer, lookup};
pub use wire::{Question, failure, is_answer};

#[cfg(test)]
mod tests;

/// How long an answer may be kept, in seconds: as long as Istio says.
pub const TTL: u32 = 30;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The pod.
    pub pod: &'a LocalPod,
    /// Its network.
    pub network: &'a Network,
    /// What Kubernetes' names end with, as `cluster.local`.
    pub domain: &'a str,
}

/// How an answer goes back, and so how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As long as who asks says that it can take; else 512 bytes (RFC 1035, 4.2.1; RFC 6891, 6.2.3).
    Datagram,
    /// 65,535 bytes (RFC 1035, 4.2.2).
    Stream,
}
