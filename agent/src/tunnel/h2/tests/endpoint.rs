//! One of our ends on a transport: a server that echoes, or a client that sends and compares.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use prost::Message as _;
use sotto_proto::handover::Http2;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::tunnel::h2::{Code, Connection, Event, StreamId};

/// One stream's bytes.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// To be sent, from `sent` on.
    bytes: Vec<u8>,
    sent: usize,
    /// Nothing follows `bytes`.
    last: bool,
    pub(super) received: Vec<u8>,
    pub(super) status: Option<StatusCode>,
    pub(super) ended: bool,
}

/// A connection, its streams and its transport.
pub(super) struct Endpoint {
    pub(super) connection: Connection,
    io: DuplexStream,
    pub(super) flows: BTreeMap<StreamId, Flow>,
    pub(super) resets: Vec<(StreamId, Code)>,
    pub(super) went_away: bool,
    /// Bytes read, and bytes of a frame written, at once.
    piece: usize,
    echo: bool,
    /// It is another process's after each step; so many times until now.
    pub(super) moves: Option<usize>,
}

impl Endpoint {
    pub(super) fn new(connection: Connection, io: DuplexStream, piece: usize, echo: bool) -> Self {
        let (flows, resets) = (BTreeMap::new(), Vec::new());
        Self { connection, io, flows, resets, went_away: false, piece, echo, moves: None }
    }

    pub(super) fn send(&mut self, headers: &HeaderMap, bytes: Vec<u8>) -> StreamId {
        let id = self.connection.open("10.0.0.1:80", headers).unwrap();
        self.flows.insert(id, Flow { bytes, last: true, ..Flow::default() });
        id
    }

    /// Runs until the transport ends, or `done`.
    pub(super) async fn run(&mut self, mut done: impl FnMut(&Self) -> bool) {
        let (mut out, mut at) = (Vec::new(), 0);
        let mut input = vec![0; self.piece];
        loop {
            self.move_on();
            if at == out.len() {
                (out, at) = (self.output(), 0);
            }
            if out.is_empty() && done(self) {
                return;
            }
            let waiting = at < out.len();
            let (mut reader, mut writer) = tokio::io::split(&mut self.io);
            tokio::select! {
                read = reader.read(&mut input) => match read.unwrap_or(0) {
                    0 => return,
                    count => self.input(&input[..count]),
                },
                written = writer.write(&out[at..]), if waiting => match written.unwrap_or(0) {
                    0 => return,
                    count => at += count,
                },
            }
        }
    }

    /// As a process and the next would: by the bytes of the connection's state.
    fn move_on(&mut self) {
        let Some(moves) = self.moves else { return };
        let Some(frozen) = self.connection.freeze() else { return };
        let frozen = Http2::decode(&*frozen.encode_to_vec()).unwrap();
        self.connection = Connection::thaw(frozen).unwrap();
        self.moves = Some(moves + 1);
    }

    fn input(&mut self, mut rest: &[u8]) {
        loop {
            let (taken, event) = self.connection.receive(rest).expect("an honest peer");
            rest = &rest[taken..];
            let Some(event) = event else { return };
            match event {
                Event::Request { id, request } => {
                    let last = request.end;
                    let headers = &request.headers;
                    self.connection.respond(id, StatusCode::OK, headers, false).unwrap();
                    self.flows.insert(id, Flow { last, ..Flow::default() });
                }
                Event::Response { id, status, end, .. } => {
                    let flow = self.flows.get_mut(&id).unwrap();
                    (flow.status, flow.ended) = (Some(status), end);
                }
                Event::Data { id, bytes } => {
                    let flow = self.flows.get_mut(&id).unwrap();
                    if self.echo {
                        flow.bytes.extend_from_slice(bytes);
                    } else {
                        flow.received.extend_from_slice(bytes);
                        self.connection.consumed(id, bytes.len(), true);
                    }
                }
                Event::End { id } => {
                    let flow = self.flows.get_mut(&id).unwrap();
                    (flow.last, flow.ended) = (true, true);
                }
                Event::Reset { id, code } => {
                    self.flows.remove(&id);
                    self.resets.push((id, code));
                }
                Event::GoAway { .. } => self.went_away = true,
                Event::Writable { .. } | Event::Pong { .. } | Event::Settings => {}
            }
        }
    }

    /// Control frames, then DATA: a frame for each stream in turn, up to some bytes.
    fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.connection.take_output(&mut out);
        let mut moved = true;
        while moved && out.len() < 1 << 18 {
            moved = false;
            for (id, flow) in &mut self.flows {
                moved |= send(&mut self.connection, *id, flow, self.piece, self.echo, &mut out);
            }
        }
        if self.echo {
            self.flows.retain(|_, flow| !(flow.last && flow.sent == usize::MAX));
        }
        // What was given back while sending.
        let mut credits = Vec::new();
        self.connection.take_output(&mut credits);
        out.extend(credits);
        out
    }
}

/// Sends a frame of a stream, if it may. `sent` is beyond all bytes once the end was sent.
fn send(
    connection: &mut Connection,
    id: StreamId,
    flow: &mut Flow,
    piece: usize,
    echo: bool,
    out: &mut Vec<u8>,
) -> bool {
    if flow.sent == usize::MAX {
        return false;
    }
    let left = &flow.bytes[flow.sent..];
    let most = connection.capacity(id).min(connection.max_send_frame()).min(piece);
    let count = left.len().min(most);
    let end = flow.last && count == left.len();
    if count == 0 && !end {
        return false;
    }
    out.extend_from_slice(&connection.data(id, count, end).unwrap());
    out.extend_from_slice(&left[..count]);
    if echo {
        connection.consumed(id, count, count == left.len());
    }
    flow.sent = if end { usize::MAX } else { flow.sent + count };
    true
}
