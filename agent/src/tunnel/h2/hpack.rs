//! Header compression (RFC 7541).

mod decoder;
mod encoder;
mod frozen;
mod huffman;
mod integer;
mod table;

#[cfg(test)]
mod tests;

pub(super) use decoder::Decoder;
pub(super) use encoder::Encoder;
pub(super) use table::ENTRY_OVERHEAD;

/// The table size both directions start with (RFC 9113 section 6.5.2), and the most we ever keep.
pub(super) const TABLE_SIZE: usize = 4096;

/// A header block that cannot be decoded: the connection cannot go on, as both ends' tables differ
/// from here (RFC 9113 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HpackError {
    /// The header block unpacks to more than anyone needs.
    ListSize,
    /// The header block ends within a field.
    Truncated,
    /// The header block has an integer too large.
    IntegerOverflow,
    /// The header block refers to no entry.
    Index,
    /// The header block enlarges the table beyond the limit.
    TableSize,
    /// The header block changes the table size more often than it takes to say all changes.
    TableSizes,
    /// The header block changes the table size after a field.
    LateTableSize,
    /// The header string has EOS in it.
    HuffmanEos,
    /// The header string has invalid padding.
    HuffmanPadding,
}
