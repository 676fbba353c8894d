//! The identity in a peer's certificate.
//!
//! Input: a certificate whose chain is verified already; output: what its URI names say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arcstr::ArcStr;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::mesh::{SpiffeId, TrustDomain};

/// Why a certificate does not say who its holder is, or says the wrong one.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Not a certificate.
    #[error("malformed certificate")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The handshake carried none.
    #[error("no certificate")]
    NoCertificate,
    /// No URI name is a workload's.
    #[error("the certificate names no SPIFFE identity; its URIs are {0:?}")]
    NoIdentity(Vec<String>),
    /// More than one URI name is a workload's.
    #[error("the certificate names {0} SPIFFE identities, want one")]
    SeveralIdentities(usize),
    /// A workload of another mesh.
    #[error("{peer} is not of our trust domain {ours}")]
    TrustDomain {
        /// Who it is.
        peer: SpiffeId,
        /// Whom we take.
        ours: TrustDomain,
    },
    /// Not one of those we meant to talk to.
    #[error("the peer is {found:?}, want one of {expected:?}")]
    Unexpected {
        /// URI names of the certificate.
        found: Vec<String>,
        /// Any of these would have done.
        expected: Vec<ArcStr>,
    },
}

/// The one SPIFFE identity among the certificate's URI names; other names are passed over.
///
/// # Errors
/// The certificate is malformed, or names no workload or several.
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
    let uris = uri_names(certificate)?;
    let mut identities = uris.iter().filter_map(|uri| uri.parse::<SpiffeId>().ok());
    match (identities.next(), identities.count()) {
        (Some(identity), 0) => Ok(identity),
        (Some(_), more) => Err(PeerError::SeveralIdentities(more + 1)),
        (None, _) => Err(PeerError::NoIdentity(uris)),
    }
}

/// The identity of the first of a verified chain.
///
/// # Errors
/// As [`spiffe_id`], or the chain is empty.
pub fn chain_identity(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    spiffe_id(chain.first().ok_or(PeerError::NoCertificate)?)
}

/// Every URI among the certificate's subject alternative names.
///
/// # Errors
/// The certificate, or its list of names, is malformed.
pub fn uri_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, PeerError> {
    let certificate = parse(certificate)?;
    let names =
        certificate.subject_alternative_name().map_err(|e| PeerError::Malformed(Box::new(e)))?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    Ok(names.iter().filter_map(uri).collect())
}

/// Until when a chain is valid, all of it, and since when its first is; what cannot be read is not.
pub fn validity(chain: &[CertificateDer<'_>]) -> Validity {
    let read = |der| parse(der).ok().map(|parsed| parsed.validity().clone());
    let all = chain.iter().map(|certificate| read(certificate).map(|v| moment(v.not_after)));
    let until = all.map(|until| until.unwrap_or(UNIX_EPOCH)).min().unwrap_or(UNIX_EPOCH);
    let first = chain.first().and_then(read);
    Validity { since: first.map_or(UNIX_EPOCH, |first| moment(first.not_before)), until }
}

/// When a chain is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its beginning.
    pub since: SystemTime,
    /// Its end.
    pub until: SystemTime,
}

fn moment(at: x509_parser::time::ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or(0))
}

/// Reads a certificate.
pub(super) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(PeerError::Malformed(Box::new(error))),
    }
}
