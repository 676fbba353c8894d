//! One direction between two plain connections.
//!
//! What is read is written at once; only what the other side does not take is copied, and waits on the account of the
//! pod. Nothing more is read meanwhile.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::super::account::Account;
use super::brake::Way;
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

/// Copies until the end of `from`, then ends `to`; `moved` counts, and `way` has what another process needs to go on if this
/// is dropped at an await.
pub(super) async fn copy(
    mut from: Side<ReadHalf<'_>, impl Fn(io::Error) -> RelayError>,
    mut to: Side<WriteHalf<'_>, impl Fn(io::Error) -> RelayError>,
    (moved, way): (&Cell<u64>, &RefCell<Way>),
    account: &Rc<Account>,
) -> Result<(), RelayError> {
    if way.borrow().ended {
        return Ok(());
    }
    let mut size = ReadSize::default();
    loop {
        if !way.borrow().rest.is_empty() {
            write_rest(&to, (moved, way), account).await?;
        }
        let most = if account.is_tight() { TIGHT_READ } else { size.bytes() };
        let (scratch, read) = poll_fn(|cx| poll_read(&mut from.half, most, cx)).await;
        let read = read.map_err(&from.failed)?;
        if read == 0 {
            drop(scratch);
            // Both at once, as nothing of it waits.
            way.borrow_mut().ended = true;
            return finish(&mut to.half).await.map_err(to.failed);
        }
        size.learn(most, read);
        let written = match to.half.try_write(scratch.read(read)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written.map_err(&to.failed)?,
        };
        add(moved, written);
        way.borrow_mut().rest.extend_from_slice(&scratch.read(read)[written..]);
    }
}

/// Writes what was read before.
async fn write_rest(
    to: &Side<WriteHalf<'_>, impl Fn(io::Error) -> RelayError>,
    (moved, way): (&Cell<u64>, &RefCell<Way>),
    account: &Rc<Account>,
) -> Result<(), RelayError> {
    let spent = |spent| (to.failed)(io::Error::new(io::ErrorKind::OutOfMemory, spent));
    let length = way.borrow().rest.len();
    let _held = account.hold(IN_KERNEL + length).map_err(spent)?;
    let mut sent = 0;
    while sent < length {
        to.half.writable().await.map_err(&to.failed)?;
        let written = to.half.try_write(&way.borrow().rest);
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err((to.failed)(error)),
            Ok(written) => {
                add(moved, written);
                way.borrow_mut().rest.drain(..written);
                sent += written;
            }
        }
    }
    // Not kept for the next time: few wait, and many are idle.
    way.borrow_mut().rest = Vec::new();
    Ok(())
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
