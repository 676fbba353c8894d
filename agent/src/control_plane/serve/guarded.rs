//! A connection that ends when its caller has not proven in time who it is, or has to give way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tonic::transport::server::Connected;

use crate::control_plane::gate::Ticket;

/// A stream, and how long it may go on.
pub(super) struct Guarded<T> {
    io: T,
    ticket: Arc<Ticket>,
    /// Ready when it is over; gone once its caller is known.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<T> Guarded<T> {
    /// Ends at `deadline`, or when the ticket is taken away, unless that is proven before.
    pub(super) fn new(io: T, ticket: Arc<Ticket>, deadline: Instant) -> Self {
        let own = ticket.clone();
        let over = async move {
            tokio::select! {
                () = own.evicted() => {}
                () = sleep_until(deadline) => {
                    if !own.proven() {
                        own.gave_up();
                    }
                }
            }
        };
        Self { io, ticket, over: Some(Box::pin(over)) }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(over) = &mut self.over else { return Ok(()) };
        if self.ticket.proven() {
            self.over = None;
            return Ok(());
        }
        match over.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // Polled again, it is over still.
                self.over = Some(Box::pin(std::future::ready(())));
                Err(io::Error::new(io::ErrorKind::TimedOut, "caller has not proven who it is"))
            }
        }
    }
}

impl<T> Connected for Guarded<T> {
    type ConnectInfo = Arc<Ticket>;

    fn connect_info(&self) -> Arc<Ticket> {
        self.ticket.clone()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
