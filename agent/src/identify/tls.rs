//! TLS configurations of a tunnel's two ends.
//!
//! TLS 1.3 only, AES-GCM only, the post-quantum hybrid offered first, `h2` the only protocol, no
//! server name, and no resumption: a resumed session would outlive a change of roots or identity.
//! Secrets may be extracted: `tunnel` can do the records itself.

use std::sync::{Arc, LazyLock};

use arcstr::ArcStr;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, version};

use super::clock::{Clock, TlsClock};
use super::verify::{ExpectedPeerVerifier, TrustDomainVerifier};

/// The application protocol of a tunnel.
pub const ALPN: &[u8] = b"h2";

/// The cryptography of every tunnel.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
                aws_lc_rs::kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

/// The accepting end: a client's certificate is mandatory, and of `trust_domain`.
///
/// # Errors
/// There are no roots.
pub(super) fn server_config(
    certificate: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    trust_domain: ArcStr,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, Error> {
    let verifier = TrustDomainVerifier::new(roots, trust_domain)?;
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
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(TlsClock(clock)))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectedPeerVerifier::new(roots, Vec::new())))
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
) -> ClientConfig {
    let mut config = config.clone();
    let verifier = ExpectedPeerVerifier::new(roots, expected.to_vec());
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    config
}
