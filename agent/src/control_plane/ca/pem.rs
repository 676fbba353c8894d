//! Certificates in PEM (RFC 7468): read strictly, written anew, so that nothing else that stood beside them is published.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject as _, SectionKind};

/// Why a text is no list of certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It cannot be read.
    #[error("is malformed: {0}")]
    Malformed(String),
    /// It holds none.
    #[error("holds no certificate")]
    Empty,
    /// It holds something else, too.
    #[error("holds {0}, and must hold nothing but certificates")]
    Foreign(&'static str),
}

/// The certificates of a text, one at least. Text between them does not count.
///
/// # Errors
/// There is none, or something else.
pub(super) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found = optional(text)?;
    if found.is_empty() { Err(PemError::Empty) } else { Ok(found) }
}

/// The certificates of a text that may hold none.
///
/// # Errors
/// It holds something else.
pub(super) fn optional(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes());
    let certificate = |section: Result<(SectionKind, Vec<u8>), _>| match section {
        Ok((SectionKind::Certificate, der)) => Ok(CertificateDer::from(der)),
        Ok((
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey,
            _,
        )) => Err(PemError::Foreign("a private key")),
        Ok(_) => Err(PemError::Foreign("something else")),
        Err(error) => Err(PemError::Malformed(format!("{error:?}"))),
    };
    sections.map(certificate).collect()
}

/// A certificate as PEM, 64 characters a line.
pub(super) fn encode(der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), lines)
}
