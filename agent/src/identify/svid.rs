//! A workload's certificate and key, and the TLS configurations made from them once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arcstr::ArcStr;
use parking_lot::RwLock;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use zeroize::Zeroizing;

use super::anchor::{Root, RootsId, fingerprint};
use super::clock::{Clock, unix_time};
use super::peer::{self, PeerError};
use super::revocation::{PeerEnd, Revocations};
use super::tls;
use super::verify::{ExpectedPeerVerifier, TrustDomainVerifier};
use crate::mesh::SpiffeId;

/// Client configurations kept for each certificate: one for each set of expected peers.
const MAX_CLIENT_CONFIGS: usize = 1024;

/// What a CA answered, not yet checked, and the key it was asked for.
pub struct Issued {
    /// The certificate and its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots of the mesh, one or more.
    pub roots: Vec<CertificateDer<'static>>,
    /// PKCS #8 DER.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// What can be told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The certificate.
    pub pem: String,
    /// Decimal.
    pub serial: String,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
    /// SHA-256 of its DER, in hexadecimal.
    pub fingerprint: ArcStr,
}

/// Why an issued certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// It names nobody, or cannot be read.
    #[error("the issued certificate cannot be read")]
    Unreadable(#[from] PeerError),
    /// It is somebody else's.
    #[error("the issued certificate is for {found}, want {wanted}")]
    WrongIdentity {
        /// Whose it is.
        found: SpiffeId,
        /// Who asked.
        wanted: SpiffeId,
    },
    /// It is for another key.
    #[error("the issued certificate does not fit the key of the request")]
    WrongKey(#[source] rustls::Error),
    /// None of the roots can be used.
    #[error("the CA sent no usable root certificate")]
    NoRoots,
    /// The chain does not end in a root it came with, or is not valid now.
    #[error("the issued certificate does not verify against the roots it came with")]
    Unverified(#[source] rustls::Error),
    /// The configurations cannot be made.
    #[error("no TLS configuration can be made of the issued certificate")]
    Configuration(#[source] rustls::Error),
}

/// A workload's identity document: its certificate, and TLS configurations for both ends.
pub struct Svid {
    identity: SpiffeId,
    chain: Vec<CertificateInfo>,
    root_infos: Vec<CertificateInfo>,
    not_before: SystemTime,
    not_after: SystemTime,
    roots: Arc<RootCertStore>,
    roots_id: RootsId,
    /// The root that its chain ends in.
    root: Root,
    revocations: Revocations,
    server: Arc<ServerConfig>,
    client: ClientConfig,
    clients: RwLock<HashMap<Box<[ArcStr]>, Arc<ClientConfig>>>,
}

impl Svid {
    /// Checks what the CA issued for `identity`, and prepares it for use.
    ///
    /// # Errors
    /// It is not for this identity or this key, or does not verify at the clock's time.
    pub fn new(
        identity: &SpiffeId,
        issued: Issued,
        clock: Arc<dyn Clock>,
        revocations: Revocations,
    ) -> Result<Self, SvidError> {
        let leaf = issued.chain.first().ok_or(PeerError::NoCertificate)?.clone();
        let found = peer::spiffe_id(&leaf)?;
        if found != *identity {
            return Err(SvidError::WrongIdentity { found, wanted: identity.clone() });
        }
        let chain = infos(&issued.chain)?;
        let (not_before, not_after) = (chain[0].not_before, chain[0].not_after);
        let root_infos = issued.roots.iter().filter_map(|root| info(root).ok()).collect();
        let roots_id = RootsId::of(&issued.roots);
        let all_roots = issued.roots.clone();
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(issued.roots).0 == 0 {
            return Err(SvidError::NoRoots);
        }
        let roots = Arc::new(roots);
        verify(&issued.chain, &roots, identity, &*clock, &revocations)?;
        let root = Root::of(&issued.chain, &all_roots, &*clock);
        let certified = Arc::new(certified(issued.chain, &issued.key)?);
        let domain = identity.trust_domain().clone();
        let server = tls::server_config(
            Arc::clone(&certified),
            Arc::clone(&roots),
            domain,
            Arc::clone(&clock),
            revocations.clone(),
        )
        .map_err(SvidError::Configuration)?;
        let client = tls::client_config(certified, Arc::clone(&roots), clock)
            .map_err(SvidError::Configuration)?;
        Ok(Self {
            identity: identity.clone(),
            chain,
            root_infos,
            not_before,
            not_after,
            roots,
            roots_id,
            root,
            revocations,
            server: Arc::new(server),
            client,
            clients: RwLock::default(),
        })
    }

    /// Whose it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The certificate and its intermediates.
    pub fn chain(&self) -> &[CertificateInfo] {
        &self.chain
    }

    /// The roots it came with.
    pub fn roots(&self) -> &[CertificateInfo] {
        &self.root_infos
    }

    /// Decimal serial number.
    pub fn serial(&self) -> &str {
        &self.chain[0].serial
    }

    /// Start of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it may be used at `now`.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        now < self.not_after
    }

    /// By what this identity believes its peers: changes when its roots do, or what was revoked. Only to be compared.
    pub fn trust(&self) -> u32 {
        // 2^64 divided by the golden ratio, which spreads small numbers; odd, so that each gives another.
        let generation = self.revocations.generation().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        RootsId(self.roots_id.0 ^ generation).low()
    }

    /// The roots it came with, to be compared.
    pub(super) fn roots_id(&self) -> RootsId {
        self.roots_id
    }

    /// The root that it hangs on.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Whether a peer that has shown `chain` in a handshake would still be believed `now`.
    ///
    /// # Errors
    /// Its chain no longer ends in a root, has expired, or was revoked.
    pub fn still_believes(
        &self,
        chain: &[CertificateDer<'_>],
        end: PeerEnd,
        now: SystemTime,
    ) -> Result<(), rustls::Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.revocations.verify((leaf, intermediates), &self.roots, end, unix_time(now))
    }

    /// The accepting end's configuration.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The dialling end's configuration, for a peer with one of the `expected` SPIFFE URIs (none
    /// matches an empty list). The same list gives the same `Arc`, as long as it is remembered.
    pub fn client_config(&self, expected: &[ArcStr]) -> Arc<ClientConfig> {
        if let Some(config) = self.clients.read().get(expected) {
            return Arc::clone(config);
        }
        let config = tls::expecting(
            &self.client,
            Arc::clone(&self.roots),
            expected,
            self.revocations.clone(),
        );
        let mut clients = self.clients.write();
        if clients.len() >= MAX_CLIENT_CONFIGS
            && let Some(any) = clients.keys().next().cloned()
        {
            clients.remove(&any);
        }
        Arc::clone(clients.entry(expected.into()).or_insert_with(|| Arc::new(config)))
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("identity", &self.identity)
            .field("serial", &self.serial())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Result<CertifiedKey, SvidError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let key = any_ecdsa_type(&key).map_err(SvidError::WrongKey)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(SvidError::WrongKey)?;
    Ok(certified)
}

/// Our own certificate must pass the checks that a peer will make of it.
fn verify(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    identity: &SpiffeId,
    clock: &dyn Clock,
    revocations: &Revocations,
) -> Result<(), SvidError> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(PeerError::NoCertificate.into());
    };
    let now = unix_time(clock.now());
    let revocations = revocations.uncounted();
    let as_server =
        ExpectedPeerVerifier::new(Arc::clone(roots), vec![uri(identity)], revocations.clone());
    let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    as_server
        .verify_server_cert(leaf, intermediates, &nobody, &[], now)
        .map_err(SvidError::Unverified)?;
    let domain = identity.trust_domain().clone();
    TrustDomainVerifier::new(Arc::clone(roots), domain, revocations.clone())
        .map_err(SvidError::Configuration)?
        .verify_client_cert(leaf, intermediates, now)
        .map_err(SvidError::Unverified)?;
    Ok(())
}

fn uri(identity: &SpiffeId) -> ArcStr {
    arcstr::format!("{identity}")
}

fn infos(chain: &[CertificateDer<'_>]) -> Result<Vec<CertificateInfo>, PeerError> {
    chain.iter().map(info).collect()
}

fn info(certificate: &CertificateDer<'_>) -> Result<CertificateInfo, PeerError> {
    let parsed = peer::parse(certificate)?;
    let moment = |at: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or(0))
    };
    Ok(CertificateInfo {
        pem: pem(certificate),
        serial: parsed.serial.to_string(),
        not_before: moment(parsed.validity.not_before),
        not_after: moment(parsed.validity.not_after),
        fingerprint: fingerprint(certificate),
    })
}

/// RFC 7468, 64 characters a line.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", &**certificate), lines)
}
