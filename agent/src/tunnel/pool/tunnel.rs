//! One pooled tunnel, and how many streams it carries.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::chain::Chain;
use super::super::driver::Link;
use super::super::exit::Exit;

/// What becomes of a tunnel that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It takes no more streams, and ends with the last one.
    Drain,
    /// It ends now.
    Cut,
}

/// A tunnel as its users see it.
pub(super) struct Tunnel {
    link: Link,
    tls: Arc<ClientConfig>,
    peer: Chain,
    abort: CancellationToken,
    streams: Cell<usize>,
    /// The link settled or retired.
    changed: Rc<Notify>,
}

impl Tunnel {
    pub(super) fn new(
        link: Link,
        tls: Arc<ClientConfig>,
        peer: Chain,
        abort: CancellationToken,
    ) -> Self {
        let changed = link.changed();
        Self { link, tls, peer, abort, streams: Cell::new(0), changed }
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
        self.link.is_retired()
    }

    /// Whether the peer's settings have arrived, and with them its limit of streams.
    pub(super) fn is_settled(&self) -> bool {
        self.link.is_settled()
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
        if self.is_retired() || !self.is_settled() {
            return None;
        }
        (self.streams.get() < self.link.max_open().min(max)).then(|| self.first())
    }

    /// Room for the stream it was dialled for.
    pub(super) fn first(self: &Rc<Self>) -> StreamSlot {
        self.streams.set(self.streams.get() + 1);
        StreamSlot { tunnel: Rc::clone(self) }
    }

    /// What its peer has shown.
    pub(super) fn peer(&self) -> &Chain {
        &self.peer
    }

    /// By which it may be taken elsewhere.
    pub(super) fn exit(&self) -> Exit {
        Exit::new(self.link.clone())
    }

    pub(super) fn is_cut(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// Ends now.
    pub(super) fn cut(&self) {
        self.link.retire();
        self.abort.cancel();
    }

    /// Takes no more streams.
    pub(super) fn retire(&self) {
        self.link.retire();
    }
}

/// One stream's place in a tunnel, until dropped.
pub(in super::super) struct StreamSlot {
    tunnel: Rc<Tunnel>,
}

impl StreamSlot {
    pub(super) fn link(&self) -> &Link {
        &self.tunnel.link
    }

    pub(super) fn is_retired(&self) -> bool {
        self.tunnel.is_retired()
    }

    pub(super) fn retire(&self) {
        self.tunnel.retire();
    }

    pub(in super::super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tunnel.peer.certificates()
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.tunnel.streams.set(self.tunnel.streams.get().saturating_sub(1));
    }
}
