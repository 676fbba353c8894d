//! One direction's traffic secret, and what is made of it (RFC 8446 7.1 to 7.3).

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, NONCE_LEN, UnboundKey};
use aws_lc_rs::hkdf::{Algorithm, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::{CipherSuite, Error};
use zeroize::Zeroizing;

/// The suites whose records are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    Aes128GcmSha256,
    Aes256GcmSha384,
}

/// A traffic secret; wiped when dropped.
#[derive(Clone)]
pub(super) struct TrafficSecret {
    suite: Suite,
    bytes: Zeroizing<Vec<u8>>,
}

/// The AEAD's key, and the nonce that sequence numbers are mixed into.
pub(super) struct RecordKey {
    pub(super) aead: LessSafeKey,
    pub(super) iv: Zeroizing<[u8; NONCE_LEN]>,
}

/// The length of what is expanded, in bytes.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Suite {
    /// None of a suite whose records are not ours.
    pub(super) fn of(suite: CipherSuite) -> Option<Self> {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Self::Aes128GcmSha256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Self::Aes256GcmSha384),
            _ => None,
        }
    }

    /// The length of its traffic secrets, which is its hash's, in bytes.
    pub(super) const fn secret_length(self) -> usize {
        match self {
            Self::Aes128GcmSha256 => 32,
            Self::Aes256GcmSha384 => 48,
        }
    }

    fn hkdf(self) -> Algorithm {
        match self {
            Self::Aes128GcmSha256 => HKDF_SHA256,
            Self::Aes256GcmSha384 => HKDF_SHA384,
        }
    }
}

impl TrafficSecret {
    /// None if it has not the suite's length.
    pub(super) fn new(suite: Suite, bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (bytes.len() == suite.secret_length()).then_some(Self { suite, bytes })
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What seals or opens the records (RFC 8446 7.3).
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub(super) fn key(&self) -> Result<RecordKey, Error> {
        let algorithm = match self.suite {
            Suite::Aes128GcmSha256 => &AES_128_GCM,
            Suite::Aes256GcmSha384 => &AES_256_GCM,
        };
        let mut key = Zeroizing::new(vec![0; algorithm.key_len()]);
        self.expand(b"key", &mut key)?;
        let mut iv = Zeroizing::new([0; NONCE_LEN]);
        self.expand(b"iv", &mut *iv)?;
        let unusable = |_| Error::General("AES-GCM does not take a key of its length".into());
        let aead = UnboundKey::new(algorithm, &key).map_err(unusable)?;
        Ok(RecordKey { aead: LessSafeKey::new(aead), iv })
    }

    /// The secret after a key update (RFC 8446 7.2).
    ///
    /// # Errors
    /// The cryptographic library fails.
    pub(super) fn next(&self) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new(vec![0; self.bytes.len()]);
        self.expand(b"traffic upd", &mut bytes)?;
        Ok(Self { suite: self.suite, bytes })
    }

    /// HKDF-Expand-Label without a context.
    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), Error> {
        const PREFIX: &[u8] = b"tls13 ";
        let failed = || Error::General("HKDF-Expand-Label failed".into());
        let length = u16::try_from(out.len()).map_err(|_| failed())?.to_be_bytes();
        let name = u8::try_from(PREFIX.len() + label.len()).map_err(|_| failed())?;
        let info = [&length[..], &[name], PREFIX, label, &[0]];
        let secret = Prk::new_less_safe(self.suite.hkdf(), &self.bytes);
        let expanded = secret.expand(&info, Length(out.len())).and_then(|okm| okm.fill(out));
        expanded.map_err(|_| failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().filter(|char| !char.is_whitespace()).collect();
        let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    /// The server's of the simple handshake of RFC 8448 section 3: its secret, key and nonce.
    #[test]
    fn keys_are_made_as_in_the_rfcs_trace() {
        let secret = bytes(
            "a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43",
        );
        let secret = TrafficSecret::new(Suite::Aes128GcmSha256, secret.into()).unwrap();
        let mut key = [0; 16];
        secret.expand(b"key", &mut key).unwrap();
        assert_eq!(key, *bytes("9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56"));
        assert_eq!(secret.key().unwrap().iv[..], bytes("cf 78 2b 88 dd 83 54 9a ad f1 e9 84"));
    }

    #[test]
    fn a_secret_of_another_suites_length_is_none() {
        for (suite, other) in [(Suite::Aes128GcmSha256, 48), (Suite::Aes256GcmSha384, 32)] {
            assert!(TrafficSecret::new(suite, vec![1; other].into()).is_none());
            let secret = TrafficSecret::new(suite, vec![1; suite.secret_length()].into()).unwrap();
            let next = secret.next().unwrap();
            assert_eq!((next.suite(), next.bytes().len()), (suite, suite.secret_length()));
            assert_ne!(next.bytes(), secret.bytes());
        }
    }
}
