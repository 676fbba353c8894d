//! Abuse below HTTP/2: records sealed by hand with the session's own keys.

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion};

use super::frames::*;
use super::peer::dial;
use super::*;
use crate::local;

/// Seals whatever it likes.
struct Forger {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    /// A session of which the handshake alone was honest.
    async fn dial(stand: &Stand) -> (TcpStream, Self) {
        let mut pki = stand.pki.clone();
        std::sync::Arc::make_mut(&mut pki.client).enable_secret_extraction = true;
        let tls = dial(&pki, stand.gateway.address).await;
        let (tcp, session) = tls.into_inner();
        let (sequence, secrets) = session.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
            panic!("another cipher suite was agreed on");
        };
        let suite = TLS13_AES_256_GCM_SHA384.tls13().unwrap();
        (tcp, Self { encrypter: suite.aead_alg.encrypter(key, iv), sequence })
    }

    fn seal(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let payload = OutboundChunks::Single(payload);
        let plain = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = self.encrypter.encrypt(plain, self.sequence).unwrap().encode();
        self.sequence += 1;
        sealed
    }
}

/// Writes an honest beginning, then what `step` gives, until the connection is closed. Tells how many
/// steps there were.
async fn abuse(stand: &Stand, mut step: impl FnMut(&mut Forger, u32) -> Option<Vec<u8>>) -> u32 {
    let (tcp, mut forger) = Forger::dial(stand).await;
    let (mut read, mut write) = tcp.into_split();
    let steps = Cell::new(0);
    let begin = forger.seal(ContentType::ApplicationData, &[hello(), connect(1)].concat());
    let writing = async {
        let mut batch = begin;
        while write.write_all(&batch).await.is_ok() {
            batch.clear();
            tokio::task::yield_now().await;
            while batch.len() < 16 << 10
                && let Some(bytes) = step(&mut forger, steps.get())
            {
                steps.set(steps.get() + 1);
                batch.extend_from_slice(&bytes);
            }
            if batch.is_empty() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async { while let Ok(1..) = read.read(&mut [0; 4096]).await {} };
    tokio::select! {
        () = reading => {}
        () = writing => unreachable!("it waits for the close"),
    }
    steps.get()
}

#[tokio::test]
async fn floods_of_records_that_carry_nothing_end_the_connection() {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let kinds: [(&str, ContentType, &[u8]); 3] = [
            ("empty records", ContentType::ApplicationData, &[]),
            ("alerts without force", ContentType::Alert, &[1, 90]),
            ("key updates never made", ContentType::Handshake, &[24, 0, 0, 1, 0]),
        ];
        for (what, kind, payload) in kinds {
            let once = async || {
                let step =
                    |forger: &mut Forger, n| (n < FAR_TOO_MANY).then(|| forger.seal(kind, payload));
                let steps = abuse(&stand, step).await;
                assert!(steps < FAR_TOO_MANY, "{what}: {steps}");
            };
            stand.suffer(what, MOST, once).await;
        }
    })
    .await;
}

#[tokio::test]
async fn records_that_are_none_end_the_connection() {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let too_long = [&[23, 3, 3, 0xff, 0xff][..], &[0; 70_000]].concat();
        let kinds: [(&str, &[u8]); 4] = [
            ("a record of 64 KiB", &too_long),
            ("a record that is not sealed", &[22, 3, 3, 0, 4, 1, 0, 0, 0]),
            ("a record sealed by another", &[&[23, 3, 3, 0, 32][..], &[0; 32]].concat()),
            ("another protocol", b"GET / HTTP/1.1\r\n\r\n"),
        ];
        for (what, bytes) in kinds {
            let once = async || {
                abuse(&stand, |_, n| (n == 0).then(|| bytes.to_vec())).await;
            };
            stand.suffer(what, MOST, once).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_byte_in_a_record_is_a_flood_like_any_other() {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let ping = frame(PING, 0, 0, &[0; 8]);
        let once = async || {
            let step = |forger: &mut Forger, n: u32| {
                let byte = ping[n as usize % ping.len()];
                (n < FAR_TOO_MANY).then(|| forger.seal(ContentType::ApplicationData, &[byte]))
            };
            let steps = abuse(&stand, step).await;
            assert!(steps < FAR_TOO_MANY, "{steps}");
        };
        stand.suffer("records of a byte", MOST, once).await;
    })
    .await;
}

#[tokio::test]
async fn new_keys_again_and_again_end_the_connection_or_cost_nothing() {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let once = async || {
            let mut tls = dial(&stand.pki, stand.gateway.address).await;
            tls.write_all(&hello()).await.unwrap();
            for _ in 0..2000 {
                let refreshed = tls.get_mut().1.refresh_traffic_keys();
                if refreshed.is_err() || tls.flush().await.is_err() {
                    break;
                }
            }
        };
        stand.suffer("key updates", MOST, once).await;
    })
    .await;
}
