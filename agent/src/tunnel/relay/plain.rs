//! One direction between two plain connections.
//!
//! What is read is written at once; only what the other side does not take is copied, and waits on the account of the
//! pod. Nothing more is read meanwhile.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::super::account::Account;
use super::buffer::{ReadSize, Scratch};
use super::{RelayError, add};

/// Read at once while the pod holds too much, in bytes.
const TIGHT_READ: usize = 8 << 10;
/// What the kernel holds for a reader that does not read, in bytes: as of a stream's application.
const IN_KERNEL: usize = 128 << 10;

/// Where bytes come from or go to, and what is told when it breaks.
pub(super) struct Side<Half, Failed> {
    pub(super) half: Half,
    pub(super) failed: Failed,
}

/// Copies until the end of `from`, then ends `to`.
pub(super) async fn copy(
    mut from: Side<ReadHalf<'_>, impl Fn(io::Error) -> RelayError>,
    mut to: Side<WriteHalf<'_>, impl Fn(io::Error) -> RelayError>,
    moved: &Cell<u64>,
    account: &Rc<Account>,
) -> Result<(), RelayError> {
    let mut size = ReadSize::default();
    loop {
        let most = if account.is_tight() { TIGHT_READ } else { size.bytes() };
        let (scratch, read) = poll_fn(|cx| poll_read(&mut from.half, most, cx)).await;
        let read = read.map_err(&from.failed)?;
        if read == 0 {
            drop(scratch);
            return finish(&mut to.half).await.map_err(to.failed);
        }
        size.learn(most, read);
        let written = match to.half.try_write(scratch.read(read)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written.map_err(&to.failed)?,
        };
        let rest = &scratch.read(read)[written..];
        if !rest.is_empty() {
            let spent = |spent| (to.failed)(io::Error::new(io::ErrorKind::OutOfMemory, spent));
            let _held = account.hold(IN_KERNEL + rest.len()).map_err(spent)?;
            let rest = rest.to_vec();
            drop(scratch);
            to.half.write_all(&rest).await.map_err(&to.failed)?;
        }
        add(moved, read);
    }
}

/// Reads up to `max` bytes to the thread's buffer; 0 at the end.
fn poll_read(
    from: &mut ReadHalf<'_>,
    max: usize,
    cx: &mut Context<'_>,
) -> Poll<(Scratch, io::Result<usize>)> {
    let mut scratch = Scratch::take(max);
    // Knows after a short read that there is no more, without asking the kernel again.
    let read = pin!(from.read(scratch.room())).poll(cx);
    read.map(|read| (scratch, read))
}

/// Sends FIN. That the other side is gone already is no error at the end of a direction.
async fn finish(to: &mut WriteHalf<'_>) -> io::Result<()> {
    match to.shutdown().await {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}
