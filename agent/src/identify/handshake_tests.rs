//! Who gets through a handshake, at either end.

use crate::identify::Revocations;
use std::io;
use std::sync::Arc;

use arcstr::ArcStr;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, NamedGroup, RootCertStore, ServerConfig, version};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::clock::{Clock as _, SystemClock};
use super::peer;
use super::svid::{Svid, SvidError};
use super::testing::{DAY, TestCa, identity};
use super::tls;

const SERVER: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";
const CLIENT: &str = "spiffe://cluster.local/ns/bookinfo/sa/productpage";

/// What each end thinks of the other: a client of TLS 1.3 learns the server's verdict with the
/// first byte it reads.
async fn shake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (Result<String, String>, Result<(), String>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let accept = async {
        let mut tls = TlsAcceptor::from(server).accept(far).await?;
        let chain = tls.get_ref().1.peer_certificates().unwrap().to_vec();
        tls.write_all(b"!").await?;
        tls.shutdown().await?;
        Ok::<_, io::Error>(peer::chain_identity(&chain).unwrap().to_string())
    };
    let connect = async {
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let mut tls = TlsConnector::from(client).connect(name, near).await?;
        let session = tls.get_ref().1;
        let group = session.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        let suite = session.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(session.alpn_protocol(), Some(tls::ALPN));
        tls.read_u8().await?;
        assert_eq!(tls.get_ref().1.tls13_tickets_received(), 0);
        Ok::<_, io::Error>(())
    };
    let (server, client) = tokio::join!(accept, connect);
    (server.map_err(|e| e.to_string()), client.map_err(|e| e.to_string()))
}

fn svid(ca: &TestCa, id: &str) -> Svid {
    ca.svid(id, Arc::new(SystemClock))
}

fn expecting(svid: &Svid, expected: &[&str]) -> Arc<ClientConfig> {
    let expected: Vec<_> = expected.iter().map(|uri| ArcStr::from(*uri)).collect();
    svid.client_config(&expected)
}

#[tokio::test]
async fn two_workloads_of_the_mesh_trust_each_other() {
    let ca = TestCa::new();
    let client = expecting(&svid(&ca, CLIENT), &["spiffe://cluster.local/ns/x/sa/y", SERVER]);
    let (server, client) = shake(svid(&ca, SERVER).server_config(), client).await;
    assert_eq!(server.unwrap(), CLIENT);
    client.unwrap();
}

#[tokio::test]
async fn another_workload_in_the_servers_place_is_refused() {
    let ca = TestCa::new();
    for expected in [&["spiffe://cluster.local/ns/bookinfo/sa/ratings"][..], &[]] {
        let client = expecting(&svid(&ca, CLIENT), expected);
        let (server, client) = shake(svid(&ca, SERVER).server_config(), client).await;
        server.unwrap_err();
        let why = client.unwrap_err();
        assert!(why.contains("sa/reviews"), "{why}");
    }
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let ca = TestCa::new();
    let stranger = svid(&ca, "spiffe://elsewhere/ns/bookinfo/sa/productpage");
    let client = expecting(&stranger, &[SERVER]);
    let (server, client) = shake(svid(&ca, SERVER).server_config(), client).await;
    let why = server.unwrap_err();
    assert!(why.contains("not of our trust domain"), "{why}");
    client.unwrap_err();
}

#[tokio::test]
async fn a_client_of_another_root_is_refused() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let server = svid(&ca, SERVER).server_config();
    let (server, client) = shake(server, expecting(&svid(&other, CLIENT), &[SERVER])).await;
    server.unwrap_err();
    client.unwrap_err();
}

/// As where istiod, or cert-manager before it, signs below a root that is kept elsewhere.
#[tokio::test]
async fn workloads_of_different_authorities_below_one_root_trust_each_other() {
    let root = TestCa::new();
    let (one, other) = (root.below(), root.below().below());
    for (server, client) in [(&one, &other), (&other, &one), (&one, &root)] {
        let client = expecting(&svid(client, CLIENT), &[SERVER]);
        let (server, client) = shake(svid(server, SERVER).server_config(), client).await;
        assert_eq!(server.unwrap(), CLIENT);
        client.unwrap();
    }
    let stranger = expecting(&svid(&TestCa::new().below(), CLIENT), &[SERVER]);
    let (server, _) = shake(svid(&one, SERVER).server_config(), stranger).await;
    server.unwrap_err();
}

#[tokio::test]
async fn any_root_of_the_bundle_will_do() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let with_both = |ca: &TestCa, id: &str| {
        let mut issued = ca.issue(&[id], SystemClock.now(), DAY);
        issued.roots = vec![old.root.clone(), new.root.clone()];
        Svid::new(&identity(id), issued, Arc::new(SystemClock), Revocations::default()).unwrap()
    };
    let client = expecting(&with_both(&new, CLIENT), &[SERVER]);
    let (server, client) = shake(with_both(&old, SERVER).server_config(), client).await;
    assert_eq!(server.unwrap(), CLIENT);
    client.unwrap();
}

/// A client that holds the mesh's root but lacks what a test takes away.
fn raw_client(ca: &TestCa) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.root.clone()).unwrap();
    let verifier = super::verify::ExpectedPeerVerifier::new(
        Arc::new(roots),
        vec![SERVER.into()],
        Revocations::default(),
    );
    ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
}

