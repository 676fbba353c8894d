//! Where records end, before rustls has looked at them.

use rustls::{ContentType, Error, ProtocolVersion};

use super::{HEADER, header};

/// The longest payload, in bytes, that rustls takes for a record: both must agree where one ends.
const MAX_PAYLOAD: usize = (1 << 14) + 2047;
/// Records of one handshake. An honest one takes about ten, and a few hundred if its peer cuts it as
/// small as can be. rustls goes once more through all that it skipped whenever another comes: what
/// looks like early data that it did not accept (RFC 8446 4.2.10), from anybody, and if empty
/// without end.
const MAX_RECORDS: u16 = 1024;

/// The records of a handshake.
#[derive(Debug, Default)]
pub(super) struct Framing {
    records: u16,
}

impl Framing {
    /// The length of the next record, which `wire` starts with; none while it is not all there.
    ///
    /// # Errors
    /// It is one too many.
    pub(super) fn next(&mut self, wire: &[u8]) -> Result<Option<usize>, Error> {
        let Some(length) = first_record(wire) else { return Ok(None) };
        if self.records == MAX_RECORDS {
            return Err(Error::General("a handshake in too many records".into()));
        }
        self.records += 1;
        Ok(Some(length))
    }
}

/// The length of the record that `wire` starts with; none while it is not all there. What cannot be
/// a record is taken as one, for rustls to judge.
pub(super) fn first_record(wire: &[u8]) -> Option<usize> {
    let (kind, version, payload) = header(wire)?;
    let kind = ContentType::from(kind);
    let version = ProtocolVersion::from(u16::from_be_bytes(version));
    // rustls takes SSL 3's successors, known or not, and whatever else it has a name for.
    let stranger = matches!(version, ProtocolVersion::Unknown(version) if version >> 8 != 3);
    if stranger || matches!(kind, ContentType::Unknown(_)) || payload > MAX_PAYLOAD {
        return Some(wire.len());
    }
    (wire.len() >= HEADER + payload).then_some(HEADER + payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record_is_not_waited_for() {
        let check = |wire: &[u8], expected| assert_eq!(first_record(wire), expected, "{wire:?}");
        check(b"", None);
        check(&[23, 3, 3, 0], None);
        check(&[23, 3, 3, 0, 2, 1], None);
        check(&[23, 3, 3, 0, 2, 1, 1, 9], Some(7));
        check(b"GET / HTTP/1.1", Some(14));
        check(&[23, 3, 3, 0xff, 0xff, 0], Some(6));
    }

    #[test]
    fn versions_that_rustls_has_a_name_for_are_records() {
        for [major, minor] in [[0, 2], [3, 0], [3, 9], [0xfe, 0xff], [0xfe, 0xfd], [0xfe, 0xfc]] {
            let wire = [22, major, minor, 0, 2, 1, 1, 9];
            assert_eq!(first_record(&wire), Some(7), "{major} {minor}");
            assert_eq!(first_record(&wire[..6]), None, "{major} {minor}");
        }
        assert_eq!(first_record(&[22, 2, 0, 0, 2, 1, 1, 9]), Some(8));
    }
}
