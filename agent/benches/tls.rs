//! What records cost: rustls' and our own, side by side.

#![expect(clippy::unwrap_used, reason = "certificates made here, and a connection to ourselves")]

use std::sync::{Arc, LazyLock};

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sotto::tunnel::tls::{ALPN, RecordLayer, Session, accept, connect};
use tokio::net::{TcpListener, TcpStream};

const LAYERS: [RecordLayer; 2] = [RecordLayer::Rustls, RecordLayer::Own];
const ADDRESS: &str = "127.0.0.1";

fn main() {
    divan::main();
}

#[divan::bench(args = LAYERS)]
fn seal_64_bytes(bencher: Bencher<'_, '_>, layer: &RecordLayer) {
    seal(bencher, *layer, 64);
}

#[divan::bench(args = LAYERS)]
fn seal_1_mib(bencher: Bencher<'_, '_>, layer: &RecordLayer) {
    seal(bencher, *layer, 1 << 20);
}

#[divan::bench(args = LAYERS)]
fn open_64_bytes(bencher: Bencher<'_, '_>, layer: &RecordLayer) {
    open(bencher, *layer, 64);
}

#[divan::bench(args = LAYERS)]
fn open_1_mib(bencher: Bencher<'_, '_>, layer: &RecordLayer) {
    open(bencher, *layer, 1 << 20);
}

#[divan::bench(args = LAYERS)]
fn handshake(bencher: Bencher<'_, '_>, layer: &RecordLayer) {
    bencher.bench_local(|| sessions(*layer));
}

fn seal(bencher: Bencher<'_, '_>, layer: RecordLayer, length: usize) {
    let [mut session, _] = sessions(layer);
    let (plain, mut wire) = (vec![7; length], Vec::new());
    bencher.counter(BytesCount::new(length)).bench_local(|| {
        wire.clear();
        session.seal(black_box(&plain), &mut wire).unwrap();
    });
}

fn open(bencher: Bencher<'_, '_>, layer: RecordLayer, length: usize) {
    let [mut from, mut to] = sessions(layer);
    let plain = vec![7; length];
    bencher
        .counter(BytesCount::new(length))
        .with_inputs(|| {
            let mut wire = Vec::new();
            from.seal(&plain, &mut wire).unwrap();
            wire
        })
        .bench_local_refs(|wire| assert_eq!(to.open(wire).unwrap().plain, length));
}

/// The client's and the server's.
fn sessions(layer: RecordLayer) -> [Session; 2] {
    static CONFIGS: LazyLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = LazyLock::new(configs);
    let (client, server) = &*CONFIGS;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((ADDRESS, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
        let name = ServerName::try_from(ADDRESS).unwrap();
        let (client, server) = tokio::join!(
            connect(&mut near, Arc::clone(client), name, layer),
            accept(&mut far, Arc::clone(server), layer),
        );
        [client.unwrap().session, server.unwrap().session]
    })
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        ..aws_lc_rs::default_provider()
    });
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut roots = RootCertStore::empty();
    roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
    let (roots, issuer) = (Arc::new(roots), Issuer::new(params, key));
    let verifier = WebPkiClientVerifier::builder(Arc::clone(&roots)).build().unwrap();
    let (chain, key) = leaf(&issuer);
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;
    server.enable_secret_extraction = true;
    let (chain, key) = leaf(&issuer);
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.enable_secret_extraction = true;
    (Arc::new(client), Arc::new(server))
}

fn leaf(
    issuer: &Issuer<'static, KeyPair>,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(ADDRESS.parse().unwrap())];
    let chain = vec![params.signed_by(&key, issuer).unwrap().der().clone()];
    (chain, key.serialize_der().try_into().unwrap())
}
