//! Reads header blocks (RFC 7541 section 6).

use super::table::{DynamicTable, ENTRY_OVERHEAD, Entry, field};
use super::{HpackError, frozen, huffman, integer};
use sotto_proto::handover::Compression;

/// Changes of the table's size in one header block (RFC 7541 section 4.2).
const MAX_SIZE_UPDATES: u32 = 2;

/// One direction's decoding state; its memory is bounded by the table size given.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: DynamicTable,
    /// The size our SETTINGS_HEADER_TABLE_SIZE allows.
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new(limit: usize) -> Self {
        Self { table: DynamicTable::new(limit), limit, name: Vec::new(), value: Vec::new() }
    }

    /// For another process.
    pub(crate) fn freeze(&self) -> Compression {
        frozen::freeze(&self.table, self.limit, None)
    }

    /// None if it is no table.
    pub(crate) fn thaw(frozen: &Compression) -> Option<Self> {
        let limit = frozen.size as usize;
        Some(Self { table: frozen::thaw(frozen)?, ..Self::new(limit) })
    }

    /// Decodes a whole block, passing each name and value on as sent: neither is validated.
    ///
    /// At most `room` bytes are unpacked, as RFC 9113 section 6.5.2 counts them: two bytes can refer
    /// to as many as the table holds.
    ///
    /// # Errors
    /// The block breaks the rules: a connection error COMPRESSION_ERROR (RFC 9113 section 4.3).
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        mut room: usize,
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut rest = block;
        // Section 4.2: before the first field only, and the smallest and the final size say all that
        // may have happened since the block before. Each may empty the table, so more cost us work.
        let mut updates = 0;
        while let Some(0x20..0x40) = rest.first() {
            updates += 1;
            if updates > MAX_SIZE_UPDATES {
                return Err(HpackError::TableSizes);
            }
            let size = integer::decode(&mut rest, 5)? as usize;
            if size > self.limit {
                return Err(HpackError::TableSize);
            }
            self.table.resize(size);
        }
        let mut visit = |name: &[u8], value: &[u8]| {
            let size = name.len() + value.len() + ENTRY_OVERHEAD;
            room = room.checked_sub(size).ok_or(HpackError::ListSize)?;
            visit(name, value);
            Ok(())
        };
        while let Some(first) = rest.first() {
            match first {
                0x80.. => {
                    let (name, value) = field(&self.table, integer::decode(&mut rest, 7)?)?;
                    visit(name, value)?;
                }
                0x40.. => self.indexed_literal(&mut rest, &mut visit)?,
                0x20.. => return Err(HpackError::LateTableSize),
                // Without indexing, and never indexed: the same to an endpoint.
                _ => self.plain_literal(&mut rest, &mut visit)?,
            }
        }
        self.shrink();
        Ok(())
    }

    fn indexed_literal(
        &mut self,
        rest: &mut &[u8],
        visit: &mut impl FnMut(&[u8], &[u8]) -> Result<(), HpackError>,
    ) -> Result<(), HpackError> {
        let index = integer::decode(rest, 6)?;
        let name =
            if index == 0 { string(rest, &mut self.name)? } else { field(&self.table, index)?.0 };
        let entry = Entry::new(name, string(rest, &mut self.value)?);
        visit(entry.name(), entry.value())?;
        self.table.insert(entry);
        Ok(())
    }

    fn plain_literal(
        &mut self,
        rest: &mut &[u8],
        visit: &mut impl FnMut(&[u8], &[u8]) -> Result<(), HpackError>,
    ) -> Result<(), HpackError> {
        let index = integer::decode(rest, 4)?;
        let name =
            if index == 0 { string(rest, &mut self.name)? } else { field(&self.table, index)?.0 };
        visit(name, string(rest, &mut self.value)?)
    }

    /// One large string must not cost memory for the rest of a connection's life.
    fn shrink(&mut self) {
        const KEEP: usize = 1024;
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > KEEP {
                *scratch = Vec::new();
            }
        }
    }
}

#[cfg(test)]
impl Decoder {
    pub(crate) fn table_size(&self) -> usize {
        self.table.size()
    }
}

/// A string literal (section 5.2), in place or decoded into `scratch`.
#[expect(single_use_lifetimes, reason = "the block outlives the scratch of one field")]
fn string<'a, 'b: 'a>(
    rest: &mut &'b [u8],
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8], HpackError> {
    let huffman = rest.first().is_some_and(|byte| byte & 0x80 != 0);
    let length = integer::decode(rest, 7)? as usize;
    let (bytes, after) = rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *rest = after;
    if !huffman {
        return Ok(bytes);
    }
    scratch.clear();
    huffman::decode(bytes, scratch)?;
    Ok(scratch)
}
