//! TLS configurations of a tunnel's two ends.
//!
//! TLS 1.3 only, AES-GCM only, the post-quantum hybrid offered first, `h2` the only protocol, no
//! server name, and no resumption: a resumed session would outlive a change of roots or identity.
//! Secrets may be extracted: `tunnel` can do the records itself.

use std::sync::Arc;

use arcstr::ArcStr;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, version};

use super::clock::{Clock, TlsClock};
use super::revocation::Revocations;
use super::verify::{ExpectedPeerVerifier, TrustDomainVerifier};
use crate::mesh::TrustDomain;

pub use super::crypto::provider;

/// The application protocol of a tunnel.
pub const ALPN: &[u8] = b"h2";

/// The accepting end: a client's certificate is mandatory, and of `trust_domain`.
///
/// # Errors
/// There are no roots.
pub(super) fn server_config(
    certificate: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    revocations: Revocations,
) -> Result<ServerConfig, Error> {
    let verifier = TrustDomainVerifier::new(roots, trust_domain, revocations)?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(TlsClock(clock)))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Ok(config)
}

/// The dialling end, expecting nobody yet: see [`expecting`].
///
/// # Errors
/// The provider lacks TLS 1.3.
pub(super) fn client_config(
    certificate: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, Error> {
    // Nobody is expected, so nobody passes.
    let nobody = ExpectedPeerVerifier::new(roots, Vec::new(), Revocations::default());
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(TlsClock(clock)))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_secret_extraction = true;
    Ok(config)
}

/// The same dialling end, which takes only a peer with one of the `expected` URIs.
pub(super) fn expecting(
    config: &ClientConfig,
    roots: Arc<RootCertStore>,
    expected: &[ArcStr],
    revocations: Revocations,
) -> ClientConfig {
    let mut config = config.clone();
    let verifier = ExpectedPeerVerifier::new(roots, expected.to_vec(), revocations);
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    config
}
