//! Integers with a prefix (RFC 7541 section 5.1).

use super::HpackError;

/// Takes an integer off the front of `input`, whose first byte carries `prefix` bits of it.
///
/// # Errors
/// The input ends, or the integer has more than five bytes: 2^28 is more than any length or index
/// that could be valid.
pub(super) fn decode(input: &mut &[u8], prefix: u32) -> Result<u32, HpackError> {
    let (first, mut rest) = input.split_first().ok_or(HpackError::Truncated)?;
    let full = (1u32 << prefix) - 1;
    let mut value = u32::from(*first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(HpackError::Truncated)?;
            rest = after;
            value += u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(HpackError::IntegerOverflow);
            }
        }
    }
    *input = rest;
    Ok(value)
}

/// Appends an integer whose first byte has `prefix` bits for it below the bits of `pattern`.
pub(super) fn encode(mut value: usize, prefix: u32, pattern: u8, out: &mut Vec<u8>) {
    let full = (1usize << prefix) - 1;
    if value < full {
        out.push(pattern | low_byte(value));
        return;
    }
    out.push(pattern | low_byte(full));
    value -= full;
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

fn low_byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}
