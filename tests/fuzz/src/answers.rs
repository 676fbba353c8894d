//! The same frames to a client of ours and to one of the `h2` crate, whose applications do the same:
//! they must agree on what is told, on what is refused, and on how much may be sent.
//!
//! As `oracle` does for servers. Also part of the agent's tests, which replay the corpus.

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};

use super::drive::CONFIG;
use super::replies::{Step, replies};
use super::script::PADDED;
use super::verdict::{FLOW_CONTROL_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, Verdict, report, told};
use super::wire::Wire;
use crate::tunnel::h2::{Code, Connection, Event, StreamId};

/// SETTINGS, and the acknowledgement of the client's.
const START: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
const AUTHORITY: &str = "a:1";
const REFUSED_STREAM: u32 = 7;

/// The first byte says whether the application takes what comes; the others are the script.
pub fn answers(data: &[u8]) {
    let Some((takes, rest)) = data.split_first() else { return };
    let takes = takes % 2 == 0;
    let (mut ours, mut theirs) = (Ours::new(takes), Theirs::new(takes));
    let mut told = Vec::new();
    let mut past = Past { takes, ..Past::default() };
    for step in replies(rest) {
        told.push(tell(&step));
        // Who may open no more streams opens none at either.
        if matches!(step, Step::Open) && !ours.client.can_open() {
            continue;
        }
        let ours = ours.take(&step);
        if matches!(&step, Step::Frames(frame) if frame[3] == PUSH_PROMISE) {
            // The crate forgives some, and trips over others.
            assert_eq!(ours.broken, Some(PROTOCOL_ERROR));
            return;
        }
        let verdict = theirs.take(&step);
        if ours.is_the_end_with(&verdict) {
            return;
        }
        let same = ours.agrees_with(&verdict);
        if !same && past.is_known(&step, &ours, &verdict) {
            return;
        }
        assert!(same, "{}", report(&told, &ours, &verdict));
        // The crate closes by itself what it no longer needs.
        if theirs.is_over {
            return;
        }
        past.learn(&step, &ours);
    }
}

fn tell(step: &Step) -> String {
    match step {
        Step::Frames(frame) => told(frame),
        other => format!("{other:?}"),
    }
}

/// What became of streams before.
#[derive(Default)]
struct Past {
    takes: bool,
    answered: BTreeSet<u32>,
    /// Reset by either end, or ended by the server.
    closed: BTreeSet<u32>,
    /// Ended by the client.
    finished: BTreeSet<u32>,
    /// Those whose DATA was padded: nobody takes padding.
    padded: BTreeSet<u32>,
}

impl Past {
    fn learn(&mut self, step: &Step, ours: &Verdict) {
        match step {
            Step::Cancel(id) => drop(self.closed.insert(*id)),
            Step::Finish(id) => drop(self.finished.insert(*id)),
            Step::Frames(frame) if frame[3] == DATA && frame[4] & PADDED != 0 => {
                self.padded.insert(stream(frame));
            }
            _ => {}
        }
        self.answered.extend(ours.answered.keys());
        self.closed.extend(ours.resets.keys().chain(ours.gone.keys()).chain(&ours.ended));
    }

    /// Whether bytes of this stream were given back.
    fn credits(&self, id: u32) -> bool {
        self.takes || self.padded.contains(&id)
    }

    /// Differences that are meant.
    fn is_known(&self, step: &Step, ours: &Verdict, theirs: &Verdict) -> bool {
        let Step::Frames(frame) = step else { return false };
        let (kind, id) = (frame[3], stream(frame));
        let only_ours = !theirs.is_refused();
        match (ours.broken, ours.resets.get(&id)) {
            // The crate forgets the window of who sends no more.
            (Some(FLOW_CONTROL_ERROR), _) if kind == SETTINGS => {
                only_ours && !self.finished.is_empty()
            }
            (None, Some(&FLOW_CONTROL_ERROR)) if kind == WINDOW_UPDATE => {
                only_ours && self.finished.contains(&id)
            }
            // It forgives what comes after the end of a stream that it reset itself, and more
            // than the window for one that is reset.
            (Some(STREAM_CLOSED | FLOW_CONTROL_ERROR), _) => only_ours && self.closed.contains(&id),
            // It takes pseudo-headers in trailers, and trailers in tunnels.
            (None, Some(&PROTOCOL_ERROR)) if kind == HEADERS && self.answered.contains(&id) => {
                only_ours
            }
            // It gives credit back at other times.
            (None, Some(&FLOW_CONTROL_ERROR)) if kind == DATA => only_ours && self.credits(id),
            (None, None) if kind == DATA && !self.closed.contains(&id) => {
                self.credits(id) && theirs.resets.get(&id) == Some(&FLOW_CONTROL_ERROR)
            }
            // Where both ends have ended, it tells of a reset and sends none.
            (None, Some(code)) if only_ours => theirs.gone.get(&id) == Some(code),
            // It judges what is late.
            (None, None) => self.closed.contains(&id) && theirs.is_refused(),
            _ => false,
        }
    }
}

