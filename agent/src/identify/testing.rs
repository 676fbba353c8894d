//! A certificate authority, a clock and a source of certificates for this module's tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::ca::CaError;
use super::certs::CertificateSource;
use super::clock::Clock;
use super::revocation::Revocations;
use super::svid::{Issued, Svid};
use crate::mesh::SpiffeId;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn identity(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// Wall time that moves with tokio's clock, paused or not.
#[derive(Debug)]
pub(super) struct TestClock {
    start: SystemTime,
    since: Instant,
}

impl TestClock {
    pub(super) fn new() -> Arc<Self> {
        // Certificates count whole seconds; so does this, to make the expectations exact.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
        Arc::new(Self { start, since: Instant::now() })
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        self.start + self.since.elapsed()
    }
}

/// A root, and what it signs.
pub(crate) struct TestCa {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) root: CertificateDer<'static>,
    pub(super) root_pem: String,
    /// What stands between the root and what is issued.
    between: Vec<CertificateDer<'static>>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let (root, root_pem) = (root.der().clone(), root.pem());
        Self { issuer: Issuer::new(params, key), root, root_pem, between: Vec::new() }
    }

    /// An authority below this one.
    pub(super) fn below(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "below");
        let own = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let between = std::iter::once(own).chain(self.between.iter().cloned()).collect();
        let (root, root_pem) = (self.root.clone(), self.root_pem.clone());
        Self { issuer: Issuer::new(params, key), root, root_pem, between }
    }

    /// A certificate with these URI names, valid from `start` for `life`.
    pub(crate) fn issue(&self, uris: &[&str], start: SystemTime, life: Duration) -> Issued {
        let key = KeyPair::generate().unwrap();
        let params = leaf(uris, start, life);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            chain: std::iter::once(leaf.der().clone())
                .chain(self.between.iter().cloned())
                .collect(),
            roots: vec![self.root.clone()],
            key: Zeroizing::new(key.serialize_der()),
        }
    }

    pub(super) fn svid(&self, id: &str, clock: Arc<dyn Clock>) -> Svid {
        let issued = self.issue(&[id], clock.now(), DAY);
        Svid::new(&identity(id), issued, clock, Revocations::default()).unwrap()
    }
}

pub(super) fn leaf(uris: &[&str], start: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.not_before = start.into();
    params.not_after = (start + life).into();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// What a [`TestSource`] does at its next call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mood {
    /// Issues what is asked.
    Good,
    /// Answers that the token is missing.
    Failing,
    /// Issues somebody else's certificate.
    Wrong,
}

/// A source of certificates whose mood the test sets.
pub(super) struct TestSource {
    /// Who certifies from now on.
    pub(super) ca: Mutex<TestCa>,
    clock: Arc<dyn Clock>,
    pub(super) mood: Mutex<Mood>,
    pub(super) calls: AtomicUsize,
    pub(super) most_at_once: AtomicUsize,
    at_once: AtomicUsize,
    /// Calls go on with a permit each.
    pub(super) gate: Semaphore,
}

impl TestSource {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            ca: Mutex::new(TestCa::new()),
            clock,
            mood: Mutex::new(Mood::Good),
            calls: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl CertificateSource for Arc<TestSource> {
    async fn issue(&self, identity: &SpiffeId) -> Result<Issued, CaError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(now, Ordering::Relaxed);
        self.gate.acquire().await.unwrap().forget();
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        let mood = *self.mood.lock();
        let name = match mood {
            Mood::Good => identity.to_string(),
            Mood::Wrong => "spiffe://cluster.local/ns/evil/sa/evil".to_owned(),
            Mood::Failing => return Err(CaError::Token("token".into())),
        };
        Ok(self.ca.lock().issue(&[&name], self.clock.now(), DAY))
    }
}
