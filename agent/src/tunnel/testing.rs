//! Certificates, permits, connections and a far end for this module's tests.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

use super::accept::{Incoming, accept};
use super::account::{Account, Budget, Share};
use super::chain::Trust;
use super::connect::ConnectRequest;
use super::driver::Terms;
use super::limits::Limits;
use super::pool::{Caller, PoolKey};
use super::tls::ALPN;
use crate::authorize::{Decision, Permit, Request, decide};
use crate::mesh::{Mesh, PodUid, SpiffeId, Workload};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs a test on a `LocalSet`, no longer than a minute: other tests may have the machine.
pub(super) async fn local<F: Future>(test: F) -> F::Output {
    let set = tokio::task::LocalSet::new();
    let patience = Duration::from_secs(60);
    set.run_until(tokio::time::timeout(patience, test)).await.expect("the test hangs")
}

/// Mutual TLS under one root, by address.
pub(super) struct Pki {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(super) fn new() -> Self {
        Self::with(aes_gcm())
    }

    /// With this cryptography.
    pub(super) fn with(provider: Arc<CryptoProvider>) -> Self {
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
        server.enable_secret_extraction = true;
        let client = client(&provider, &roots, &issuer, &[ALPN]);
        Self { server: Arc::new(server), client, provider, roots, issuer }
    }

    /// A client with a new certificate.
    pub(super) fn client(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        client(&self.provider, &self.roots, &self.issuer, protocols)
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    issuer: &Issuer<'static, KeyPair>,
    protocols: &[&[u8]],
) -> Arc<ClientConfig> {
    let (chain, key) = leaf(issuer);
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain, key)
        .unwrap();
    client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    client.enable_secret_extraction = true;
    Arc::new(client)
}

/// AES-GCM, as tunnels have it.
fn aes_gcm() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn leaf(
    issuer: &Issuer<'static, KeyPair>,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(LOCALHOST)];
    let chain = vec![params.signed_by(&key, issuer).unwrap().der().clone()];
    (chain, key.serialize_der().try_into().unwrap())
}

/// What `authorize` gives where no policy is.
pub(super) fn permit() -> Permit {
    let workload = Workload::pod("c", "ns", "pod", "sa", LOCALHOST).unwrap();
    let destination = SocketAddr::new(LOCALHOST, 80);
    let request = Request { source_ip: LOCALHOST, source: None, destination };
    match decide(&Mesh::default(), &workload, &request) {
        Decision::Allow(permit) => permit,
        other => panic!("no policy denies: {other:?}"),
    }
}

/// Of a pod that may hold what it likes.
pub(super) fn unbounded() -> Rc<Account> {
    Account::new(Share::new(&Budget::new(usize::MAX)))
}

/// A tunnel of such a pod.
pub(super) fn terms(drain: CancellationToken) -> Terms {
    Terms { account: unbounded(), trust: Trust::default(), drain, abort: CancellationToken::new() }
}

/// As such a pod.
pub(super) fn caller(tls: Arc<ClientConfig>) -> Caller {
    Caller { tls, trust: Trust::default(), account: unbounded() }
}

/// Two ends of a connection.
pub(super) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

pub(super) fn request() -> ConnectRequest {
    ConnectRequest { authority: "10.0.0.1:80".to_owned(), headers: http::HeaderMap::new() }
}

/// To this far end.
pub(super) fn key(gateway: SocketAddr) -> PoolKey {
    PoolKey {
        source: SpiffeId::new("cluster.local", "ns", "sa").unwrap(),
        pod: PodUid("uid".into()),
        gateway,
        expected: Vec::new(),
        alone: None,
    }
}

/// The far end of tunnels.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    /// Tunnels accepted so far.
    pub(super) tunnels: Rc<Cell<usize>>,
    /// Cancelled, the present tunnels drain; replaced for the next ones.
    pub(super) stop: Rc<Cell<CancellationToken>>,
}

impl Gateway {
    /// Accepts tunnels, and gives each stream to `handle`.
    pub(super) async fn start(
        pki: &Pki,
        limits: Limits,
        handle: impl Fn(Incoming) + Clone + 'static,
    ) -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tunnels = Rc::new(Cell::new(0));
        let stop = Rc::new(Cell::new(CancellationToken::new()));
        let (server, count, stopping) =
            (Arc::clone(&pki.server), Rc::clone(&tunnels), Rc::clone(&stop));
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                let token = stopping.take();
                stopping.set(token.clone());
                let (limits, handle) = (limits.clone(), handle.clone());
                let tls = Arc::clone(&server);
                spawn_local(async move {
                    let Ok(mut server) = accept(tcp, tls, &limits, terms(token)).await else {
                        return;
                    };
                    while let Some(incoming) = server.next().await {
                        handle(incoming);
                    }
                });
            }
        });
        Self { address, tunnels, stop }
    }

    /// The present tunnels say GOAWAY; the next ones are served.
    pub(super) fn go_away(&self) {
        self.stop.replace(CancellationToken::new()).cancel();
    }

    pub(super) fn key(&self) -> PoolKey {
        key(self.address)
    }

    pub(super) fn dial(&self) -> impl Future<Output = io::Result<TcpStream>> + use<> {
        TcpStream::connect(self.address)
    }
}
