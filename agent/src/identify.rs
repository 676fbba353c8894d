//! Who is at each end: certificates of this node's pods, and the verified identity of a peer.
//!
//! [`certs`] keeps one [`Svid`] for each identity, got from the mesh's CA by [`ca`] and renewed in
//! time; an `Svid` holds the TLS configurations made from it, whose verifiers ([`verify`]) demand a
//! certificate of the mesh on both sides, that nobody has taken back ([`revocation`]).
//! When the mesh's roots change ([`roots`]) all are renewed soon. Keys stay in memory and never appear in a log.

mod anchor;
pub mod ca;
pub mod certs;
pub mod clock;
mod crypto;
mod csr;
pub mod peer;
pub mod revocation;
pub mod roots;
mod schedule;
pub mod svid;
pub mod tls;
pub mod verify;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use anchor::Root;
pub use ca::{CaClient, CaConfig, CaError};
pub use certs::{CertificateError, CertificateSource, Certificates, FetchError, Renewal};
pub use clock::{Clock, SystemClock};
pub use peer::{PeerError, spiffe_id};
pub use revocation::{PeerEnd, RevocationError, Revocations};
pub use svid::{CertificateInfo, Issued, Svid, SvidError};
