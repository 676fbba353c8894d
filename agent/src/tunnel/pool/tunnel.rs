//! One pooled tunnel, and how many streams it carries.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use super::super::driver::Link;

/// A tunnel as its users see it.
pub(super) struct Tunnel {
    link: Link,
    tls: Arc<ClientConfig>,
    peer: Vec<CertificateDer<'static>>,
    streams: Cell<usize>,
    /// The link settled or retired.
    changed: Rc<Notify>,
}

impl Tunnel {
    pub(super) fn new(
        link: Link,
        tls: Arc<ClientConfig>,
        peer: Vec<CertificateDer<'static>>,
    ) -> Self {
        let changed = link.changed();
        Self { link, tls, peer, streams: Cell::new(0), changed }
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
        &self.tunnel.peer
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.tunnel.streams.set(self.tunnel.streams.get().saturating_sub(1));
    }
}
