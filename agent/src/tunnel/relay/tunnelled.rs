//! Both directions between an application and a stream of a tunnel.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::AsyncWrite as _;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::buffer::{ReadSize, finish, try_read};
use super::{RelayError, add};

/// Bytes collected from the tunnel for one write.
const MAX_BATCH_BYTES: usize = 512 << 10;
/// Frames collected from the tunnel for one write.
const MAX_BATCH_FRAMES: usize = 64;

/// From the application into the tunnel, until the one ends or the other wants no more.
pub(super) async fn upload(
    mut app: ReadHalf<'_>,
    send: &mut SendStream<Bytes>,
    moved: &AtomicU64,
) -> Result<(), RelayError> {
    let mut size = ReadSize::default();
    loop {
        let Some(ready) = poll_fn(|cx| poll_readable(&app, send, cx)).await? else {
            return Ok(());
        };
        ready.map_err(RelayError::App)?;
        loop {
            let Some(room) = room(send, size.bytes()).await? else { return Ok(()) };
            let Some(read) = try_read(&mut app, room.min(size.bytes())).await else { break };
            let bytes = read.map_err(RelayError::App)?;
            let (length, end) = (bytes.len(), bytes.is_empty());
            send.send_data(bytes, end).map_err(RelayError::Tunnel)?;
            if end {
                return Ok(());
            }
            size.learn(length);
            add(moved, length);
        }
        // An idle application must not keep a part of the tunnel's window.
        send.reserve_capacity(0);
    }
}

/// Ready when the application has sent something; none if the peer wants no more.
fn poll_readable(
    app: &ReadHalf<'_>,
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<io::Result<()>>, RelayError>> {
    if let Poll::Ready(reset) = send.poll_reset(cx) {
        return Poll::Ready(judge(reset).map(|()| None));
    }
    app.as_ref().poll_read_ready(cx).map(|ready| Ok(Some(ready)))
}

/// How much the peer, and our buffer, take now: at least 1; none if the peer wants no more.
async fn room(send: &mut SendStream<Bytes>, want: usize) -> Result<Option<usize>, RelayError> {
    send.reserve_capacity(want);
    poll_fn(|cx| {
        loop {
            let room = send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(Some(room)));
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(RelayError::Tunnel(error))),
                None => return send.poll_reset(cx).map(|reset| judge(reset).map(|()| None)),
            }
        }
    })
    .await
}

/// Peers end a stream in order by these two also.
fn is_orderly(reason: Reason) -> bool {
    matches!(reason, Reason::NO_ERROR | Reason::CANCEL)
}

fn judge(reset: Result<Reason, h2::Error>) -> Result<(), RelayError> {
    match reset {
        Ok(reason) if is_orderly(reason) => Ok(()),
        Ok(reason) => Err(RelayError::Reset(reason)),
        Err(error) => Err(RelayError::Tunnel(error)),
    }
}

/// Data frames that arrived together.
#[derive(Default)]
struct Batch {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// How the stream ended, if it did after these.
    end: Option<Result<(), RelayError>>,
}

/// From the tunnel to the application, until the peer ends.
pub(super) async fn download(
    recv: &mut RecvStream,
    mut app: WriteHalf<'_>,
    moved: &AtomicU64,
) -> Result<(), RelayError> {
    loop {
        let mut batch = poll_fn(|cx| poll_batch(recv, cx)).await;
        while batch.bytes > 0 {
            let written = poll_fn(|cx| batch.poll_write(&mut app, cx)).await;
            let written = written.map_err(RelayError::App)?;
            add(moved, written);
            // The peer may send as much again, only now that the application has it.
            let released = recv.flow_control().release_capacity(written);
            released.map_err(RelayError::Tunnel)?;
        }
        if let Some(end) = batch.end {
            end?;
            return finish(&mut app).await.map_err(RelayError::App);
        }
    }
}

fn poll_batch(recv: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Batch> {
    let mut batch = Batch::default();
    while batch.bytes < MAX_BATCH_BYTES && batch.frames.len() < MAX_BATCH_FRAMES {
        match recv.poll_data(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                batch.bytes += frame.len();
                batch.frames.push_back(frame);
            }
            Poll::Ready(Some(Err(error))) => {
                let reset = match error.reason() {
                    Some(reason) if error.is_reset() => Ok(reason),
                    _ => Err(error),
                };
                batch.end = Some(judge(reset));
                return Poll::Ready(batch);
            }
            Poll::Ready(None) => {
                batch.end = Some(Ok(()));
                return Poll::Ready(batch);
            }
            Poll::Pending if batch.frames.is_empty() => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(batch)
}

impl Batch {
    fn poll_write(
        &mut self,
        app: &mut WriteHalf<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); MAX_BATCH_FRAMES];
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
        }
        let slices = &slices[..self.frames.len()];
        let written = ready!(Pin::new(app).poll_write_vectored(cx, slices))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(frame) = self.frames.front_mut() {
            if written < frame.len() {
                frame.advance(written);
                return;
            }
            written -= frame.len();
            self.frames.pop_front();
        }
    }
}
