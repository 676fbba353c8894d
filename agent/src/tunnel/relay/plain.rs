//! One direction between two plain connections.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::buffer::{ReadSize, finish, try_read};
use super::{RelayError, add};

/// Copies until the end of `from`, then ends `to`.
pub(super) async fn copy(
    mut from: ReadHalf<'_>,
    from_failed: impl Fn(io::Error) -> RelayError,
    mut to: WriteHalf<'_>,
    to_failed: impl Fn(io::Error) -> RelayError,
    moved: &Cell<u64>,
) -> Result<(), RelayError> {
    let mut size = ReadSize::default();
    loop {
        poll_fn(|cx| from.as_ref().poll_read_ready(cx)).await.map_err(&from_failed)?;
        while let Some(read) = try_read(&mut from, size.bytes()).await {
            let mut bytes = read.map_err(&from_failed)?;
            if bytes.is_empty() {
                return finish(&mut to).await.map_err(to_failed);
            }
            size.learn(size.bytes(), bytes.len());
            let length = bytes.len();
            to.write_all_buf(&mut bytes).await.map_err(&to_failed)?;
            add(moved, length);
        }
    }
}
