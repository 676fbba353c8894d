//! Handshake messages after the handshake (RFC 8446 4.6), out of records that may cut them.

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::fault::Fault;

/// A message's header (RFC 8446 4), in bytes.
const HEADER: usize = 4;
/// The longest message taken, in bytes. A ticket of 64 KiB would not be one of use.
const MAX_MESSAGE: usize = 0xffff;

/// A message of the peer.
pub(super) enum Message {
    /// The payload of a `NewSessionTicket`.
    Ticket(Vec<u8>),
    /// The peer's next record is under the next key; `asks` that so be ours.
    KeyUpdate { asks: bool },
}

/// Messages not yet taken out: at most one record's, and the start of one message.
#[derive(Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    taken: usize,
}

impl Messages {
    /// What of a message has come so far.
    pub(super) fn begun(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// With what had come of a message elsewhere.
    pub(super) fn resume(bytes: Vec<u8>) -> Self {
        Self { bytes, taken: 0 }
    }

    /// Whether it may be what had come of one.
    pub(super) fn is_sound(&self, tickets: bool) -> bool {
        let mut probe = Self { bytes: self.bytes.clone(), taken: self.taken };
        matches!(probe.next(tickets), Ok(None))
    }

    /// A record's content, which is another part.
    pub(super) fn take_in(&mut self, content: &[u8]) -> Result<(), Fault> {
        if content.is_empty() {
            // RFC 8446 5.1.
            return Err(Fault::unexpected(InvalidMessage::InvalidEmptyPayload));
        }
        self.bytes.extend_from_slice(content);
        Ok(())
    }

    /// The next whole message.
    pub(super) fn next(&mut self, tickets: bool) -> Result<Option<Message>, Fault> {
        let bytes = &self.bytes[self.taken..];
        let Some(&kind) = bytes.first() else { return Ok(None) };
        let kind = HandshakeType::from(kind);
        let is_update = kind == HandshakeType::KeyUpdate;
        let is_ticket = tickets && kind == HandshakeType::NewSessionTicket;
        if !is_update && !is_ticket {
            return Err(Fault::unexpected(Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: kind,
            }));
        }
        let Some(&[_, high, middle, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = (usize::from(high) << 16) | usize::from(u16::from_be_bytes([middle, low]));
        if length > MAX_MESSAGE {
            return Err(Fault::malformed(InvalidMessage::HandshakePayloadTooLarge));
        }
        if is_update && length != 1 {
            return Err(Fault::malformed(InvalidMessage::InvalidKeyUpdate));
        }
        let Some(payload) = bytes.get(HEADER..HEADER + length) else { return Ok(None) };
        let message = if is_update { update(payload)? } else { Message::Ticket(payload.to_vec()) };
        self.taken += HEADER + length;
        Ok(Some(message))
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Gives back what the messages took that are out.
    pub(super) fn tidy(&mut self) {
        if self.is_done() {
            *self = Self::default();
        } else {
            self.bytes.drain(..std::mem::take(&mut self.taken));
        }
    }

    /// RFC 8446 5.1: no record of another `kind` comes between a message's parts.
    pub(super) fn expect_whole(&self, kind: ContentType) -> Result<(), Fault> {
        if self.is_done() {
            return Ok(());
        }
        tracing::debug!(?kind, "a record within a handshake message");
        Err(Fault::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage))
    }
}

fn update(payload: &[u8]) -> Result<Message, Fault> {
    match payload {
        [0] => Ok(Message::KeyUpdate { asks: false }),
        [1] => Ok(Message::KeyUpdate { asks: true }),
        // RFC 8446 4.6.3.
        _ => {
            let alert = AlertDescription::IllegalParameter;
            Err(Fault::new(alert, InvalidMessage::InvalidKeyUpdate))
        }
    }
}
