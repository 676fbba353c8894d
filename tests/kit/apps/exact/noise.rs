//! Bytes of which each tells its flow and its place.

use std::io;
use std::sync::LazyLock;

/// A prime: no block of another size repeats with it.
const PERIOD: u32 = 1_000_003;
/// The longest part handed out, in bytes.
pub const PART: usize = 256 << 10;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise: Vec<u8> = (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    noise.extend_from_within(..PART);
    noise
});

/// Bytes `at..at + length` of a flow; `length` is at most [`PART`].
pub fn part(flow: u64, at: u64, length: usize) -> &'static [u8] {
    let start = flow.wrapping_mul(7919).wrapping_add(at) % u64::from(PERIOD);
    let start = usize::try_from(start).unwrap_or(0);
    &NOISE[start..start + length]
}

/// What arrives of a flow.
#[derive(Debug)]
pub struct Arriving {
    flow: u64,
    /// Bytes that arrived so far.
    pub at: u64,
}

impl Arriving {
    /// Nothing yet.
    pub fn new(flow: u64) -> Self {
        Self { flow, at: 0 }
    }

    /// Compares what came next.
    ///
    /// # Errors
    /// Other bytes than were sent.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for bytes in bytes.chunks(PART) {
            if part(self.flow, self.at, bytes.len()) != bytes {
                let place = format!("flow {} differs after byte {}", self.flow, self.at);
                return Err(io::Error::other(place));
            }
            self.at += bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_of_another_flow_or_place_is_found() {
        let mut arriving = Arriving::new(4);
        arriving.take(part(4, 0, 1000)).unwrap();
        arriving.take(part(4, 1000, PART)).unwrap();
        assert!(arriving.take(part(4, 1000, 64)).is_err(), "it came before");
        assert!(Arriving::new(4).take(part(5, 0, 64)).is_err(), "it is another's");
    }
}
