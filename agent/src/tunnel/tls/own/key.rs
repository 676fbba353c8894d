//! One direction's key, and records under it (RFC 8446 5.2 to 5.4).

use aws_lc_rs::aead::{Aad, MAX_TAG_LEN, NONCE_LEN, Nonce};
use rustls::{AlertDescription, ContentType, Error, InvalidMessage};

use super::super::{HEADER, header};
use super::fault::Fault;
use super::schedule::{RecordKey, TrafficSecret};

/// A record's content, in bytes (RFC 8446 5.1).
pub(super) const MAX_CONTENT: usize = 1 << 14;
/// AES-GCM's tag, in bytes.
const TAG: usize = 16;
/// What a record has more than its content and padding: the type of the content, and the tag.
const EXTRA: usize = 1 + TAG;
/// RFC 8446 5.2.
const VERSION: [u8; 2] = [3, 3];
const _: () = assert!(MAX_TAG_LEN == TAG);

/// Seals records of one direction.
pub(super) struct Sealer(Key);

/// Opens records of one direction.
pub(super) struct Opener(Key);

/// Wiped when dropped: what is the AEAD's, by aws-lc.
struct Key {
    secret: TrafficSecret,
    of_records: RecordKey,
    /// Of the next record.
    sequence: u64,
}

impl Sealer {
    /// Under a secret that has sealed so many records.
    ///
    /// # Errors
    /// The cryptographic library fails; so everywhere here.
    pub(super) fn new(secret: TrafficSecret, sealed: u64) -> Result<Self, Error> {
        Key::new(secret, sealed).map(Self)
    }

    /// Under the next key.
    pub(super) fn update(&mut self) -> Result<(), Error> {
        self.0.update()
    }

    /// Records sealed under this key.
    pub(super) fn sealed(&self) -> u64 {
        self.0.sequence
    }

    pub(super) fn secret(&self) -> &TrafficSecret {
        &self.0.secret
    }

    /// Appends `content`, of [`MAX_CONTENT`] bytes at most, to `out` as a record.
    ///
    /// # Errors
    /// The key has sealed all it can, or the AEAD fails.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let length = u16::try_from(content.len() + EXTRA).map_err(|_| Error::EncryptError)?;
        let [high, low] = length.to_be_bytes();
        let header = [ContentType::ApplicationData.into(), VERSION[0], VERSION[1], high, low];
        let nonce = self.0.next_nonce()?;
        let start = out.len();
        out.extend_from_slice(&header);
        out.resize(start + HEADER + usize::from(length), 0);
        let (sealed, extra) = out[start + HEADER..].split_at_mut(content.len());
        let (aead, kind) = (&self.0.of_records.aead, [kind.into()]);
        aead.seal_out_of_place_scatter(nonce, Aad::from(header), content, sealed, &kind, extra)
            .map_err(|_| {
                out.truncate(start);
                Error::EncryptError
            })
    }
}

impl Opener {
    /// Under a secret that has opened so many records.
    pub(super) fn new(secret: TrafficSecret, opened: u64) -> Result<Self, Error> {
        Key::new(secret, opened).map(Self)
    }

    /// Under the next key.
    pub(super) fn update(&mut self) -> Result<(), Error> {
        self.0.update()
    }

    /// Records opened under this key.
    pub(super) fn opened(&self) -> u64 {
        self.0.sequence
    }

    pub(super) fn secret(&self) -> &TrafficSecret {
        &self.0.secret
    }

    /// Opens one record in place. Gives the type of its content, and the content's length: it is
    /// behind the header.
    ///
    /// # Errors
    /// It is not the peer's next record, or is empty.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, usize), Fault> {
        let nonce = self.0.next_nonce().map_err(Fault::ours)?;
        let forged = || Fault::new(AlertDescription::BadRecordMac, Error::DecryptError);
        let (header, payload) = record.split_first_chunk_mut::<HEADER>().ok_or_else(forged)?;
        let inner = self.0.of_records.aead.open_in_place(nonce, Aad::from(&*header), payload);
        let inner = inner.map_err(|_| forged())?;
        // RFC 8446 5.4: what is not zero and last is the type.
        let Some(length) = inner.iter().rposition(|byte| *byte != 0) else {
            return Err(Fault::unexpected(InvalidMessage::InvalidContentType));
        };
        Ok((ContentType::from(inner[length]), length))
    }
}

impl Key {
    fn new(secret: TrafficSecret, sequence: u64) -> Result<Self, Error> {
        Ok(Self { of_records: secret.key()?, secret, sequence })
    }

    fn update(&mut self) -> Result<(), Error> {
        *self = Self::new(self.secret.next()?, 0)?;
        Ok(())
    }

    /// RFC 8446 5.3. No two records of a key have the same.
    fn next_nonce(&mut self) -> Result<Nonce, Error> {
        let sequence = self.sequence.to_be_bytes();
        // The last number is never used, so the next one is always there.
        self.sequence = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        let mut nonce = *self.of_records.iv;
        for (byte, of) in nonce[NONCE_LEN - sequence.len()..].iter_mut().zip(sequence) {
            *byte ^= of;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// The length of the protected record that `wire` starts with; none while it is not all there.
///
/// # Errors
/// It is no such record.
pub(super) fn record_length(wire: &[u8]) -> Result<Option<usize>, Fault> {
    let Some((kind, version, payload)) = header(wire) else { return Ok(None) };
    let kind = ContentType::from(kind);
    if kind != ContentType::ApplicationData {
        return Err(Fault::unexpected(Error::InappropriateMessage {
            expect_types: vec![ContentType::ApplicationData],
            got_type: kind,
        }));
    }
    if version != VERSION {
        return Err(Fault::malformed(InvalidMessage::UnknownProtocolVersion));
    }
    // RFC 8446 5.4: padding is no excuse.
    if payload > MAX_CONTENT + EXTRA {
        let alert = AlertDescription::RecordOverflow;
        return Err(Fault::new(alert, Error::PeerSentOversizedRecord));
    }
    if payload < TAG {
        return Err(Fault::new(AlertDescription::BadRecordMac, Error::DecryptError));
    }
    Ok((wire.len() >= HEADER + payload).then_some(HEADER + payload))
}
