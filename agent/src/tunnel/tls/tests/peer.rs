//! A peer that holds the keys and seals whatever it likes: key schedule and records as RFC 8446
//! writes them, by aws-lc.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use parking_lot::Mutex;
use rustls::KeyLog;

use super::super::HEADER;

/// The secrets of a handshake.
#[derive(Debug, Default)]
pub(super) struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().push((label.to_owned(), secret.to_vec()));
    }
}

impl Secrets {
    pub(super) fn key(&self, label: &str) -> Key {
        let secrets = self.0.lock();
        let (_, secret) = secrets.iter().find(|(known, _)| known == label).unwrap();
        Key::new(secret.clone())
    }
}

/// One direction's key.
pub(super) struct Key {
    secret: Vec<u8>,
    aead: LessSafeKey,
    iv: Vec<u8>,
    pub(super) sequence: u64,
}

impl Key {
    fn new(secret: Vec<u8>) -> Self {
        let algorithm = if secret.len() == 48 { &AES_256_GCM } else { &AES_128_GCM };
        let key = expand(&secret, "key", algorithm.key_len());
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
        let iv = expand(&secret, "iv", 12);
        Self { secret, aead, iv, sequence: 0 }
    }

    /// RFC 8446 7.2.
    pub(super) fn update(&mut self) {
        *self = Self::new(expand(&self.secret, "traffic upd", self.secret.len()));
    }

    fn nonce(&mut self) -> Nonce {
        let number = [[0; 4].as_slice(), &self.sequence.to_be_bytes()].concat();
        self.sequence += 1;
        let nonce: Vec<u8> = self.iv.iter().zip(number).map(|(iv, number)| iv ^ number).collect();
        Nonce::try_assume_unique_for_key(&nonce).unwrap()
    }

    /// A record of these bytes, be they what RFC 8446 5.2 has inside or not.
    pub(super) fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let (header, mut payload) = ([23, 3, 3, high, low], inner.to_vec());
        let nonce = self.nonce();
        self.aead.seal_in_place_append_tag(nonce, Aad::from(header), &mut payload).unwrap();
        [&header[..], &payload].concat()
    }

    /// The content's type, and the content.
    pub(super) fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let (header, payload) = record.split_at(HEADER);
        let (nonce, mut payload) = (self.nonce(), payload.to_vec());
        let inner = self.aead.open_in_place(nonce, Aad::from(header), &mut payload).unwrap();
        let (kind, content) = inner.split_last().unwrap();
        (*kind, content.to_vec())
    }
}

/// HKDF-Expand-Label (RFC 8446 7.1), without context.
fn expand(secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let hash = if secret.len() == 48 { HKDF_SHA384 } else { HKDF_SHA256 };
    let label = format!("tls13 {label}");
    let mut info = u16::try_from(length).unwrap().to_be_bytes().to_vec();
    info.push(u8::try_from(label.len()).unwrap());
    info.extend_from_slice(label.as_bytes());
    info.push(0);
    let mut out = vec![0; length];
    let prk = Prk::new_less_safe(hash, secret);
    prk.expand(&[&info], Length(length)).unwrap().fill(&mut out).unwrap();
    out
}