#[tokio::test]
async fn a_client_without_certificate_is_told_so() {
    let ca = TestCa::new();
    let mut client = raw_client(&ca).with_no_client_auth();
    client.alpn_protocols = vec![tls::ALPN.to_vec()];
    let (server, client) = shake(svid(&ca, SERVER).server_config(), Arc::new(client)).await;
    server.unwrap_err();
    let why = client.unwrap_err();
    assert!(why.contains("CertificateRequired"), "{why}");
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let ca = TestCa::new();
    let mut client = raw_client(&ca).with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (server, client) = shake(svid(&ca, SERVER).server_config(), Arc::new(client)).await;
    server.unwrap_err();
    let why = client.unwrap_err();
    assert!(why.contains("NoApplicationProtocol"), "{why}");
}

#[tokio::test]
async fn tls_12_is_refused() {
    let ca = TestCa::new();
    let mut roots = RootCertStore::empty();
    roots.add(ca.root.clone()).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (server, client) = shake(svid(&ca, SERVER).server_config(), Arc::new(old)).await;
    server.unwrap_err();
    let why = client.unwrap_err();
    assert!(why.contains("ProtocolVersion"), "{why}");
}

#[tokio::test]
async fn one_spiffe_identity_among_the_names_and_no_more() {
    let ca = TestCa::new();
    let now = SystemClock.now();
    let issue = |uris: &[&str]| {
        let issued = ca.issue(uris, now, DAY);
        Svid::new(&identity(CLIENT), issued, Arc::new(SystemClock), Revocations::default())
    };
    let client = issue(&["https://example.com", CLIENT]).unwrap();
    let server = svid(&ca, SERVER).server_config();
    let (server, _) = shake(server, expecting(&client, &[SERVER])).await;
    assert_eq!(server.unwrap(), CLIENT);
    for uris in [&[CLIENT, SERVER][..], &["https://example.com"], &[]] {
        assert!(matches!(issue(uris), Err(SvidError::Unreadable(_))), "{uris:?}");
    }
}

#[tokio::test]
async fn an_expired_client_is_refused() {
    let ca = TestCa::new();
    let past = SystemClock.now() - 2 * DAY;
    #[derive(Debug)]
    struct Past(std::time::SystemTime);
    impl super::clock::Clock for Past {
        fn now(&self) -> std::time::SystemTime {
            self.0
        }
    }
    let issued = ca.issue(&[CLIENT], past, DAY);
    // Its own clock stands still, so that it finds itself valid.
    let client =
        Svid::new(&identity(CLIENT), issued, Arc::new(Past(past)), Revocations::default()).unwrap();
    let current = ca.issue(&[SERVER], past, 10 * DAY);
    let server =
        Svid::new(&identity(SERVER), current, Arc::new(SystemClock), Revocations::default())
            .unwrap();
    let (server, client) = shake(server.server_config(), expecting(&client, &[SERVER])).await;
    let why = server.unwrap_err();
    assert!(why.contains("expired"), "{why}");
    client.unwrap_err();
}

#[test]
fn what_a_ca_issued_is_checked_before_use() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let now = SystemClock.now();
    let check = |issued| {
        Svid::new(&identity(SERVER), issued, Arc::new(SystemClock), Revocations::default())
            .unwrap_err()
    };
    let good = || ca.issue(&[SERVER], now, DAY);

    let wrong_identity = ca.issue(&[CLIENT], now, DAY);
    assert!(matches!(check(wrong_identity), SvidError::WrongIdentity { .. }));
    let mut wrong_key = good();
    wrong_key.key = good().key;
    assert!(matches!(check(wrong_key), SvidError::WrongKey(_)));
    let mut wrong_root = good();
    wrong_root.roots = vec![other.root.clone()];
    assert!(matches!(check(wrong_root), SvidError::Unverified(_)));
    let mut no_root = good();
    no_root.roots = vec![vec![1, 2, 3].into()];
    assert!(matches!(check(no_root), SvidError::NoRoots));
    let expired = ca.issue(&[SERVER], now - 2 * DAY, DAY);
    assert!(matches!(check(expired), SvidError::Unverified(_)));
    let mut garbage = good();
    garbage.chain = vec![vec![0x30, 0x80].into()];
    assert!(matches!(check(garbage), SvidError::Unreadable(_)));
}

#[test]
fn configurations_are_made_once_for_each_list() {
    let svid = svid(&TestCa::new(), SERVER);
    let first = expecting(&svid, &[CLIENT]);
    assert!(Arc::ptr_eq(&first, &expecting(&svid, &[CLIENT])));
    assert!(!Arc::ptr_eq(&first, &expecting(&svid, &[SERVER])));
    assert!(Arc::ptr_eq(&svid.server_config(), &svid.server_config()));
}

#[test]
fn no_key_is_printed() {
    let ca = TestCa::new();
    let issued = ca.issue(&[SERVER], SystemClock.now(), DAY);
    assert_eq!(format!("{issued:?}"), "Issued { chain: 1, .. }");
    let svid = format!("{:?}", svid(&ca, SERVER));
    assert!(svid.starts_with("Svid { identity:") && svid.ends_with(", .. }"), "{svid}");
}
