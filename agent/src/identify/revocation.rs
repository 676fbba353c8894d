//! Certificates that were taken back: lists in files, read again whenever they change.
//!
//! Every handshake asks, on either side, for the peer's certificate and its intermediates; and open tunnels are looked
//! at again when the lists change ([`Svid::still_believes`](super::svid::Svid::still_believes)). An issuer of which no
//! list is there has revoked nothing, as in ztunnel. A list beyond its `nextUpdate` still counts: what was revoked stays
//! so. A file that cannot be read at the start is a mistake of the configuration; one that becomes unreadable
//! leaves what it said last, and is told until it can be read again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio_util::sync::CancellationToken;
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::crypto::provider;
use crate::sys::files;

/// A file's size, at most, in bytes: Kubernetes' objects have no more, and a list of all certificates of a mesh has less.
const MAX_FILE: u64 = 64 << 20;

/// Which end of a tunnel a certificate was shown by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// The one that was dialled.
    Server,
    /// The one that dialled.
    Client,
}

/// Why a file is no list.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error("{path} is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// What it holds is neither PEM nor DER of a list.
    #[error("{path} holds no certificate revocation list (PEM, or DER of one)")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What was taken back. Clones see the same; none is revoked by default.
#[derive(Clone, Default)]
pub struct Revocations {
    inner: Arc<Inner>,
    rejected: Arc<Rejected>,
}

/// Peers that were turned away because a certificate of theirs was taken back.
#[derive(Default)]
struct Rejected {
    servers: AtomicU64,
    clients: AtomicU64,
}

#[derive(Default)]
struct Inner {
    files: Vec<PathBuf>,
    lists: ArcSwap<Vec<CertRevocationList<'static>>>,
    /// Raised whenever the lists change.
    generation: AtomicU64,
    /// A file cannot be read now.
    failing: AtomicBool,
}

impl Revocations {
    /// As the files say.
    ///
    /// # Errors
    /// One of them cannot be read, or is no list.
    pub fn read(files: Vec<PathBuf>) -> Result<Self, RevocationError> {
        let lists = ArcSwap::from_pointee(read_all(&files)?);
        let inner = Inner { files, lists, ..Inner::default() };
        Ok(Self { inner: Arc::new(inner), ..Self::default() })
    }

    /// The same for certificates that are no peer's: nobody is counted as turned away.
    #[must_use]
    pub fn uncounted(&self) -> Self {
        Self { inner: self.inner.clone(), rejected: Arc::default() }
    }

    /// How often a peer at this end was turned away, or cut off, because a certificate of its chain was taken back.
    pub fn rejected(&self, end: PeerEnd) -> u64 {
        self.rejected.at(end).load(Relaxed)
    }

    /// Raised whenever the lists change.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Relaxed)
    }

    /// Lists there are.
    pub fn count(&self) -> usize {
        self.inner.lists.load().len()
    }

    /// Whether a file cannot be read now, so that what it said last counts.
    pub fn is_failing(&self) -> bool {
        self.inner.failing.load(Relaxed)
    }

    /// Whether nothing was taken back of a chain that is verified already.
    ///
    /// # Errors
    /// One of its certificates was, or that cannot be told.
    pub fn check(
        &self,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        roots: &RootCertStore,
        end: PeerEnd,
        now: UnixTime,
    ) -> Result<(), Error> {
        for list in self.inner.lists.load().iter() {
            match verify(chain, roots, end, now, Some(list)) {
                // Another authority's of the same name: roots are replaced by others that are called the same, and a bundle
                // may hold both. What was revoked is told before what does not fit (`Error::rank` in webpki).
                Err(
                    webpki::Error::InvalidCrlSignatureForPublicKey
                    | webpki::Error::InvalidSignatureForPublicKey,
                )
                | Ok(()) => {}
                Err(error) => {
                    if error == webpki::Error::CertRevoked {
                        self.rejected.at(end).fetch_add(1, Relaxed);
                    }
                    return Err(refused(error));
                }
            }
        }
        Ok(())
    }

    /// Whether a chain ends in one of the roots, is valid now, and nothing of it was taken back.
    ///
    /// # Errors
    /// It does not, is not, or was; or that cannot be told.
    pub fn verify(
        &self,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        roots: &RootCertStore,
        end: PeerEnd,
        now: UnixTime,
    ) -> Result<(), Error> {
        verify(chain, roots, end, now, None).map_err(refused)?;
        self.check(chain, roots, end, now)
    }

    /// Reads the files again whenever they change, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        if self.inner.files.is_empty() {
            return;
        }
        let (files, this) = (self.inner.files.clone(), self.clone());
        let stale = "revocations are as they were last read";
        files::follow(files, stop, stale, move || this.read_again()).await;
    }

    /// Reads the files; if one cannot be, all stays as it is.
    fn read_again(&self) -> Result<(), RevocationError> {
        let lists = read_all(&self.inner.files);
        self.inner.failing.store(lists.is_err(), Relaxed);
        let lists = lists?;
        tracing::info!(lists = lists.len(), "revocations read");
        self.inner.lists.store(Arc::new(lists));
        self.inner.generation.fetch_add(1, Relaxed);
        Ok(())
    }
}

impl Rejected {
    fn at(&self, end: PeerEnd) -> &AtomicU64 {
        match end {
            PeerEnd::Server => &self.servers,
            PeerEnd::Client => &self.clients,
        }
    }
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations").field("lists", &self.count()).finish_non_exhaustive()
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<CertRevocationList<'static>>, RevocationError> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file)?);
    }
    Ok(all)
}

/// An empty file revokes nothing; so does one of PEM without lists.
fn read(path: &Path) -> Result<Vec<CertRevocationList<'static>>, RevocationError> {
    let failed = |source| RevocationError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(RevocationError::TooLarge { path: path.to_owned() });
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    parse(&bytes).map_err(|source| RevocationError::Malformed { path: path.to_owned(), source })
}

fn parse(
    bytes: &[u8],
) -> Result<Vec<CertRevocationList<'static>>, Box<dyn std::error::Error + Send + Sync>> {
    let list = |der: &[u8]| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from);
    if bytes.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    // DER of a list begins with a SEQUENCE (X.690 8.9), which no text does.
    if bytes[0] == 0x30 {
        return Ok(vec![list(bytes)?]);
    }
    let text = bytes.windows(10).any(|part| part == b"-----BEGIN");
    if !text {
        return Err("neither PEM nor DER".into());
    }
    let ders = CertificateRevocationListDer::pem_slice_iter(bytes);
    ders.map(|der| Ok(list(&der.map_err(|error| error.to_string())?)?)).collect()
}

/// Verifies a chain, and holds it against one list.
fn verify(
    (leaf, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    roots: &RootCertStore,
    end: PeerEnd,
    now: UnixTime,
    list: Option<&CertRevocationList<'static>>,
) -> Result<(), webpki::Error> {
    let lists: Vec<&CertRevocationList<'_>> = list.into_iter().collect();
    // It takes no empty list of lists.
    let options = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .build()
    });
    let usage = match end {
        PeerEnd::Server => KeyUsage::server_auth(),
        PeerEnd::Client => KeyUsage::client_auth(),
    };
    let algorithms = provider().signature_verification_algorithms.all;
    let leaf = EndEntityCert::try_from(leaf)?;
    let anchors = &roots.roots;
    leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage, options, None).map(drop)
}

fn refused(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertRevoked => CertificateError::Revoked.into(),
        webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        other => Error::General(format!("the certificate does not verify: {other}")),
    }
}

#[cfg(test)]
mod tests;
