//! One pooled tunnel: how many streams it carries, and the task that drives it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::keepalive::until_dead;
use super::super::limits::Limits;

/// A tunnel as its users see it.
pub(super) struct Tunnel {
    /// Gone once the tunnel takes no more streams; h2 closes when the last stream has ended too.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    tls: Arc<ClientConfig>,
    peer: Vec<CertificateDer<'static>>,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    /// The peer's settings have arrived, and with them its limit of streams.
    settled: Cell<bool>,
    /// `settled`, `sender` or `streams` changed.
    changed: Notify,
}

impl Tunnel {
    pub(super) fn new(
        sender: SendRequest<Bytes>,
        tls: Arc<ClientConfig>,
        peer: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self {
            sender: RefCell::new(Some(sender)),
            tls,
            peer,
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            settled: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// Whether it takes streams under this configuration; if it was made with another, it takes no
    /// more from now on.
    pub(super) fn is_current(&self, tls: &Arc<ClientConfig>) -> bool {
        if !Arc::ptr_eq(&self.tls, tls) {
            self.retire();
        }
        !self.is_retired()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.sender.borrow().is_none()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.get()
    }

    /// Waits until it is settled, or takes no more streams.
    pub(super) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_settled() || self.is_retired() {
                return;
            }
            changed.await;
        }
    }

    /// Room for one more stream, if the peer and we allow it.
    pub(super) fn reserve(self: &Rc<Self>, max: usize) -> Option<StreamSlot> {
        let peer = self.sender.borrow().as_ref()?.current_max_send_streams();
        let limit = if self.is_settled() { peer.min(max) } else { 0 };
        (self.streams.get() < limit).then(|| self.first())
    }

    /// Room for the stream it was dialled for.
    pub(super) fn first(self: &Rc<Self>) -> StreamSlot {
        self.streams.set(self.streams.get() + 1);
        StreamSlot { tunnel: Rc::clone(self) }
    }

    fn settle(&self) {
        if !self.settled.replace(true) {
            self.changed.notify_waiters();
        }
    }

    /// Takes no more streams.
    pub(super) fn retire(&self) {
        // Dropped after the borrow ends: h2 wakes tasks then.
        let sender = self.sender.borrow_mut().take();
        if sender.is_some() {
            self.changed.notify_waiters();
        }
    }

    /// Ends once it has carried nothing for that long.
    async fn idle(&self, timeout: Duration) {
        loop {
            let changed = self.changed.notified();
            if self.streams.get() > 0 {
                changed.await;
                continue;
            }
            let since = self.idle_since.get();
            sleep_until(since + timeout).await;
            if self.streams.get() == 0 && self.idle_since.get() == since {
                return;
            }
        }
    }
}

/// One stream's place in a tunnel, until dropped.
pub(in super::super) struct StreamSlot {
    tunnel: Rc<Tunnel>,
}

impl StreamSlot {
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.tunnel.sender.borrow().clone()
    }

    /// An answer has come, and the peer's settings before it.
    pub(super) fn answered(&self) {
        self.tunnel.settle();
    }

    pub(super) fn retire(&self) {
        self.tunnel.retire();
    }

    pub(in super::super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.tunnel.peer
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let left = self.tunnel.streams.get().saturating_sub(1);
        self.tunnel.streams.set(left);
        if left == 0 {
            self.tunnel.idle_since.set(Instant::now());
            self.tunnel.changed.notify_waiters();
        }
    }
}

/// Moves a tunnel's frames until it ends: at its last stream once retired, at once if the peer is
/// dead or `abort` is cancelled.
pub(super) async fn drive(
    tunnel: Rc<Tunnel>,
    mut connection: Connection<TlsStream<TcpStream>, Bytes>,
    limits: Limits,
    drain: CancellationToken,
    abort: CancellationToken,
) {
    let pings = connection.ping_pong();
    let idle_timeout = limits.idle_timeout;
    let alive = async {
        match pings {
            // The first answer tells that the peer's settings are here.
            Some(pings) => until_dead(pings, limits, Duration::ZERO, || tunnel.settle()).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(alive);
    loop {
        let retired = tunnel.is_retired();
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "tunnel ended");
                }
                break;
            }
            () = &mut alive => {
                tracing::debug!("tunnel's peer is dead");
                break;
            }
            () = abort.cancelled() => break,
            () = drain.cancelled(), if !retired => tunnel.retire(),
            () = tunnel.idle(idle_timeout), if !retired => tunnel.retire(),
        }
    }
    tunnel.retire();
}
