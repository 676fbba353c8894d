//! Connections made of segments: who spoke to whom, and whether it can be read. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use super::segment::Segment;

/// What the bytes of a connection look like to someone on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No payload was seen.
    Empty,
    /// TLS records.
    Tls,
    /// HTTP/1 in the clear.
    Http,
    /// Something else in the clear.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "nothing",
            Self::Tls => "TLS",
            Self::Http => "plaintext HTTP",
            Self::Other => "other plaintext",
        })
    }
}

/// One connection, with what was seen of both directions in order.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Who opened it (or has the higher port, if the opening was not seen).
    pub client: SocketAddr,
    /// Who was called.
    pub server: SocketAddr,
    /// Client to server.
    pub sent: Stream,
    /// Server to client.
    pub received: Stream,
    /// It was opened while captured.
    pub opened: bool,
    /// One side reset it.
    pub reset: bool,
}

/// The bytes of one direction.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// By distance from the first sequence number seen.
    pieces: BTreeMap<u32, Vec<u8>>,
    origin: Option<u32>,
}

impl Stream {
    fn add(&mut self, segment: &Segment) {
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        let origin = *self.origin.get_or_insert(first);
        if !segment.payload.is_empty() {
            self.pieces
                .entry(first.wrapping_sub(origin))
                .or_insert_with(|| segment.payload.clone());
        }
    }

    /// All bytes seen, in order, each once.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut next = 0_usize;
        for (at, piece) in &self.pieces {
            let at = usize::try_from(*at).unwrap_or(usize::MAX);
            let known = next.saturating_sub(at).min(piece.len());
            bytes.extend_from_slice(&piece[known..]);
            next = next.max(at.saturating_add(piece.len()));
        }
        bytes
    }
}

impl Flow {
    /// What it looks like, judged by how each direction starts.
    pub fn kind(&self) -> Kind {
        [&self.sent, &self.received]
            .map(|stream| classify(&stream.bytes()))
            .into_iter()
            .max()
            .unwrap_or(Kind::Empty)
    }
}

/// The connections of a capture.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// In the order first seen.
    pub flows: Vec<Flow>,
}

impl Trace {
    /// Sorts segments into connections.
    pub fn new(segments: &[Segment]) -> Self {
        let mut trace = Self::default();
        for segment in segments {
            trace.add(segment);
        }
        trace
    }

    fn add(&mut self, segment: &Segment) {
        let (from, to) = (segment.source, segment.destination);
        let known = self.flows.iter().rposition(|flow| {
            (flow.client, flow.server) == (from, to) || (flow.client, flow.server) == (to, from)
        });
        // The same ports opened again are another connection; a retransmitted SYN is not.
        let reused = |flow: &Flow| {
            segment.opens
                && flow.sent.origin.is_some_and(|origin| origin != segment.sequence.wrapping_add(1))
        };
        let index = match known.filter(|index| !reused(&self.flows[*index])) {
            Some(index) => index,
            None => {
                self.flows.push(Flow::begin(segment));
                self.flows.len() - 1
            }
        };
        let flow = &mut self.flows[index];
        flow.opened |= segment.opens;
        flow.reset |= segment.reset;
        let stream = if flow.client == from { &mut flow.sent } else { &mut flow.received };
        stream.add(segment);
    }

    /// The connections with this server port.
    pub fn to_port(&self, port: u16) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(move |flow| flow.server.port() == port)
    }

    /// Whether `needle` can be read in any direction of any connection.
    pub fn reads(&self, needle: &[u8]) -> bool {
        let streams = self.flows.iter().flat_map(|flow| [&flow.sent, &flow.received]);
        streams.into_iter().any(|stream| contains(&stream.bytes(), needle))
    }
}

impl Flow {
    fn begin(segment: &Segment) -> Self {
        let answer =
            (segment.syn && !segment.opens) || (!segment.syn && looks_like_an_answer(segment));
        let (client, server) = if answer {
            (segment.destination, segment.source)
        } else {
            (segment.source, segment.destination)
        };
        let (sent, received) = (Stream::default(), Stream::default());
        Self { client, server, sent, received, opened: false, reset: false }
    }
}

fn looks_like_an_answer(segment: &Segment) -> bool {
    segment.source.port() < segment.destination.port()
}

/// What bytes from the start of a direction look like.
pub fn classify(bytes: &[u8]) -> Kind {
    const HTTP: [&[u8]; 7] =
        [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"HTTP/1."];
    match bytes {
        [] => Kind::Empty,
        [20..=23, 3, 0..=4, ..] => Kind::Tls,
        _ if HTTP.iter().any(|start| bytes.starts_with(start)) => Kind::Http,
        _ => Kind::Other,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::super::segment::{parse, tests::frame};
    use super::*;

    fn trace(frames: &[Vec<u8>]) -> Trace {
        Trace::new(&frames.iter().map(|bytes| parse(bytes).unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn a_marker_across_segments_and_retransmissions_is_found() {
        let (a, b) = ("10.0.0.1:40000", "10.0.0.2:9080");
        let trace = trace(&[
            frame(a, b, 99, 0x02, b""),
            frame(b, a, 500, 0x12, b""),
            frame(a, b, 100, 0x18, b"GET /det"),
            frame(a, b, 100, 0x18, b"GET /det"),
            frame(a, b, 108, 0x18, b"ails"),
            frame(b, a, 501, 0x18, b"HTTP/1.1 200 OK"),
        ]);
        assert_eq!(trace.flows.len(), 1);
        assert_eq!(trace.flows[0].kind(), Kind::Http);
        assert_eq!(trace.flows[0].server, b.parse().unwrap());
        assert!(trace.reads(b"/details") && !trace.reads(b"/reviews"));
    }

    #[test]
    fn a_reused_port_is_another_connection() {
        let (a, b) = ("10.0.0.1:40000", "10.0.0.2:15008");
        let trace = trace(&[
            frame(a, b, 99, 0x02, b""),
            frame(a, b, 100, 0x18, &[22, 3, 1, 0, 5]),
            frame(a, b, 900, 0x02, b""),
            frame(a, b, 901, 0x18, b"hello"),
        ]);
        let kinds: Vec<Kind> = trace.to_port(15008).map(Flow::kind).collect();
        assert_eq!(kinds, [Kind::Tls, Kind::Other]);
    }

    #[test]
    fn a_connection_older_than_the_capture_has_its_server_at_the_lower_port() {
        let trace = trace(&[frame("10.0.0.2:15008", "10.0.0.1:40000", 5, 0x18, &[23, 3, 3, 0])]);
        assert_eq!(trace.flows[0].server.port(), 15008);
        assert!(!trace.flows[0].opened);
    }
}
