//! Verifiers of a peer's certificate, for either end of a tunnel.
//!
//! Both demand a chain to one of the mesh's roots, of which nothing was taken back. The server then takes any workload of its own
//! trust domain (what it may do is for `authorize` to say); the client takes only the workloads it
//! meant to reach. No DNS name plays a part.

use std::fmt;
use std::sync::Arc;

use arcstr::ArcStr;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::crypto::provider;
use super::peer::{self, PeerError};
use super::revocation::{PeerEnd, Revocations};
use crate::mesh::TrustDomain;

/// Takes clients of one trust domain, whose chain ends in one of the roots.
pub struct TrustDomainVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    revocations: Revocations,
    trust_domain: TrustDomain,
}

impl TrustDomainVerifier {
    /// A verifier for the given roots.
    ///
    /// # Errors
    /// There are no roots.
    pub fn new(
        roots: Arc<RootCertStore>,
        trust_domain: TrustDomain,
        revocations: Revocations,
    ) -> Result<Self, Error> {
        let of_chain = Arc::clone(&roots);
        let chain = WebPkiClientVerifier::builder_with_provider(of_chain, provider())
            // Naming our roots in the handshake would cost bytes and tell strangers about us.
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { chain, roots, revocations, trust_domain })
    }
}

impl fmt::Debug for TrustDomainVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TrustDomainVerifier").field(&self.trust_domain).finish()
    }
}

impl ClientCertVerifier for TrustDomainVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let chain = (end_entity, intermediates);
        self.revocations.check(chain, &self.roots, PeerEnd::Client, now)?;
        let peer = peer::spiffe_id(end_entity).map_err(rejection)?;
        if *peer.trust_domain() == self.trust_domain {
            Ok(verified)
        } else {
            Err(rejection(PeerError::TrustDomain { peer, ours: self.trust_domain.clone() }))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Takes a server that has one of the expected URI names; an empty list takes none.
#[derive(Debug)]
pub struct ExpectedPeerVerifier {
    roots: Arc<RootCertStore>,
    revocations: Revocations,
    expected: Vec<ArcStr>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ExpectedPeerVerifier {
    /// A verifier for the given roots and SPIFFE URIs.
    pub fn new(roots: Arc<RootCertStore>, expected: Vec<ArcStr>, revocations: Revocations) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { roots, revocations, expected, algorithms }
    }
}

impl ServerCertVerifier for ExpectedPeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let chain = (end_entity, intermediates);
        self.revocations.check(chain, &self.roots, PeerEnd::Server, now)?;
        let found = peer::uri_names(end_entity).map_err(rejection)?;
        if found.iter().any(|uri| self.expected.iter().any(|expected| expected == uri)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rejection(PeerError::Unexpected { found, expected: self.expected.clone() }))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A [`PeerError`] as rustls carries it: rustls prints the `Debug` form to the user.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Rejection(PeerError);

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn rejection(why: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Rejection(why)))))
}

fn only_tls13() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}
