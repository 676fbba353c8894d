//! The API server's own CA and certificate.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The names every API server has.
const NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// What clients trust, and how the server shows itself.
#[derive(Debug)]
pub(super) struct Identity {
    /// The CA's certificate.
    pub ca_pem: String,
    /// HTTP/1.1 over TLS 1.3.
    pub config: Arc<ServerConfig>,
}

/// Makes a CA and a certificate for these names and addresses, and those every API server has.
///
/// # Errors
/// A name that cannot be in a certificate.
pub(super) fn identity(sans: &[String], addresses: &[IpAddr]) -> anyhow::Result<Identity> {
    let ca_key = KeyPair::generate().context("make the CA's key")?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "pocket-kubernetes");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key).context("sign the CA")?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let mut names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    names.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
    names.extend(addresses.iter().filter(|a| !a.is_unspecified()).map(IpAddr::to_string));
    names.extend(sans.iter().cloned());
    names.sort();
    names.dedup();
    let mut params = CertificateParams::new(names).context("names of the certificate")?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().context("make the server's key")?;
    let certificate = params.signed_by(&key, &issuer).context("sign the server's certificate")?;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("choose TLS 1.3")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("use the certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity { ca_pem, config: Arc::new(config) })
}
