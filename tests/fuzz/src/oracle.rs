//! The same frames to a server of ours and to one of the `h2` crate: they must agree on what is told
//! and on what is refused.
//!
//! Frames are made from bytes so that most of them make sense. Where this crate is stricter on
//! purpose (see `tunnel::h2`), no such frames are made. Also part of the agent's tests, which replay
//! the corpus.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::drive::CONFIG;
use super::script::script;
use super::verdict::{FLOW_CONTROL_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, Verdict, report, told};
use super::wire::Wire;
use crate::tunnel::h2::{Connection, Event};

const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

/// The first byte says whether the application takes what comes; the others are the script.
pub fn frames(data: &[u8]) {
    let Some((takes, rest)) = data.split_first() else { return };
    let frames = script(rest);
    let (mut ours, mut theirs) = (Ours::new(takes % 2 == 0), Theirs::new(takes % 2 == 0));
    let mut closed = BTreeSet::new();
    let mut steps = Vec::new();
    for frame in &frames {
        let id = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
        let (ours, theirs) = (ours.take(frame), theirs.take(frame));
        steps.push(told(frame));
        if ours.is_the_end_with(&theirs) {
            return;
        }
        let same = ours.agrees_with(&theirs);
        if !same && is_known(frame, id, &closed, takes % 2 == 0, &ours, &theirs) {
            return;
        }
        assert!(same, "{}", report(&steps, &ours, &theirs));
        // RST_STREAM, or END_STREAM.
        if frame[3] == 3 || (frame[3] <= 1 && frame[4] & 1 != 0) {
            closed.insert(id);
        }
        closed.extend(ours.resets.keys());
    }
}

/// Differences that are meant.
fn is_known(
    frame: &[u8],
    id: u32,
    closed: &BTreeSet<u32>,
    takes: bool,
    ours: &Verdict,
    theirs: &Verdict,
) -> bool {
    let (kind, only_ours) = (frame[3], !theirs.is_refused());
    match (ours.broken, ours.resets.get(&id)) {
        // The crate forgives what comes after the end of a stream that it reset itself, and more
        // than the window for one that is reset.
        (Some(STREAM_CLOSED | FLOW_CONTROL_ERROR), _) => only_ours && closed.contains(&id),
        // It takes pseudo-headers in trailers.
        (None, Some(&PROTOCOL_ERROR)) => only_ours && kind == 1,
        // It gives credit back at other times.
        (None, Some(&FLOW_CONTROL_ERROR)) => only_ours && kind == 0 && takes,
        (None, None) if kind == 0 && takes => {
            closed.contains(&id) || theirs.resets.get(&id) == Some(&FLOW_CONTROL_ERROR)
        }
        // It judges what is late, and a WINDOW_UPDATE by 0 for a stream that never was.
        (None, None) => {
            closed.contains(&id) || (kind == 8 && theirs.broken == Some(PROTOCOL_ERROR))
        }
        _ => false,
    }
}

struct Ours {
    server: Connection,
    takes: bool,
}

impl Ours {
    fn new(takes: bool) -> Self {
        let mut this = Self { server: Connection::server(CONFIG), takes };
        this.take(START);
        this
    }

    fn take(&mut self, frame: &[u8]) -> Verdict {
        let (mut verdict, mut rest, mut out) = (Verdict::default(), frame, Vec::new());
        while let Ok((taken, Some(event))) = self.server.receive(rest) {
            rest = &rest[taken..];
            self.act(event, &mut verdict);
        }
        self.server.take_output(&mut out);
        verdict.sent(&out);
        verdict
    }

    fn act(&mut self, event: Event<'_>, verdict: &mut Verdict) {
        match event {
            Event::Request { id, request } => {
                verdict.data.insert(id.value(), Vec::new());
                if request.end {
                    verdict.ended.insert(id.value());
                }
                let (ok, headers) = (http::StatusCode::OK, http::HeaderMap::new());
                self.server.respond(id, ok, &headers, false).expect("it was just opened");
            }
            Event::Data { id, bytes } => {
                verdict.data.entry(id.value()).or_default().extend_from_slice(bytes);
                if self.takes {
                    self.server.consumed(id, bytes.len(), false);
                }
            }
            Event::End { id } => {
                verdict.ended.insert(id.value());
            }
            _ => {}
        }
    }
}

/// A stream at the crate's server. The sending half is held, else it would be reset.
struct Stream {
    id: u32,
    body: ::h2::RecvStream,
    ended: bool,
    _send: ::h2::SendStream<Bytes>,
}

struct Theirs {
    wire: Wire,
    server: ::h2::server::Connection<Wire, Bytes>,
    streams: Vec<Stream>,
    takes: bool,
}

impl Theirs {
    fn new(takes: bool) -> Self {
        let wire = Wire::default();
        let cx = &mut Context::from_waker(Waker::noop());
        wire.0.borrow_mut().0.extend(START);
        let mut builder = ::h2::server::Builder::new();
        builder
            .initial_window_size(CONFIG.initial_window)
            .initial_connection_window_size(16 << 20)
            .max_concurrent_streams(CONFIG.max_streams)
            // The crate refuses a list of exactly its limit.
            .max_header_list_size(CONFIG.max_header_list + 1)
            .data_frame_budget(usize::MAX / 2)
            .max_concurrent_reset_streams(1000)
            .max_pending_accept_reset_streams(1000)
            .reset_stream_duration(std::time::Duration::from_secs(3600));
        let handshake = pin!(builder.handshake::<_, Bytes>(wire.clone())).poll(cx);
        let Poll::Ready(Ok(server)) = handshake else { panic!("no handshake") };
        let mut this = Self { wire, server, streams: Vec::new(), takes };
        this.take(&[]);
        this
    }

    fn take(&mut self, frame: &[u8]) -> Verdict {
        let mut verdict = Verdict::default();
        let cx = &mut Context::from_waker(Waker::noop());
        self.wire.0.borrow_mut().0.extend(frame);
        self.accept(&mut verdict, cx);
        for stream in &mut self.streams {
            stream.read(self.takes, &mut verdict, cx);
        }
        // What was given back while reading goes out.
        self.accept(&mut verdict, cx);
        verdict.sent(&std::mem::take(&mut self.wire.0.borrow_mut().1));
        verdict
    }

    /// Answers what comes.
    fn accept(&mut self, verdict: &mut Verdict, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(Ok((request, mut respond)))) = self.server.poll_accept(cx) {
            let id = respond.stream_id().as_u32();
            let Ok(send) = respond.send_response(http::Response::new(()), false) else { continue };
            verdict.data.insert(id, Vec::new());
            self.streams.push(Stream { id, body: request.into_body(), ended: false, _send: send });
        }
    }
}

impl Stream {
    fn read(&mut self, takes: bool, verdict: &mut Verdict, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(Ok(bytes))) = self.body.poll_data(cx) {
            if !bytes.is_empty() {
                verdict.data.entry(self.id).or_default().extend_from_slice(&bytes);
            }
            if takes {
                self.body.flow_control().release_capacity(bytes.len()).expect("it was told");
            }
        }
        // The end behind trailers is told when they were taken.
        let trailers = self.body.poll_trailers(cx);
        let ended = matches!(trailers, Poll::Ready(Ok(_)));
        if !self.ended && ended && self.body.is_end_stream() {
            self.ended = true;
            verdict.ended.insert(self.id);
        }
    }
}
