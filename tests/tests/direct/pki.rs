//! Mutual TLS under one root, by address.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
};
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sotto::identify::tls::provider;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Both ends' configurations.
#[derive(Clone)]
pub(crate) struct Pki {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    issuer: Arc<Issuer<'static, KeyPair>>,
    root: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        let root = params.self_signed(&key).unwrap();
        roots.add(root.der().clone()).unwrap();
        let (roots, issuer) = (Arc::new(roots), Issuer::new(params, key));
        let verifier = WebPkiClientVerifier::builder(Arc::clone(&roots)).build().unwrap();
        let (chain, key) = leaf(&issuer);
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        // As in the mesh: no session outlives its connection.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.enable_secret_extraction = true;
        let (chain, key) = leaf(&issuer);
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        let (server, client) = (Arc::new(server), Arc::new(client));
        Self { server, client, issuer: Arc::new(issuer), root: root.pem() }
    }

    /// Writes the root and another's certificate and key as PEM: `root.pem`, `leaf.pem`, `leaf-key.pem`.
    pub(crate) fn write_leaf(&self, dir: &Path) {
        let key = KeyPair::generate().unwrap();
        let leaf = of_localhost().signed_by(&key, &self.issuer).unwrap();
        let files = [
            ("root.pem", self.root.clone()),
            ("leaf.pem", leaf.pem()),
            ("leaf-key.pem", key.serialize_pem()),
        ];
        files.iter().for_each(|(name, pem)| std::fs::write(dir.join(name), pem).unwrap());
    }
}

fn leaf(
    issuer: &Issuer<'static, KeyPair>,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let chain = vec![of_localhost().signed_by(&key, issuer).unwrap().der().clone()];
    (chain, key.serialize_der().try_into().unwrap())
}

fn of_localhost() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(LOCALHOST)];
    // Not its issuer's: OpenSSL would take it for its own issuer.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params
}
