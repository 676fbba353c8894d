//! The signing key, and what it signs. No IO, and the time is told.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use webpki::anchor_from_trusted_cert;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::chain::{Chain, ChainError, Link, Part};
use crate::mesh::SpiffeId;

/// How long a new root lives.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far clocks may be apart: certificates begin this much in the past.
const CLOCK_SKEW: Duration = Duration::from_secs(2 * 60);
/// Whose certificate is tried out, and thrown away.
const TRIAL: &str = "spiffe://cluster.local/ns/trial/sa/trial";

/// Signs certificates, with a root's key or that of an authority below one.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: Chain,
    /// As answers hold them: what stands between a leaf and the root..
    intermediates_pem: Vec<String>,
    /// ..and all roots that are trusted.
    bundle_pem: String,
}

/// An authority as it is kept: text, PEM.
pub struct KeptAuthority {
    /// What signs; what stands above it may follow.
    pub certificate: String,
    /// Its private key: PKCS#8, SEC1 or PKCS#1.
    pub key: Zeroizing<String>,
    /// What stands between it and a root; may be empty, may name it again.
    pub chain: String,
    /// What is trusted; the certificate itself if none is named.
    pub roots: Option<String>,
}

/// Why an authority cannot be used, or something cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its certificates do not make a chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Its key cannot be read. What it holds is not told.
    #[error("the signing key is no private key (PKCS#8, SEC1 or PKCS#1 in PEM, not encrypted)")]
    Key,
    /// They do not belong together.
    #[error("the signing key is not the signing certificate's")]
    Mismatch,
    /// Who verifies as agents do would refuse what it signs.
    #[error("agents would not believe what it signs: {0}")]
    Unbelievable(String),
    /// It is too late.
    #[error("a certificate above has expired")]
    Expired,
    /// The request cannot be read, or its signature is wrong.
    #[error("certificate request is malformed or wrongly signed")]
    Request(#[source] rcgen::Error),
    /// Not P-256.
    #[error("certificate request's key is not ECDSA P-256")]
    RequestKey,
    /// It names somebody else.
    #[error("certificate request names {found}, not {expected}")]
    RequestName {
        /// In the request.
        found: String,
        /// Admitted.
        expected: SpiffeId,
    },
    /// A name cannot stand in a certificate.
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
    /// Cryptography failed.
    #[error("sign a certificate")]
    Sign(#[source] rcgen::Error),
}

/// A key and its chain, for our own listener.
pub struct Serving {
    /// Leaf, then what stands between it and the root, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: rustls::pki_types::PrivatePkcs8KeyDer<'static>,
    /// From when on it can be used.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

impl KeptAuthority {
    /// A new root for `trust_domain`.
    ///
    /// # Errors
    /// Cryptography fails.
    pub fn generate(trust_domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, trust_domain);
        let mut params = validity(now, now + ROOT_LIFETIME)?;
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            chain: String::new(),
            roots: None,
        })
    }
}

impl Authority {
    /// An authority that signs with what is kept.
    ///
    /// # Errors
    /// It is malformed, expired, no authority, not a pair, or does not lead to what is trusted.
    pub fn load(kept: &KeptAuthority, now: SystemTime) -> Result<Self, AuthorityError> {
        let chain = Chain::new(&kept.certificate, &kept.chain, kept.roots.as_deref(), now)?;
        let key = PrivateKeyDer::from_pem_slice(kept.key.as_bytes());
        let key =
            key.ok().and_then(|der| KeyPair::try_from(&der).ok()).ok_or(AuthorityError::Key)?;
        let signing = chain.signing().der();
        let malformed = |error: &dyn fmt::Display| {
            AuthorityError::Chain(ChainError::Malformed(Part::Signing, error.to_string()))
        };
        let (_, certificate) = X509Certificate::from_der(signing).map_err(|e| malformed(&e))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(signing, key).map_err(|e| malformed(&e))?;
        let intermediates_pem = chain.intermediates().iter().map(Link::pem).collect();
        let bundle_pem = chain.roots().iter().map(Link::pem).collect();
        let authority = Self { issuer, chain, intermediates_pem, bundle_pem };
        authority.try_out(now)?;
        Ok(authority)
    }

