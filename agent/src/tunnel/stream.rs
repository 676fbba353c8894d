//! One connection's two byte streams inside a tunnel.

use std::fmt;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use super::pool::StreamSlot;

/// An open CONNECT stream, on either side. Dropped before [`super::relay()`] has finished with it, it
/// is reset, and the peer's application sees a reset too.
pub struct TunnelStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    finished: bool,
    answer: Option<Box<HeaderMap>>,
    slot: Option<StreamSlot>,
}

impl TunnelStream {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, finished: false, answer: None, slot: None }
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

    /// The certificate chain of the tunnel's far end, on a stream that we opened; its own first.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.slot.as_ref().map_or(&[], StreamSlot::peer_certificates)
    }

    pub(super) fn halves(&mut self) -> (&mut SendStream<Bytes>, &mut RecvStream) {
        (&mut self.send, &mut self.recv)
    }

    /// Both directions ended in order.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if !self.finished {
            // RFC 9113 8.5: a broken TCP connection is CONNECT_ERROR. The CANCEL that h2 would send
            // reads as an orderly end to mesh peers.
            self.send.send_reset(Reason::CONNECT_ERROR);
        }
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("id", &self.send.stream_id()).finish_non_exhaustive()
    }
}
