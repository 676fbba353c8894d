//! A key, and the request for a certificate over it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use zeroize::{Zeroize, Zeroizing};

use crate::mesh::SpiffeId;

/// A fresh P-256 key and its signing request.
pub(super) struct Request {
    /// PEM.
    pub(super) csr: String,
    /// PKCS #8 DER, wiped when dropped.
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl Request {
    /// A request for `identity`: empty subject, the identity as critical URI name.
    ///
    /// # Errors
    /// The identity is not ASCII, or the machine has no randomness.
    pub(super) fn new(identity: &SpiffeId) -> Result<Self, rcgen::Error> {
        let mut pair = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Without a subject rcgen marks the names critical, as RFC 5280 4.2.1.6 wants.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        let csr = params.serialize_request(&pair).and_then(|request| request.pem());
        let key = Zeroizing::new(pair.serialize_der());
        pair.zeroize();
        Ok(Self { csr: csr?, key })
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::pem::parse_x509_pem;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn asks_for_one_critical_uri_and_no_subject() {
        let identity = SpiffeId::new("cluster.local", "bookinfo", "reviews").unwrap();
        let request = Request::new(&identity).unwrap();
        let (_, pem) = parse_x509_pem(request.csr.as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
        let names: Vec<_> = csr.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = names[..] else {
            panic!("want the names and nothing else, got {names:?}");
        };
        assert_eq!(names.general_names, [GeneralName::URI(&identity.to_string())]);
        csr.verify_signature().unwrap();
    }
}