    /// Signs something, and verifies it as an agent does, who knows more rules than are told here: extended key usages,
    /// constraints of names, algorithms.
    fn try_out(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let unbelievable =
            |error: &dyn fmt::Display| AuthorityError::Unbelievable(error.to_string());
        let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
        let mut params = self.leaf(now, CLOCK_SKEW)?;
        params.subject_alt_names = vec![SanType::URI(name(TRIAL)?)];
        let leaf = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Sign)?;
        let leaf = webpki::EndEntityCert::try_from(leaf.der()).map_err(|e| unbelievable(&e))?;
        let roots = self.chain.roots().iter().map(|root| anchor_from_trusted_cert(root.der()));
        let roots = roots.collect::<Result<Vec<_>, _>>().map_err(|e| unbelievable(&e))?;
        let between: Vec<_> =
            self.chain.intermediates().iter().map(|link| link.der().clone()).collect();
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let at = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (at, usage) = (UnixTime::since_unix_epoch(at), webpki::KeyUsage::server_auth());
        leaf.verify_for_usage(algorithms, &roots, &between, at, usage, None, None)
            .map(drop)
            .map_err(|e| unbelievable(&e))
    }

    /// What is trusted, PEM: first the root that what it signs hangs on.
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// Whether the other signs and trusts the same.
    pub fn is_like(&self, other: &Self) -> bool {
        self.chain == other.chain
    }

    /// What signs, and what it hangs on.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// When the first certificate above ends, and every one that it signs with it.
    pub fn expires(&self) -> SystemTime {
        self.chain.expires()
    }

    /// Signs a workload's request: a certificate for `identity` alone, whatever else it asks for.
    /// Gives the chain, PEM: leaf, what stands between it and the root, and last all roots that are trusted.
    ///
    /// # Errors
    /// The request is malformed, wrongly signed, of another kind of key or for another identity.
    pub fn issue(
        &self,
        request_pem: &str,
        identity: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(AuthorityError::Request)?;
        let key = &request.public_key;
        // An uncompressed point of P-256: 0x04 and two coordinates of 32 bytes (RFC 5480).
        if *key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != 65 {
            return Err(AuthorityError::RequestKey);
        }
        check_names(&request.params.subject_alt_names, identity)?;
        let mut params = self.leaf(now, lifetime)?;
        params.subject_alt_names = vec![SanType::URI(name(&identity.to_string())?)];
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(key, &self.issuer).map_err(AuthorityError::Sign)?;
        let mut answer = vec![leaf.pem()];
        answer.extend(self.intermediates_pem.iter().cloned());
        answer.push(self.bundle_pem.clone());
        Ok(answer)
    }

    /// A key and certificate for our own listener.
    ///
    /// # Errors
    /// A name cannot stand in a certificate, or cryptography fails.
    pub fn serving(
        &self,
        names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Serving, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
        let mut params = self.leaf(now, lifetime)?;
        for dns in names {
            params.subject_alt_names.push(SanType::DnsName(name(dns)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Sign)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.intermediates().iter().map(|link| link.der().clone()));
        let (not_before, not_after) = (now - CLOCK_SKEW, (now + lifetime).min(self.expires()));
        Ok(Serving { chain, key: key.serialize_der().into(), not_before, not_after })
    }

    /// A leaf without names: empty subject, a random serial number, no longer than anything above it.
    fn leaf(
        &self,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<CertificateParams, AuthorityError> {
        if self.expires() <= now {
            return Err(AuthorityError::Expired);
        }
        let mut params = validity(now - CLOCK_SKEW, (now + lifetime).min(self.expires()))?;
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let mut serial: [u8; 16] = rand::random();
        // Positive, and never zero.
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        Ok(params)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeptAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptAuthority").finish_non_exhaustive()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

/// A request may leave out its name, but not name another.
fn check_names(names: &[SanType], identity: &SpiffeId) -> Result<(), AuthorityError> {
    let expected = identity.to_string();
    let other = names.iter().find(|name| match name {
        SanType::URI(uri) => uri.as_str() != expected,
        _ => true,
    });
    match other {
        None => Ok(()),
        Some(SanType::URI(uri)) => Err(AuthorityError::RequestName {
            found: uri.as_str().to_owned(),
            expected: identity.clone(),
        }),
        Some(other) => Err(AuthorityError::RequestName {
            found: format!("{other:?}"),
            expected: identity.clone(),
        }),
    }
}

fn name(text: &str) -> Result<Ia5String, AuthorityError> {
    Ia5String::try_from(text).map_err(|_| AuthorityError::Name(text.to_owned()))
}

fn validity(from: SystemTime, until: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(AuthorityError::Sign)?;
    let time = |time: SystemTime| {
        date_time_ymd(1970, 1, 1) + time.duration_since(UNIX_EPOCH).unwrap_or_default()
    };
    params.not_before = time(from);
    params.not_after = time(until);
    Ok(params)
}

#[cfg(test)]
mod tests;
