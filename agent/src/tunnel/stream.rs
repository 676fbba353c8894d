//! One connection's two byte streams inside a tunnel.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use super::driver::{Ended, StreamHandle};
use super::pool::StreamSlot;
use super::relay::{Leg, Progress};

/// An open CONNECT stream, on either side. Dropped before [`super::relay()`] has finished with it, it
/// is reset, and the peer's application sees a reset too.
pub struct TunnelStream {
    handle: StreamHandle,
    answer: Option<Box<HeaderMap>>,
    slot: Option<StreamSlot>,
}

impl TunnelStream {
    pub(super) fn new(handle: StreamHandle) -> Self {
        Self { handle, answer: None, slot: None }
    }

    /// A stream that counts against its tunnel's limit until dropped.
    pub(super) fn dialled(mut self, answer: HeaderMap, slot: StreamSlot) -> Self {
        self.answer = (!answer.is_empty()).then(|| Box::new(answer));
        self.slot = Some(slot);
        self
    }

    /// The headers of the peer's answer, once, on a stream that we opened.
    pub fn take_answer(&mut self) -> HeaderMap {
        self.answer.take().map_or_else(HeaderMap::new, |headers| *headers)
    }

    /// The stream, with the headers of the peer's answer dropped.
    #[must_use]
    pub fn without_answer(mut self) -> Self {
        self.answer = None;
        self
    }

    /// The certificate chain of the tunnel's far end, on a stream that we opened; its own first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.slot.as_ref().map_or(&[], StreamSlot::peer_certificates)
    }

    /// Gives the application's connection to the tunnel.
    pub(super) fn attach(&self, app: Leg, progress: &Rc<Progress>) {
        self.handle.attach(app, progress);
    }

    pub(super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<Ended> {
        self.handle.poll_ended(cx)
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("handle", &self.handle).finish_non_exhaustive()
    }
}
