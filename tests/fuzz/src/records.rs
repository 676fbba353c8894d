//! Sessions of ours with rustls at the other end: what each says arrives, whenever who goes on with ours is another, and
//! whatever comes instead of a record ends it.
//!
//! Also part of the agent's tests, which replay the corpus.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig, version};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::tunnel::tls::{self, ALPN, Frozen, RecordLayer, Session};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Key updates without data between them that rustls asks for: of more, ours takes the peer for a hostile one.
const UPDATES: u8 = 20;
/// What may be said at once, in bytes.
const LONGEST: usize = 40_000;

/// Both ends' configurations, and what runs handshakes.
pub struct Ends {
    runtime: tokio::runtime::Runtime,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Default for Ends {
    fn default() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(LOCALHOST)];
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let key = || key.serialize_der().try_into().expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let roots = Arc::new(roots);
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..aws_lc_rs::default_provider()
        });
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![certificate.clone()], key())
            .expect("a server");
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key())
            .expect("a client");
        server.alpn_protocols = vec![ALPN.to_vec()];
        client.alpn_protocols = vec![ALPN.to_vec()];
        (server.enable_secret_extraction, client.enable_secret_extraction) = (true, true);
        // They would be left in the sockets of the handshake.
        server.send_tls13_tickets = 0;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        Self {
            runtime: runtime.expect("a runtime"),
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }
}

impl Ends {
    /// Our session and rustls' connection; ours is the client's if `dials`.
    fn pair(&self, dials: bool) -> Pair {
        self.runtime.block_on(async {
            let listener = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
            let to = listener.local_addr().expect("a port");
            let (near, far) = tokio::join!(TcpStream::connect(to), listener.accept());
            let (mut near, (far, _)) = (near.expect("connected"), far.expect("accepted"));
            let (layer, name) = (RecordLayer::Own, LOCALHOST.into());
            let (ours, theirs) = if dials {
                let accept = TlsAcceptor::from(Arc::clone(&self.server)).accept(far);
                let connect = tls::connect(&mut near, Arc::clone(&self.client), name, layer);
                let (ours, theirs) = tokio::join!(connect, accept);
                (ours, Connection::from(theirs.expect("shaken").into_inner().1))
            } else {
                let connect = TlsConnector::from(Arc::clone(&self.client)).connect(name, far);
                let accept = tls::accept(&mut near, Arc::clone(&self.server), layer);
                let (ours, theirs) = tokio::join!(accept, connect);
                (ours, Connection::from(theirs.expect("shaken").into_inner().1))
            };
            let ours = ours.expect("shaken");
            let mut theirs = theirs;
            theirs.set_buffer_limit(None);
            Pair { ours: ours.session, theirs, wire: ours.rest, received: Vec::new() }
        })
    }
}

struct Pair {
    ours: Session,
    theirs: Connection,
    /// What came to us, and is not opened.
    wire: Vec<u8>,
    received: Vec<u8>,
}

impl Pair {
    /// What rustls has to say comes to us, but for the last `behind` bytes.
    fn deliver(&mut self, behind: usize) -> Result<(), rustls::Error> {
        while self.theirs.wants_write() {
            self.theirs.write_tls(&mut self.wire).expect("into memory");
        }
        let late = self.wire.split_off(self.wire.len().saturating_sub(behind));
        let opened = self.ours.open(&mut self.wire)?;
        self.received.extend_from_slice(&self.wire[..opened.plain]);
        self.wire.drain(..opened.consumed);
        self.wire.extend(late);
        Ok(())
    }

    fn up(&mut self, plain: &[u8]) {
        let mut wire = Vec::new();
        self.ours.seal(plain, &mut wire).expect("it has not ended");
        let mut heard = Vec::new();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            self.theirs.read_tls(&mut rest).expect("from memory");
            let state = self.theirs.process_new_packets().expect("rustls takes it");
            let start = heard.len();
            heard.resize(start + state.plaintext_bytes_to_read(), 0);
            let mut reader = self.theirs.reader();
            std::io::Read::read_exact(&mut reader, &mut heard[start..]).expect("it is there");
        }
        assert!(heard == plain, "{} bytes came of {}", heard.len(), plain.len());
    }

    fn down(&mut self, plain: &[u8]) {
        let written = std::io::Write::write_all(&mut self.theirs.writer(), plain);
        written.expect("into memory");
    }

    /// Goes on from the bytes alone; whatever else they are damaged to is a session or an error.
    fn hand_over(self, damage: [u8; 2]) -> Self {
        let Ok(frozen) = self.ours.freeze() else { panic!("it has not failed") };
        let bytes = frozen.as_bytes().to_vec();
        let mut other = bytes.clone();
        let at = usize::from(damage[0]) % other.len();
        other[at] ^= damage[1];
        if let Ok(mut session) = Session::thaw(&Frozen::from_bytes(other.into())) {
            session.seal(b"lost", &mut Vec::new()).ok();
        }
        let ours = Session::thaw(&Frozen::from_bytes(bytes.into())).expect("it is one");
        Self { ours, ..self }
    }
}

/// The first byte says who dials; each three after it are one step.
pub fn records(ends: &Ends, data: &[u8]) {
    let Some((first, steps)) = data.split_first() else { return };
    let mut pair = ends.pair(first % 2 == 0);
    let mut said = Vec::new();
    let mut updates = 0;
    for step in steps.as_chunks::<3>().0 {
        let [kind, one, other] = *step;
        let length = usize::from(u16::from_be_bytes([one, other])) % LONGEST;
        let plain = vec![kind; length];
        match kind % 7 {
            0 => pair.up(&plain),
            1 => {
                pair.down(&plain);
                said.extend(plain);
                updates = if length > 0 { 0 } else { updates };
            }
            2 if updates < UPDATES => {
                updates += 1;
                pair.theirs.refresh_traffic_keys().expect("its handshake is over");
            }
            2 => {}
            3 => pair.deliver(length).expect("it is rustls' own"),
            4 | 5 => pair = pair.hand_over([one, other]),
            // Not rustls': it may be waited for, and is never taken for its own.
            _ => {
                pair.deliver(0).expect("it is rustls' own");
                pair.wire.extend_from_slice(&[23, 3, 3, 0, 17 + one % 8]);
                pair.wire.extend(std::iter::repeat_n(other, 30));
                pair.deliver(0).expect_err("it was sealed by nobody");
                pair.ours.seal(b"more", &mut Vec::new()).expect_err("it has ended");
                break;
            }
        }
    }
    if pair.ours.seal(b"", &mut Vec::new()).is_ok() {
        pair.deliver(0).expect("it is rustls' own");
    }
    assert!(pair.received == said, "{} bytes came of {}", pair.received.len(), said.len());
}
