//! Where an application's bytes are read to: a buffer of the thread, so that an idle connection
//! holds none.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Sizes of a read, in bytes; small ones keep an interactive connection's memory small, large ones
/// save system calls.
const SIZES: [usize; 4] = [8 << 10, 64 << 10, 256 << 10, 512 << 10];
/// Shorter reads are copied out, in bytes, lest they keep a large buffer alive.
const COPY_BELOW: usize = 4 << 10;

thread_local! {
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
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

/// Reads up to `max` bytes if there are any; empty at the end.
pub(super) async fn try_read(from: &mut ReadHalf<'_>, max: usize) -> Option<io::Result<Bytes>> {
    poll_fn(|cx| {
        let mut scratch = SCRATCH.take();
        scratch.reserve(max);
        let mut limited = (&mut scratch).limit(max);
        let polled = pin!(from.read_buf(&mut limited)).poll(cx);
        let read = match polled {
            Poll::Pending => None,
            Poll::Ready(Err(error)) => Some(Err(error)),
            Poll::Ready(Ok(length)) if length < COPY_BELOW => {
                let bytes = Bytes::copy_from_slice(&scratch);
                scratch.clear();
                Some(Ok(bytes))
            }
            Poll::Ready(Ok(_)) => Some(Ok(scratch.split().freeze())),
        };
        SCRATCH.set(scratch);
        Poll::Ready(read)
    })
    .await
}

/// Sends FIN. That the other side is gone already is no error at the end of a direction.
pub(super) async fn finish(to: &mut WriteHalf<'_>) -> io::Result<()> {
    match to.shutdown().await {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
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
