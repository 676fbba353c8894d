//! From what signs to a root that is trusted: which certificates stand between, and until when all of them hold. Pure.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::pem::{self, PemError};

/// Roots that are trusted at a time, at most: each goes to every agent with every certificate.
const MAX_ROOTS: usize = 32;
/// Certificates beside the roots, at most.
const MAX_LINKS: usize = 8;

/// Why nothing can be signed with what there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A part is no list of certificates.
    #[error("{0} {1}")]
    Pem(Part, #[source] PemError),
    /// A certificate of it cannot be read.
    #[error("{0} is malformed: {1}")]
    Malformed(Part, String),
    /// It has too many.
    #[error("{0} hold {1} certificates, at most {2}")]
    TooMany(Part, usize, usize),
    /// A certificate may not sign others.
    #[error("{0} is not an authority's certificate (CA:TRUE, keyCertSign): {1}")]
    NotAuthority(Part, String),
    /// It is too late.
    #[error("{0} has expired: {1}")]
    Expired(Part, String),
    /// It is too early.
    #[error("{0} is not valid yet, by this machine's clock: {1}")]
    NotYet(Part, String),
    /// The signing certificate leads to no root.
    #[error("the signing certificate leads to no trusted root: no certificate of {0:?}")]
    Unanchored(String),
    /// A certificate of the chain allows fewer authorities below it.
    #[error("{0:?} allows {1} authorities below it, and has {2}")]
    PathLength(String, u32, usize),
}

/// A part of what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What signs: `ca-cert.pem`, `tls.crt`.
    Signing,
    /// What stands between: `cert-chain.pem`, and the rest of `tls.crt`.
    Intermediate,
    /// What is trusted: `root-cert.pem`, `ca.crt`.
    Root,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signing => "the signing certificate",
            Self::Intermediate => "the intermediate certificates",
            Self::Root => "the trusted roots",
        })
    }
}

/// A certificate of an authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    der: CertificateDer<'static>,
    subject: String,
    /// SHA-256 of it, in hexadecimal.
    fingerprint: String,
    validity: (SystemTime, SystemTime),
    /// How many authorities may stand below it, if that is bounded.
    path_length: Option<u32>,
}

impl Link {
    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of its DER, in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Its subject's name.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// From when on it holds, and until when.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        self.validity
    }

    /// When it ends.
    pub fn expires(&self) -> SystemTime {
        self.validity.1
    }

    /// As PEM.
    pub(super) fn pem(&self) -> String {
        pem::encode(&self.der)
    }

    fn read(part: Part, der: CertificateDer<'static>) -> Result<Self, ChainError> {
        let malformed = |error: &dyn fmt::Display| ChainError::Malformed(part, error.to_string());
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|e| malformed(&e))?;
        if !rest.is_empty() {
            return Err(malformed(&"bytes after its end"));
        }
        let subject = parsed.subject().to_string();
        let constraints = parsed.basic_constraints().map_err(|e| malformed(&e))?;
        let usage = parsed.key_usage().map_err(|e| malformed(&e))?;
        let authority = constraints.as_ref().is_some_and(|extension| extension.value.ca);
        if !authority || usage.is_some_and(|extension| !extension.value.key_cert_sign()) {
            return Err(ChainError::NotAuthority(part, subject));
        }
        let path_length = constraints.and_then(|extension| extension.value.path_len_constraint);
        let moment = |at: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or_default())
        };
        let validity = parsed.validity();
        let validity = (moment(validity.not_before), moment(validity.not_after));
        let fingerprint = Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { subject, fingerprint, validity, path_length, der })
    }

    fn holds(&self, now: SystemTime) -> bool {
        self.validity.0 <= now && now < self.validity.1
    }

    fn must_hold(&self, part: Part, now: SystemTime) -> Result<(), ChainError> {
        if now < self.validity.0 {
            return Err(ChainError::NotYet(part, self.subject.clone()));
        }
        if self.validity.1 <= now {
            return Err(ChainError::Expired(part, self.subject.clone()));
        }
        Ok(())
    }

    /// Whether `issuer` has signed it.
    fn is_signed_by(&self, issuer: &Self) -> bool {
        let own = X509Certificate::from_der(&self.der);
        let (Ok((_, own)), Ok((_, issuer))) = (own, X509Certificate::from_der(&issuer.der)) else {
            return false;
        };
        own.issuer().as_raw() == issuer.subject().as_raw()
            && own.verify_signature(Some(issuer.public_key())).is_ok()
    }

    fn issuer(&self) -> String {
        let parsed = X509Certificate::from_der(&self.der);
        parsed.map(|(_, parsed)| parsed.issuer().to_string()).unwrap_or_default()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.subject, self.fingerprint)
    }
}

