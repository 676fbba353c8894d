//! A session as a plain value, which another process can go on with: what it says and takes is not told from before.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the layout's version |
//! | 1 | the suite: 1 for AES-128-GCM with SHA-256, 2 for AES-256-GCM with SHA-384 |
//! | 1 | flags, by the bit: the peer sends no more, we do not, the peer asked for a key update, tickets may come |
//! | 1 | records without data since the last one with some |
//! | 32 or 48 | our traffic secret |
//! | 8 | records sealed under it, big endian |
//! | 32 or 48 | the peer's |
//! | 8 | records opened under it, big endian |
//! | the rest | what has come of a handshake message |

use bytes::{Buf, BufMut as _};
use rustls::Error;
use zeroize::Zeroizing;

use super::key::{Opener, Sealer};
use super::messages::Messages;
use super::schedule::{Suite, TrafficSecret};
use super::tickets::Tickets;
use super::{Own, PATIENCE};

const VERSION: u8 = 1;
const CLOSED: u8 = 1;
const ENDED: u8 = 1 << 1;
const ASKED: u8 = 1 << 2;
const TICKETS: u8 = 1 << 3;
const FLAGS: u8 = CLOSED | ENDED | ASKED | TICKETS;

/// What a session is, as bytes; wiped when dropped.
#[derive(Clone)]
pub struct Frozen(Zeroizing<Vec<u8>>);

/// Why bytes are no session.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FrozenError {
    /// It is laid out in another way.
    #[error("version {0} of a session's state is not known")]
    Version(u8),
    /// It ends too early.
    #[error("a session's state is cut off")]
    Short,
    /// It says what no session comes to.
    #[error("a session's state has {0} that cannot be")]
    Unsound(&'static str),
    /// The cryptographic library does not take the keys.
    #[error("a session's keys cannot be used")]
    Keys(#[source] Error),
}

impl Frozen {
    /// Of bytes as [`as_bytes`](Self::as_bytes) gave them.
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// To be given to the process that goes on, and to nobody else: who has them has the session.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The session.
    ///
    /// # Errors
    /// It is none that this version can go on with.
    pub(in super::super) fn thaw(&self) -> Result<Own, FrozenError> {
        let mut bytes = &self.0[..];
        let version = byte(&mut bytes)?;
        if version != VERSION {
            return Err(FrozenError::Version(version));
        }
        let suite = suite(byte(&mut bytes)?)?;
        let flags = byte(&mut bytes)?;
        if flags & !FLAGS != 0 {
            return Err(FrozenError::Unsound("flags"));
        }
        let fruitless = byte(&mut bytes)?;
        if fruitless > PATIENCE {
            return Err(FrozenError::Unsound("a count of records"));
        }
        let (seal, sealed) = secret(suite, &mut bytes)?;
        let (open, opened) = secret(suite, &mut bytes)?;
        let has = |flag| flags & flag != 0;
        let messages = Messages::resume(bytes.to_vec());
        if !messages.is_sound(has(TICKETS)) {
            return Err(FrozenError::Unsound("a part of a message"));
        }
        let tickets = if has(TICKETS) { Tickets::Dropped } else { Tickets::Refused };
        let sealer = Sealer::new(seal, sealed).map_err(FrozenError::Keys)?;
        let opener = Opener::new(open, opened).map_err(FrozenError::Keys)?;
        Ok(Own {
            messages,
            fruitless,
            closed: has(CLOSED),
            ended: has(ENDED),
            asked: has(ASKED),
            ..Own::new(sealer, opener, tickets)
        })
    }
}

impl Own {
    /// As [`Session::freeze`](super::super::Session::freeze). Two that went on would seal different records under one nonce.
    pub(in super::super) fn freeze(self: Box<Self>) -> Result<Frozen, Box<Self>> {
        if self.failed.is_some() || self.alert.is_some() {
            return Err(self);
        }
        let flag = |is: bool, flag| if is { flag } else { 0 };
        let (seal, open) = (self.sealer.secret(), self.opener.secret());
        let begun = self.messages.begun();
        // With room for all: no copy of the secrets is left behind by growing.
        let length = 20 + 2 * seal.suite().secret_length() + begun.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.put_u8(VERSION);
        bytes.put_u8(match seal.suite() {
            Suite::Aes128GcmSha256 => 1,
            Suite::Aes256GcmSha384 => 2,
        });
        bytes.put_u8(
            flag(self.closed, CLOSED)
                | flag(self.ended, ENDED)
                | flag(self.asked, ASKED)
                | flag(self.tickets.are_taken(), TICKETS),
        );
        bytes.put_u8(self.fruitless);
        bytes.put_slice(seal.bytes());
        bytes.put_u64(self.sealer.sealed());
        bytes.put_slice(open.bytes());
        bytes.put_u64(self.opener.opened());
        bytes.put_slice(begun);
        Ok(Frozen(bytes))
    }
}

fn byte(bytes: &mut &[u8]) -> Result<u8, FrozenError> {
    bytes.try_get_u8().map_err(|_| FrozenError::Short)
}

fn suite(code: u8) -> Result<Suite, FrozenError> {
    match code {
        1 => Ok(Suite::Aes128GcmSha256),
        2 => Ok(Suite::Aes256GcmSha384),
        _ => Err(FrozenError::Unsound("a suite")),
    }
}

fn secret(suite: Suite, bytes: &mut &[u8]) -> Result<(TrafficSecret, u64), FrozenError> {
    let (secret, rest) = bytes.split_at_checked(suite.secret_length()).ok_or(FrozenError::Short)?;
    let secret = TrafficSecret::new(suite, Zeroizing::new(secret.to_vec()));
    *bytes = rest;
    let sequence = bytes.try_get_u64().map_err(|_| FrozenError::Short)?;
    Ok((secret.ok_or(FrozenError::Short)?, sequence))
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frozen")
    }
}

#[cfg(test)]
mod tests;
