//! The Huffman code of header strings (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive and in the order of their symbols, so
//! the lengths alone define it, and the tables here are computed from them.

use super::HpackError;

/// Appends what `input` decodes to.
///
/// # Errors
/// A code for EOS, padding of 8 bits or more, or padding that is not the start of EOS.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    // The shortest code has five bits.
    out.reserve(input.len() * 8 / 5);
    let mut bytes = input.iter();
    let (mut bits, mut have) = (0u64, 0u32);
    loop {
        while have <= 56 {
            let Some(byte) = bytes.next() else { break };
            bits |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        // What is missing reads as ones, that is as the start of EOS, like padding.
        let padded = bits | u64::MAX.checked_shr(have).unwrap_or(0);
        let (symbol, length) = lookup((padded >> 32) as u32);
        if length > have {
            return if have < 8 && padded == u64::MAX {
                Ok(())
            } else {
                Err(HpackError::HuffmanPadding)
            };
        }
        out.push(u8::try_from(symbol).map_err(|_| HpackError::HuffmanEos)?);
        bits <<= length;
        have -= length;
    }
}

/// The symbol whose code is at the front of `window`, and the code's length.
fn lookup(window: u32) -> (u16, u32) {
    let (symbol, length) = SHORT[(window >> 24) as usize];
    if length != 0 {
        return (symbol, length);
    }
    let mut length = SHORT_BITS + 1;
    while u64::from(window) >= CODE.end[length as usize] {
        length += 1;
    }
    let within = (window >> (32 - length)) - CODE.first[length as usize];
    (CODE.symbols[(CODE.offset[length as usize] + within) as usize], length)
}

/// The code, by length.
struct Code {
    /// The first code of each length.
    first: [u32; 31],
    /// Where the codes of a length end, aligned to the left of 32 bits.
    end: [u64; 31],
    /// Where the symbols of a length start.
    offset: [u32; 31],
    /// All symbols, by length and value.
    symbols: [u16; 257],
}

const SHORT_BITS: u32 = 8;

static CODE: Code = code();
/// Symbol and length by the first eight bits; a length of 0 stands for a longer code.
static SHORT: [(u16, u32); 1 << SHORT_BITS] = short();

const fn code() -> Code {
    let mut code = Code { first: [0; 31], end: [0; 31], offset: [0; 31], symbols: [0; 257] };
    let (mut next, mut filled, mut length) = (0u32, 0u32, 1usize);
    while length <= 30 {
        code.first[length] = next;
        code.offset[length] = filled;
        let mut symbol = 0u16;
        while symbol < 257 {
            if LENGTHS[symbol as usize] as usize == length {
                code.symbols[filled as usize] = symbol;
                filled += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.end[length] = (next as u64) << (32 - length);
        next <<= 1;
        length += 1;
    }
    code
}

const fn short() -> [(u16, u32); 1 << SHORT_BITS] {
    let code = code();
    let mut table = [(0u16, 0u32); 1 << SHORT_BITS];
    let mut front = 0u32;
    while front < 1 << SHORT_BITS {
        let mut length = 1u32;
        while length <= SHORT_BITS {
            if ((front as u64) << 24) < code.end[length as usize] {
                let within = (front >> (SHORT_BITS - length)) - code.first[length as usize];
                let place = code.offset[length as usize] + within;
                table[front as usize] = (code.symbols[place as usize], length);
                break;
            }
            length += 1;
        }
        front += 1;
    }
    table
}

/// Bits of each symbol's code; the last is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
