//! Where an application's bytes are read to: a buffer of the thread, so that an idle connection
//! holds none.

use std::cell::Cell;

/// Sizes of a read, in bytes; small ones keep an interactive connection's memory small, large ones
/// save system calls.
const SIZES: [usize; 4] = [8 << 10, 64 << 10, 256 << 10, 512 << 10];
thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static USED: Cell<bool> = const { Cell::new(false) };
}

/// How much to read next: more while reads come full, less when they fall short.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct ReadSize(usize);

impl ReadSize {
    pub(in super::super) fn bytes(self) -> usize {
        SIZES[self.0]
    }

    /// Learns from a read of `got` bytes where `asked` was room for.
    pub(in super::super) fn learn(&mut self, asked: usize, got: usize) {
        if got >= self.bytes() {
            self.0 = (self.0 + 1).min(SIZES.len() - 1);
        } else if got < asked && self.0 > 0 && got < SIZES[self.0 - 1] {
            self.0 -= 1;
        }
    }
}

/// Lets go of the thread's buffer, if it was not used since the last call.
pub(in super::super) fn free() {
    if !USED.take() {
        SCRATCH.take();
    }
}

/// The thread's buffer, until dropped: never over an await.
pub(super) struct Scratch {
    buffer: Vec<u8>,
    room: usize,
}

impl Scratch {
    /// With room for so many bytes.
    pub(super) fn take(room: usize) -> Self {
        USED.set(true);
        let mut buffer = SCRATCH.take();
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        Self { buffer, room }
    }

    /// To be read to.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.room]
    }

    /// The first bytes, which were read.
    pub(super) fn read(&self, bytes: usize) -> &[u8] {
        &self.buffer[..bytes]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grow_while_full_and_shrink_when_short() {
        let mut size = ReadSize::default();
        let sizes: Vec<_> = [8 << 10, 64 << 10, 256 << 10, 512 << 10, 300 << 10, 100, 100, 100]
            .into_iter()
            .map(|got| {
                size.learn(size.bytes(), got);
                size.bytes() >> 10
            })
            .collect();
        assert_eq!(sizes, [64, 256, 512, 512, 512, 256, 64, 8]);
    }

    #[test]
    fn a_read_that_got_all_it_asked_for_is_not_short() {
        let mut size = ReadSize(3);
        size.learn(100, 100);
        assert_eq!(size, ReadSize(3));
        size.learn(100, 99);
        assert_eq!(size, ReadSize(2));
    }
}