fn stream(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]])
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;

impl Verdict {
    /// What an end reset itself is not gone by its peer, and what a GOAWAY refuses is refused whatever
    /// its code.
    fn settle(&mut self, step: &Step) {
        self.gone.retain(|id, _| !self.resets.contains_key(id));
        if matches!(step, Step::Frames(frame) if frame[3] == 7) {
            self.gone.values_mut().for_each(|code| *code = REFUSED_STREAM);
        }
    }
}

struct Ours {
    client: Connection,
    open: Vec<StreamId>,
    takes: bool,
}

impl Ours {
    fn new(takes: bool) -> Self {
        let client = Connection::client(CONFIG);
        let mut this = Self { client, open: Vec::new(), takes };
        this.take(&Step::Frames(START.to_vec()));
        this
    }

    fn take(&mut self, step: &Step) -> Verdict {
        let (mut verdict, mut out) = (Verdict::default(), Vec::new());
        match step {
            Step::Frames(frames) => self.receive(frames, &mut verdict),
            Step::Open => {
                let opened = self.client.open(AUTHORITY, &HeaderMap::new());
                self.open.push(opened.expect("there was room"));
            }
            Step::Send(id, count) => self.send(*id, *count, false, &mut out),
            Step::Finish(id) => self.send(*id, 0, true, &mut out),
            Step::Cancel(id) => {
                if let Some(id) = self.stream(*id) {
                    self.client.reset(id, Code::CANCEL);
                }
            }
        }
        self.client.take_output(&mut out);
        verdict.sent(&out);
        verdict.settle(step);
        verdict
    }

    fn stream(&self, id: u32) -> Option<StreamId> {
        self.open.iter().copied().find(|open| open.value() == id)
    }

