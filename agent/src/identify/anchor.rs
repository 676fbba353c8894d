//! Roots, told apart: bundles of them, and the one that a certificate hangs on.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use arcstr::ArcStr;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::clock::{Clock, unix_time};
use super::revocation::{PeerEnd, Revocations};

/// Tells bundles of roots apart, within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootsId(pub(super) u64);

impl RootsId {
    /// Of these, in this order: the first is the one that signs.
    pub(super) fn of(roots: &[CertificateDer<'_>]) -> Self {
        let mut hasher = DefaultHasher::new();
        roots.iter().for_each(|root| root.as_ref().hash(&mut hasher));
        Self(hasher.finish())
    }

    /// Half of it.
    pub(super) fn low(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or_default()
    }
}

/// The root that a certificate hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// SHA-256 of its DER, in hexadecimal.
    pub fingerprint: ArcStr,
    /// Tells it from others, in each process the same: the start of the fingerprint. 0 is none.
    pub id: u32,
}

impl Root {
    /// The first of `roots` that the chain ends in; nothing of a chain that ends in none.
    pub(super) fn of(
        chain: &[CertificateDer<'_>],
        roots: &[CertificateDer<'static>],
        clock: &dyn Clock,
    ) -> Self {
        let (now, revocations) = (unix_time(clock.now()), Revocations::default());
        let ends_in = |root: &&CertificateDer<'static>| {
            let mut store = RootCertStore::empty();
            let Some((leaf, intermediates)) = chain.split_first() else { return false };
            store.add((*root).clone()).is_ok()
                && revocations.verify((leaf, intermediates), &store, PeerEnd::Server, now).is_ok()
        };
        let Some(root) = roots.iter().find(ends_in) else {
            return Self { fingerprint: ArcStr::new(), id: 0 };
        };
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(root));
        Self { fingerprint: fingerprint(root), id: u32::from_be_bytes([a, b, c, d]) }
    }
}

/// SHA-256 of a certificate, in hexadecimal.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> ArcStr {
    let digest = Sha256::digest(certificate);
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}
