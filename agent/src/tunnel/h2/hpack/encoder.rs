//! Writes header blocks (RFC 7541 section 6).
//!
//! A field goes into the table when it comes a second time in a row with the same value: what all
//! streams of a tunnel share is sent once, and what differs each time evicts nothing. Strings are
//! sent as they are; Huffman would save a quarter of the rest and cost both ends time.

use super::table::{DynamicTable, Entry, STATIC};
use super::{TABLE_SIZE, frozen, integer};
use sotto_proto::handover::Compression;

/// Names whose last value is remembered.
const REMEMBERED: usize = 16;

/// One direction's encoding state.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: DynamicTable,
    size: usize,
    /// Smallest table size the peer asked for since the last block (section 4.2).
    least: Option<usize>,
    /// Hashes of fields, by name.
    last: [u64; REMEMBERED],
}

impl Encoder {
    pub(crate) fn new() -> Self {
        let table = DynamicTable::new(TABLE_SIZE);
        Self { table, size: TABLE_SIZE, least: None, last: [0; REMEMBERED] }
    }

    /// For another process; which fields come again is learned anew.
    pub(crate) fn freeze(&self) -> Compression {
        frozen::freeze(&self.table, self.size, self.least)
    }

    /// None if it is no table.
    pub(crate) fn thaw(frozen: &Compression) -> Option<Self> {
        let (size, least) = (frozen.size as usize, frozen.least.map(|least| least as usize));
        Some(Self { table: frozen::thaw(frozen)?, size, least, last: [0; REMEMBERED] })
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. No larger table than the default is used.
    pub(crate) fn limit(&mut self, size: u32) {
        let size = TABLE_SIZE.min(size as usize);
        if size != self.size || self.least.is_some() {
            self.least = Some(self.least.map_or(size, |least| least.min(size)));
            self.size = size;
        }
    }

    /// Must come once before the fields of each block.
    pub(crate) fn start(&mut self, out: &mut Vec<u8>) {
        let Some(least) = self.least.take() else { return };
        if least < self.size {
            integer::encode(least, 5, 0x20, out);
            self.table.resize(least);
        }
        integer::encode(self.size, 5, 0x20, out);
        self.table.resize(self.size);
    }

    /// Appends a field. The name must be lower case.
    pub(crate) fn field(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let found = known(name, value).or_else(|| self.sent(name, value));
        if let Some(index) = found {
            integer::encode(index, 7, 0x80, out);
            return;
        }
        let repeated = self.size > 0 && self.is_repeated(name, value);
        let (prefix, pattern) = if repeated { (6, 0x40) } else { (4, 0x00) };
        let named = STATIC.iter().position(|(known, _)| *known == name);
        integer::encode(named.map_or(0, |position| position + 1), prefix, pattern, out);
        if named.is_none() {
            string(name.as_bytes(), out);
        }
        string(value, out);
        if repeated {
            self.table.insert(Entry::new(name.as_bytes(), value));
        }
    }

    /// The index of a field in the dynamic table.
    fn sent(&self, name: &str, value: &[u8]) -> Option<usize> {
        let same = |entry: &Entry| entry.value() == value && entry.name() == name.as_bytes();
        Some(STATIC.len() + 1 + self.table.iter().position(same)?)
    }

    /// Whether the last field of this name had the same value, as far as a hash tells: a mistake
    /// makes an entry that is not used.
    fn is_repeated(&mut self, name: &str, value: &[u8]) -> bool {
        let by_name = hash(0, name.as_bytes());
        let both = hash(by_name, value);
        // The high bits are the mixed ones.
        let place = (by_name >> 60) as usize % REMEMBERED;
        std::mem::replace(&mut self.last[place], both) == both
    }
}

/// The index of a field in the static table.
fn known(name: &str, value: &[u8]) -> Option<usize> {
    let same = |(known, content): &(&str, &str)| content.as_bytes() == value && *known == name;
    Some(1 + STATIC.iter().position(same)?)
}

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    // 2^64 divided by the golden ratio.
    words.fold(seed, |hash, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    integer::encode(bytes.len(), 7, 0x00, out);
    out.extend_from_slice(bytes);
}
