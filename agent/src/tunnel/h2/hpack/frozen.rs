//! Tables as plain values.

use sotto_proto::handover::{Compression, Field};

use super::TABLE_SIZE;
use super::table::{DynamicTable, Entry};

/// A table that may have `size` bytes, and `least` meanwhile.
pub(super) fn freeze(table: &DynamicTable, size: usize, least: Option<usize>) -> Compression {
    let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    let field = |entry: &Entry| Field { name: entry.name().into(), value: entry.value().into() };
    Compression {
        size: number(size),
        current: number(table.max_size()),
        least: least.map(number),
        fields: table.iter().map(field).collect(),
    }
}

/// None if it has more than it may have, or may have more than we keep.
pub(super) fn thaw(frozen: &Compression) -> Option<DynamicTable> {
    let sizes = [Some(frozen.size), Some(frozen.current), frozen.least];
    if sizes.into_iter().flatten().any(|size| size as usize > TABLE_SIZE) {
        return None;
    }
    let entries = frozen.fields.iter().map(|field| Entry::new(&field.name, &field.value));
    DynamicTable::holding(frozen.current as usize, entries.collect())
}