    fn receive(&mut self, mut rest: &[u8], verdict: &mut Verdict) {
        while let Ok((taken, Some(event))) = self.client.receive(rest) {
            rest = &rest[taken..];
            match event {
                Event::Response { id, status, end, .. } => {
                    verdict.answered.insert(id.value(), status.as_u16());
                    if end {
                        verdict.ended.insert(id.value());
                    }
                }
                Event::Data { id, bytes } => {
                    verdict.data.entry(id.value()).or_default().extend_from_slice(bytes);
                    if self.takes {
                        self.client.consumed(id, bytes.len(), false);
                    }
                }
                Event::End { id } => {
                    verdict.ended.insert(id.value());
                }
                Event::Reset { id, code } => {
                    verdict.gone.insert(id.value(), code.0);
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, id: u32, mut left: usize, end: bool, out: &mut Vec<u8>) {
        let Some(id) = self.stream(id) else { return };
        // What the bytes depend on goes before them.
        self.client.take_output(out);
        loop {
            let count = left.min(self.client.capacity(id)).min(self.client.max_send_frame());
            if count == 0 && !end {
                return;
            }
            let Ok(head) = self.client.data(id, count, end) else { return };
            out.extend_from_slice(&head);
            out.resize(out.len() + count, 0);
            left -= count;
            if end {
                return;
            }
        }
    }
}

/// A stream of the crate's client.
struct Stream {
    id: u32,
    answer: ::h2::client::ResponseFuture,
    body: Option<::h2::RecvStream>,
    send: ::h2::SendStream<Bytes>,
    ended: bool,
    /// It was reset, by whomever.
    gone: bool,
}

struct Theirs {
    wire: Wire,
    sender: ::h2::client::SendRequest<Bytes>,
    connection: ::h2::client::Connection<Wire, Bytes>,
    streams: Vec<Stream>,
    takes: bool,
    is_over: bool,
}

impl Theirs {
    fn new(takes: bool) -> Self {
        let wire = Wire::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut builder = ::h2::client::Builder::new();
        builder
            .initial_window_size(CONFIG.initial_window)
            .initial_connection_window_size(16 << 20)
            // The crate refuses a list of exactly its limit.
            .max_header_list_size(CONFIG.max_header_list + 1)
            .max_send_buffer_size(1 << 30)
            .enable_push(false)
            .data_frame_budget(usize::MAX / 2)
            .max_concurrent_reset_streams(1000)
            .reset_stream_duration(std::time::Duration::from_secs(3600));
        let handshake = pin!(builder.handshake::<_, Bytes>(wire.clone())).poll(cx);
        let Poll::Ready(Ok((sender, connection))) = handshake else { panic!("no handshake") };
        let streams = Vec::new();
        let mut this = Self { wire, sender, connection, streams, takes, is_over: false };
        this.take(&Step::Frames(START.to_vec()));
        this
    }

    fn take(&mut self, step: &Step) -> Verdict {
        let mut verdict = Verdict::default();
        let cx = &mut Context::from_waker(Waker::noop());
        match step {
            Step::Frames(frames) => self.wire.0.borrow_mut().0.extend(frames),
            Step::Open => self.open(cx),
            Step::Send(id, count) => self.stream(*id, |stream| stream.send(*count)),
            // Where it may end no more, it does not.
            Step::Finish(id) => {
                self.stream(*id, |stream| drop(stream.send.send_data(Bytes::new(), true)));
            }
            Step::Cancel(id) => self.stream(*id, Stream::cancel),
        }
        self.run(cx);
        for stream in &mut self.streams {
            stream.read(self.takes, &mut verdict, cx);
        }
        // What was given back while reading goes out.
        self.run(cx);
        verdict.sent(&std::mem::take(&mut self.wire.0.borrow_mut().1));
        verdict.settle(step);
        verdict
    }

    fn run(&mut self, cx: &mut Context<'_>) {
        if !self.is_over {
            self.is_over = Pin::new(&mut self.connection).poll(cx).is_ready();
        }
    }

    fn stream(&mut self, id: u32, act: impl FnOnce(&mut Stream)) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            act(stream);
        }
    }

    fn open(&mut self, cx: &mut Context<'_>) {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = AUTHORITY.parse().expect("it is one");
        assert!(self.sender.poll_ready(cx).is_ready());
        let (answer, send) = self.sender.send_request(request, false).expect("there was room");
        let id = answer.stream_id().as_u32();
        self.streams.push(Stream { id, answer, body: None, send, ended: false, gone: false });
    }
}

impl Stream {
    fn send(&mut self, count: usize) {
        self.send.reserve_capacity(count);
        let count = count.min(self.send.capacity());
        if count > 0 {
            self.send.send_data(vec![0; count].into(), false).expect("it has room");
        }
        self.send.reserve_capacity(0);
    }

    fn cancel(&mut self) {
        if !self.gone {
            self.send.send_reset(::h2::Reason::CANCEL);
            self.gone = true;
        }
    }

    fn read(&mut self, takes: bool, verdict: &mut Verdict, cx: &mut Context<'_>) {
        if self.body.is_none()
            && let Poll::Ready(Ok(answer)) = Pin::new(&mut self.answer).poll(cx)
        {
            verdict.answered.insert(self.id, answer.status().as_u16());
            self.body = Some(answer.into_body());
        }
        if let Some(body) = &mut self.body {
            while let Poll::Ready(Some(Ok(bytes))) = body.poll_data(cx) {
                if !bytes.is_empty() {
                    verdict.data.entry(self.id).or_default().extend_from_slice(&bytes);
                }
                if takes {
                    body.flow_control().release_capacity(bytes.len()).expect("it was told");
                }
            }
            // The end behind trailers is told when they were taken.
            let ended = matches!(body.poll_trailers(cx), Poll::Ready(Ok(_)));
            if !self.ended && ended && body.is_end_stream() {
                self.ended = true;
                verdict.ended.insert(self.id);
            }
        }
        if !self.gone
            && let Poll::Ready(Ok(reason)) = self.send.poll_reset(cx)
        {
            self.gone = true;
            verdict.gone.insert(self.id, reason.into());
        }
    }
}
