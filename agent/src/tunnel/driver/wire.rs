//! A tunnel's own connection: TCP, TLS, and what waits between them.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BufMut as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::tls::{Established, Frozen, Session};
use super::broken::Broken;
use super::scratch::{self, RECEIVE};
use crate::sys::socket;

/// How long a peer may take to read our last words.
const LINGER: Duration = Duration::from_secs(1);
/// What a peer may still send meanwhile, in bytes.
const LINGER_BYTES: u64 = 1 << 20;
/// What the kernel is taken to hold for a peer that does not read, in bytes.
const IN_KERNEL: usize = 128 << 10;

/// A tunnel's own connection.
pub(super) struct Wire {
    tcp: TcpStream,
    tls: Session,
    waker: Waker,
    /// The start of a record.
    partial: Vec<u8>,
    /// `partial` may hold whole records: it came with the handshake.
    fresh: bool,
    /// There may be something to receive.
    pub(super) readable: bool,
    /// Records that wait for the peer.
    sealed: Vec<u8>,
    /// How many bytes of them are sent.
    sent: usize,
    /// The kernel and we hold little for a peer that does not read.
    tight: bool,
}

/// What came of looking for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing for now: the wire's key is noted once there is something.
    Nothing,
    /// So many bytes of plaintext; `closed` if they are the last. They were `sealed` bytes, which
    /// may be many more: that is what a peer has us work for.
    Plain { length: usize, sealed: usize, closed: bool },
    /// The peer closed.
    End,
}

impl Wire {
    pub(super) fn new(tcp: TcpStream, established: Established, waker: Waker) -> Self {
        let Established { session, rest, .. } = established;
        Self {
            tcp,
            tls: session,
            waker,
            fresh: !rest.is_empty(),
            partial: rest,
            readable: true,
            sealed: Vec::new(),
            sent: 0,
            tight: false,
        }
    }

    /// A connection that another process had, with what was received and not opened, and sealed and not sent.
    pub(super) fn resume(
        tcp: TcpStream,
        tls: Session,
        (partial, sealed): (Vec<u8>, Vec<u8>),
        waker: Waker,
    ) -> Self {
        let fresh = !partial.is_empty();
        Self { tcp, tls, waker, partial, fresh, readable: true, sealed, sent: 0, tight: false }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Gives up the session, with what was received and not opened, and sealed and not sent; the connection back if the
    /// session is not to be had.
    pub(super) fn freeze(mut self) -> Result<(Frozen, Vec<u8>, Vec<u8>), Box<Self>> {
        match self.tls.freeze() {
            Ok(session) => {
                self.sealed.drain(..self.sent);
                Ok((session, self.partial, self.sealed))
            }
            Err(tls) => {
                self.tls = tls;
                Err(Box::new(self))
            }
        }
    }

    /// Receives once, and leaves plaintext at the start of `buffer`, which must be empty.
    pub(super) fn receive(&mut self, buffer: &mut Vec<u8>) -> Result<Received, Broken> {
        buffer.reserve(RECEIVE + self.partial.len());
        buffer.extend_from_slice(&self.partial);
        if !std::mem::take(&mut self.fresh) {
            let mut limited = (&mut *buffer).limit(RECEIVE);
            let mut context = Context::from_waker(&self.waker);
            match pin!(self.tcp.read_buf(&mut limited)).poll(&mut context) {
                Poll::Pending => {
                    self.readable = false;
                    return Ok(Received::Nothing);
                }
                Poll::Ready(read) => {
                    if read? == 0 {
                        return Ok(Received::End);
                    }
                }
            }
        }
        let sealed = buffer.len();
        let opened = self.tls.open(buffer);
        self.tls.flush(&mut self.sealed)?;
        let opened = opened?;
        self.keep(&buffer[opened.consumed..]);
        Ok(Received::Plain { length: opened.plain, sealed, closed: opened.closed })
    }

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// Bytes sealed and not sent.
    pub(super) fn waiting(&self) -> usize {
        self.sealed.len() - self.sent
    }

    /// Bytes of memory, the kernel's for a peer that does not read among them.
    pub(super) fn held(&self) -> usize {
        let waits = self.waiting() > 0;
        self.partial.capacity() + if waits { self.sealed.capacity() + IN_KERNEL } else { 0 }
    }

    pub(super) fn is_tight(&self) -> bool {
        self.tight
    }

    /// From now on the kernel takes little that it cannot send; or as it likes.
    pub(super) fn tighten(&mut self, tight: bool) {
        if self.tight != tight {
            self.tight = tight;
            if let Err(error) = socket::tighten(&self.tcp, tight) {
                tracing::debug!(%error, "a tunnel's kernel buffer stays as it is");
            }
        }
    }

    /// Adds frames to what waits.
    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<(), Broken> {
        if plain.is_empty() {
            return Ok(());
        }
        if self.sealed.capacity() == 0 {
            self.sealed = scratch::sealed();
        } else if self.sent > self.waiting() {
            self.sealed.drain(..std::mem::take(&mut self.sent));
        }
        Ok(self.tls.seal(plain, &mut self.sealed)?)
    }

    /// Sends what the socket takes; if that is not all, the wire's key is noted once it takes more.
    pub(super) fn send(&mut self) -> Result<(), Broken> {
        while self.waiting() > 0 {
            match self.tcp.try_write(&self.sealed[self.sent..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut context = Context::from_waker(&self.waker);
                    match self.tcp.poll_write_ready(&mut context) {
                        Poll::Ready(ready) => ready?,
                        Poll::Pending => {
                            self.shrink();
                            return Ok(());
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        if self.sealed.capacity() > 0 {
            self.sent = 0;
            scratch::give_back_sealed(std::mem::take(&mut self.sealed));
        }
        Ok(())
    }

    /// Lets go of room that what waits does not need, where memory is short.
    fn shrink(&mut self) {
        if self.tight && self.waiting() < self.sealed.capacity() / 2 {
            let rest = self.sealed[std::mem::take(&mut self.sent)..].to_vec();
            scratch::give_back_sealed(std::mem::replace(&mut self.sealed, rest));
        }
    }

    /// Sends what waits and these last frames, and closes so that they arrive: unread bytes at close
    /// would make the kernel reset.
    pub(super) async fn leave(mut self, last: Vec<u8>) {
        let said = timeout(LINGER, self.say(&last)).await;
        if let Ok(Err(error)) = said {
            tracing::trace!(%error, "a tunnel's last words did not arrive");
        }
    }

    async fn say(&mut self, last: &[u8]) -> Result<(), Broken> {
        self.seal(last)?;
        self.tls.close(&mut self.sealed)?;
        self.tcp.write_all(&self.sealed[self.sent..]).await?;
        self.tcp.shutdown().await?;
        let mut rest = (&mut self.tcp).take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        Ok(())
    }
}
