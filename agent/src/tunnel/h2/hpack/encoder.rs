//! Writes header blocks (RFC 7541 section 6).

use super::integer;
use super::table::{DynamicTable, STATIC};

/// One direction's encoding state.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: DynamicTable,
    /// Smallest and last table size the peer asked for since the last block (section 4.2).
    update: Option<(usize, usize)>,
    size: usize,
}

/// No larger table is used, whatever the peer allows.
const MAX_TABLE: usize = 4096;

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { table: DynamicTable::new(MAX_TABLE), update: None, size: MAX_TABLE }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn limit(&mut self, size: u32) {
        let size = MAX_TABLE.min(size as usize);
        if size == self.size && self.update.is_none() {
            return;
        }
        let least = self.update.map_or(size, |(least, _)| least.min(size));
        self.update = Some((least, size));
        self.size = size;
    }

    /// Must come once before the fields of each block.
    pub(crate) fn start(&mut self, out: &mut Vec<u8>) {
        let Some((least, size)) = self.update.take() else { return };
        if least < size {
            integer::encode(least, 5, 0x20, out);
            self.table.resize(least);
        }
        integer::encode(size, 5, 0x20, out);
        self.table.resize(size);
    }

    /// Appends a field. The name must be lower case.
    pub(crate) fn field(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let mut named = 0;
        for (position, (known, content)) in STATIC.iter().enumerate() {
            if *known == name {
                if content.as_bytes() == value {
                    integer::encode(position + 1, 7, 0x80, out);
                    return;
                }
                if named == 0 {
                    named = position + 1;
                }
            }
        }
        integer::encode(named, 4, 0x00, out);
        if named == 0 {
            string(name.as_bytes(), out);
        }
        string(value, out);
    }
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    integer::encode(bytes.len(), 7, 0x00, out);
    out.extend_from_slice(bytes);
}