/// What signs, what it hangs on, and what is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    signing: Link,
    /// Below the root, what signs first; none if a root signs.
    intermediates: Vec<Link>,
    /// All that are trusted; first the one that the chain ends in.
    roots: Vec<Link>,
}

impl Chain {
    /// The chain of the first certificate in `signing`. `between` holds others that may stand in it, `roots` those
    /// that are trusted: without them, the signing certificate itself is.
    ///
    /// # Errors
    /// It leads to no root, or a certificate of it may not be used now.
    pub fn new(
        signing: &str,
        between: &str,
        roots: Option<&str>,
        now: SystemTime,
    ) -> Result<Self, ChainError> {
        let mut pool = read(Part::Signing, pem::certificates(signing))?;
        let signing = pool.remove(0);
        signing.must_hold(Part::Signing, now)?;
        pool.extend(read(Part::Intermediate, pem::optional(between))?);
        bounded(Part::Intermediate, pool.len(), MAX_LINKS)?;
        let mut trusted = match roots {
            Some(roots) => read(Part::Root, pem::certificates(roots))?,
            None => vec![signing.clone()],
        };
        bounded(Part::Root, trusted.len(), MAX_ROOTS)?;
        let (intermediates, root) = climb(&signing, pool, &trusted, now)?;
        trusted.retain(|other| *other != root);
        dedup(&mut trusted);
        trusted.insert(0, root);
        let chain = Self { signing, intermediates, roots: trusted };
        chain.check_lengths()?;
        Ok(chain)
    }

    /// What signs.
    pub fn signing(&self) -> &Link {
        &self.signing
    }

    /// What stands between a leaf and the root: what signs first, unless that is the root.
    pub fn intermediates(&self) -> &[Link] {
        &self.intermediates
    }

    /// All that is trusted; first what the chain ends in.
    pub fn roots(&self) -> &[Link] {
        &self.roots
    }

    /// When the first of its certificates ends, and with it all that it signs.
    pub fn expires(&self) -> SystemTime {
        let links = self.intermediates.iter().map(Link::expires);
        links.fold(self.roots[0].expires(), SystemTime::min)
    }

    /// RFC 5280 4.2.1.9: a bound counts the authorities below, the leaf is none.
    fn check_lengths(&self) -> Result<(), ChainError> {
        for (below, link) in self.intermediates.iter().chain(&self.roots[..1]).enumerate() {
            if let Some(most) = link.path_length
                && usize::try_from(most).is_ok_and(|most| most < below)
            {
                return Err(ChainError::PathLength(link.subject.clone(), most, below));
            }
        }
        Ok(())
    }
}

/// From `signing` to a root that holds, by the certificates that hold longest; a root where there is one.
fn climb(
    signing: &Link,
    mut pool: Vec<Link>,
    roots: &[Link],
    now: SystemTime,
) -> Result<(Vec<Link>, Link), ChainError> {
    if let Some(root) = roots.iter().find(|root| *root == signing) {
        return Ok((Vec::new(), root.clone()));
    }
    let mut links = vec![signing.clone()];
    pool.retain(|link| link != signing && !roots.contains(link));
    loop {
        let last = &links[links.len() - 1];
        let above = |link: &&Link| last.is_signed_by(link);
        if let Some(root) = roots.iter().filter(above).max_by_key(|root| root.usable(now)) {
            root.must_hold(Part::Root, now)?;
            return Ok((links, root.clone()));
        }
        let Some(next) = pool.iter().filter(above).max_by_key(|link| link.usable(now)).cloned()
        else {
            return Err(ChainError::Unanchored(last.issuer()));
        };
        next.must_hold(Part::Intermediate, now)?;
        pool.retain(|link| *link != next);
        links.push(next);
    }
}

impl Link {
    /// What is preferred: what holds now, and of that what holds longest.
    fn usable(&self, now: SystemTime) -> (bool, SystemTime) {
        (self.holds(now), self.validity.1)
    }
}

fn read(
    part: Part,
    certificates: Result<Vec<CertificateDer<'static>>, PemError>,
) -> Result<Vec<Link>, ChainError> {
    let certificates = certificates.map_err(|error| ChainError::Pem(part, error))?;
    certificates.into_iter().map(|der| Link::read(part, der)).collect()
}

fn bounded(part: Part, count: usize, most: usize) -> Result<(), ChainError> {
    if count > most { Err(ChainError::TooMany(part, count, most)) } else { Ok(()) }
}

fn dedup(links: &mut Vec<Link>) {
    let mut seen = Vec::new();
    links.retain(|link| {
        let first = !seen.contains(&link.fingerprint);
        seen.push(link.fingerprint.clone());
        first
    });
}

#[cfg(test)]
mod tests;
