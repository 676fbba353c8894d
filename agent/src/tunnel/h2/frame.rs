//! Frame heads and the frames we send (RFC 9113 sections 4 and 6).

use super::code::Code;

/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;

/// What a client sends first (section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The default and least SETTINGS_MAX_FRAME_SIZE (section 6.5.2).
pub(super) const MIN_MAX_FRAME: u32 = 1 << 14;
/// The largest SETTINGS_MAX_FRAME_SIZE.
pub(super) const MAX_MAX_FRAME: u32 = (1 << 24) - 1;
/// The window that streams and connections start with (section 6.9.2).
pub(super) const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window, and the largest stream id.
pub(super) const MAX_31: u32 = (1 << 31) - 1;

pub(super) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const PRIORITY: u8 = 0x2;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const PUSH_PROMISE: u8 = 0x5;
    pub(crate) const PING: u8 = 0x6;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const WINDOW_UPDATE: u8 = 0x8;
    pub(crate) const CONTINUATION: u8 = 0x9;
}

pub(super) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

pub(super) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(crate) const ENABLE_PUSH: u16 = 0x2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
}

/// A frame's head (section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// 0 is the connection.
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            // The reserved bit is ignored (section 4.1).
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_31,
        }
    }

    pub(super) fn bytes(self) -> [u8; HEAD] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The first four bytes as a number; 0 where there are fewer, which the callers have ruled out.
pub(super) fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&Head { length, kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    put(out, kind::SETTINGS, 0, 0, &payload);
}

pub(super) fn put_settings_ack(out: &mut Vec<u8>) {
    put(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

pub(super) fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
}

pub(super) fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

pub(super) fn put_ping(out: &mut Vec<u8>, opaque: [u8; 8], ack: bool) {
    put(out, kind::PING, if ack { flag::ACK } else { 0 }, 0, &opaque);
}

pub(super) fn put_go_away(out: &mut Vec<u8>, last: u32, code: Code) {
    let [last, code] = [last.to_be_bytes(), code.0.to_be_bytes()];
    put(out, kind::GOAWAY, 0, 0, &[last, code].concat());
}

/// HEADERS, and CONTINUATION as far as the peer's frame size demands it (section 6.10).
pub(super) fn put_headers(out: &mut Vec<u8>, stream: u32, block: &[u8], max: usize, end: bool) {
    let (mut fragment, mut rest) = block.split_at(block.len().min(max));
    let mut frame = kind::HEADERS;
    let mut flags = if end { flag::END_STREAM } else { 0 };
    while !rest.is_empty() {
        put(out, frame, flags, stream, fragment);
        (fragment, rest) = rest.split_at(rest.len().min(max));
        (frame, flags) = (kind::CONTINUATION, 0);
    }
    put(out, frame, flags | flag::END_HEADERS, stream, fragment);
}
