//! The root key, and what it signs. No IO, and the time is told.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::mesh::SpiffeId;

/// How long a new root lives.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far clocks may be apart: certificates begin this much in the past.
const CLOCK_SKEW: Duration = Duration::from_secs(2 * 60);

/// Signs certificates with the root key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    expires: SystemTime,
}

/// A root as it is kept.
pub struct RootPem {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: Zeroizing<String>,
}

/// Why a root cannot be used, or something cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The root certificate cannot be read.
    #[error("root certificate is malformed: {0}")]
    RootCertificate(String),
    /// The root key cannot be read.
    #[error("root key is malformed")]
    RootKey(#[source] rcgen::Error),
    /// They do not belong together.
    #[error("root key is not the root certificate's")]
    Mismatch,
    /// It may not sign.
    #[error("root certificate is not a certificate authority's")]
    NotAuthority,
    /// It is too late.
    #[error("root certificate has expired")]
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
    /// Leaf, then root, DER.
    pub chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    /// PKCS#8.
    pub key: rustls::pki_types::PrivatePkcs8KeyDer<'static>,
}

impl RootPem {
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
        Ok(Self { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }
}

impl Authority {
    /// An authority that signs with `root`.
    ///
    /// # Errors
    /// It is malformed, expired, not an authority, or not a pair.
    pub fn load(root: &RootPem, now: SystemTime) -> Result<Self, AuthorityError> {
        let malformed =
            |error: &dyn fmt::Display| AuthorityError::RootCertificate(error.to_string());
        let (_, pem) = x509_parser::pem::parse_x509_pem(root.certificate.as_bytes())
            .map_err(|e| malformed(&e))?;
        let (_, certificate) =
            X509Certificate::from_der(&pem.contents).map_err(|e| malformed(&e))?;
        let key = KeyPair::from_pem(&root.key).map_err(AuthorityError::RootKey)?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::Mismatch);
        }
        if !certificate.is_ca() {
            return Err(AuthorityError::NotAuthority);
        }
        let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        let expires = UNIX_EPOCH + Duration::from_secs(end);
        if expires <= now {
            return Err(AuthorityError::Expired);
        }
        let issuer = Issuer::from_ca_cert_der(&pem.contents.as_slice().into(), key)
            .map_err(|error| malformed(&error))?;
        Ok(Self { issuer, root_pem: root.certificate.clone(), expires })
    }

    /// The root certificate, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// When the root ends, and every certificate with it.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Signs a workload's request: a certificate for `identity` alone, whatever else it asks for.
    /// Gives the chain, PEM: leaf, then root.
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
        Ok(vec![leaf.pem(), self.root_pem.clone()])
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
        let chain = vec![leaf.der().clone()];
        Ok(Serving { chain, key: key.serialize_der().into() })
    }

    /// A leaf without names: empty subject, a random serial number, no longer than the root.
    fn leaf(
        &self,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<CertificateParams, AuthorityError> {
        if self.expires <= now {
            return Err(AuthorityError::Expired);
        }
        let mut params = validity(now - CLOCK_SKEW, (now + lifetime).min(self.expires))?;
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
        f.debug_struct("Authority").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl fmt::Debug for RootPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootPem").finish_non_exhaustive()
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
