//! HEADERS and CONTINUATION of the peer (RFC 9113 sections 6.2, 6.10 and 8.1).

use http::{HeaderMap, Method, StatusCode};

use super::{Connection, Role};
use crate::tunnel::h2::StreamId;
use crate::tunnel::h2::code::{Code, Violation};
use crate::tunnel::h2::event::{Event, Request};
use crate::tunnel::h2::fields::{Fault, Fields, Kind, content_length};
use crate::tunnel::h2::frame::{self, Head, flag, kind};
use crate::tunnel::h2::streams::{Late, Receiving, Sending, Stream};

/// CONTINUATION frames of one header block.
const MAX_CONTINUATIONS: u32 = 32;

/// A header list this many times the largest allowed is not only refused: unpacking it, as the state of
/// compression needs, would cost more than what was sent for it.
const UNPACKED: usize = 4;

/// A header block whose end has not come.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    end: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

impl Block {
    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Connection {
    /// How many bytes a header block may have: enough for the largest list allowed, in any encoding
    /// that makes sense.
    fn max_block(&self) -> usize {
        self.config.max_header_list as usize + 1024
    }

    pub(super) fn begin_headers(&self, head: Head) -> Result<usize, Violation> {
        if head.stream == 0 {
            return Err(Violation::protocol("HEADERS on no stream"));
        }
        if head.kind == kind::CONTINUATION && self.block.is_none() {
            return Err(Violation::protocol("CONTINUATION of nothing"));
        }
        let before = self.block.as_ref().map_or(0, |block| block.bytes.len());
        if before + head.length as usize > self.max_block() {
            return Err(Violation::abuse("header block too large"));
        }
        Ok(head.length as usize)
    }

    pub(super) fn headers_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        let fragment = fragment(head, payload)?;
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.header_block(head.stream, end, fragment);
        }
        let bytes = fragment.to_vec();
        self.block = Some(Block { stream: head.stream, end, bytes, continuations: 0 });
        Ok(())
    }

    pub(super) fn continuation_frame(
        &mut self,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        block.continuations += 1;
        if block.continuations > MAX_CONTINUATIONS {
            return Err(Violation::abuse("too many CONTINUATION frames"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.header_block(block.stream, block.end, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// Whatever comes of it, the block must be decoded: the next one depends on it.
    fn decode(&mut self, kind: Kind, block: &[u8]) -> Result<Fields, Violation> {
        let mut fields = Fields::new(kind, self.config.max_header_list);
        let room = UNPACKED * self.config.max_header_list as usize;
        self.decoder.decode(block, room, |name, value| fields.take(name, value))?;
        Ok(fields)
    }

    fn header_block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Violation> {
        if self.role == Role::Server && id % 2 == 1 && id > self.last_peer {
            self.last_peer = id;
            return self.opened(id, end, block);
        }
        if self.is_idle(id) {
            return Err(Violation::protocol("HEADERS on a stream of ours that is idle"));
        }
        let Some(stream) = self.streams.get(&id) else { return self.late_headers(id, block) };
        match stream.receiving {
            Receiving::Response => self.response(id, end, block),
            // Section 8.5: there are none in a tunnel.
            Receiving::Body if stream.tunnel || !end => {
                self.decode(Kind::Ignored, block)?;
                self.stream_error(id, Code::PROTOCOL_ERROR)
            }
            Receiving::Body => match self.decode(Kind::Trailers, block)?.trailers() {
                Ok(()) => self.ended(id),
                Err(fault) => self.stream_error(id, fault_code(fault)),
            },
            Receiving::Ended => {
                self.decode(Kind::Ignored, block)?;
                self.stream_error(id, Code::STREAM_CLOSED)
            }
        }
    }

    fn late_headers(&mut self, id: u32, block: &[u8]) -> Result<(), Violation> {
        if self.forgotten.late(id, 0) == Late::Closed {
            return Err(Violation::closed("HEADERS on a closed stream"));
        }
        self.budgets.idle.spend(1)?;
        self.decode(Kind::Ignored, block)?;
        Ok(())
    }

    /// A client opens a stream.
    fn opened(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Violation> {
        if self.leaving.last().is_some() {
            // Section 6.8: it was told that we ignore this one.
            self.decode(Kind::Ignored, block)?;
            self.forgotten.insert(id, self.first_window());
            return self.budgets.idle.spend(1);
        }
        if self.streams.len() >= self.config.max_streams as usize {
            self.decode(Kind::Ignored, block)?;
            return self.refuse(id, end, Code::REFUSED_STREAM);
        }
        match self.decode(Kind::Request, block)?.request().and_then(|request| expect(request, end))
        {
            Err(Fault::TooLarge) => self.turn_away(id, end),
            Err(fault) => self.refuse(id, end, fault_code(fault)),
            Ok((request, expected)) => {
                let tunnel = request.method == Method::CONNECT;
                let receiving = if end { Receiving::Ended } else { Receiving::Body };
                self.add(id, receiving, Sending::Response, expected, tunnel);
                self.pending.push_back(Event::Request { id: StreamId(id), request });
                Ok(())
            }
        }
    }

    /// Section 10.5.1: an answer tells the client what a reset does not.
    fn turn_away(&mut self, id: u32, end: bool) -> Result<(), Violation> {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let pseudo = [(":status", status.as_str().as_bytes())];
        let Some(block) = self.block(&pseudo, &HeaderMap::new()) else {
            return self.refuse(id, end, fault_code(Fault::TooLarge));
        };
        let max = self.max_send_frame();
        self.owe(|out| frame::put_headers(out, id, &block, max, true));
        if end {
            return self.budgets.errors.spend(1);
        }
        // Section 8.1: the rest of the request is not wanted.
        self.refuse(id, end, Code::NO_ERROR)
    }

    pub(super) fn add(
        &mut self,
        id: u32,
        receiving: Receiving,
        sending: Sending,
        expected: Option<u64>,
        tunnel: bool,
    ) {
        let stream = Stream {
            send_window: self.peer.initial_window.cast_signed(),
            recv_window: self.first_window(),
            target: self.config.initial_window,
            credit: 0,
            untaken: 0,
            expected,
            receiving,
            sending,
            tunnel,
        };
        self.streams.insert(id, stream);
    }

    /// Ends a stream that the owner was not told of.
    fn refuse(&mut self, id: u32, end: bool, code: Code) -> Result<(), Violation> {
        let budget = match code {
            Code::REFUSED_STREAM => &mut self.budgets.resets,
            _ => &mut self.budgets.errors,
        };
        budget.spend(1)?;
        if !end {
            self.forgotten.insert(id, self.first_window());
        }
        self.owe(|out| frame::put_reset(out, id, code));
        Ok(())
    }

    fn response(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Violation> {
        let (status, headers) = match self.decode(Kind::Response, block)?.response() {
            Ok((status, _)) if status.is_informational() && end => {
                return self.stream_error(id, Code::PROTOCOL_ERROR);
            }
            Ok((status, _)) if status.is_informational() => return self.budgets.idle.spend(1),
            Ok(response) => response,
            Err(fault) => return self.stream_error(id, fault_code(fault)),
        };
        // A tunnel has no content, and its length is to be ignored (RFC 9110 section 9.3.6).
        let tunnel = status.is_success();
        let expected = if tunnel { Ok(None) } else { content_length(&headers) };
        let expected = match expected {
            Ok(length) if !(end && length.is_some_and(|length| length > 0)) => length,
            _ => return self.stream_error(id, Code::PROTOCOL_ERROR),
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receiving = if end { Receiving::Ended } else { Receiving::Body };
            (stream.expected, stream.tunnel) = (expected, tunnel);
        }
        self.pending.push_back(Event::Response { id: StreamId(id), status, headers, end });
        self.settle(id);
        Ok(())
    }
}

fn fault_code(fault: Fault) -> Code {
    match fault {
        Fault::Malformed => Code::PROTOCOL_ERROR,
        Fault::TooLarge => Code::ENHANCE_YOUR_CALM,
    }
}

type Parts = (Method, String, HeaderMap);

/// The request, and how much content it announces.
fn expect((method, authority, headers): Parts, end: bool) -> Result<(Request, Option<u64>), Fault> {
    let expected = content_length(&headers)?;
    if end && expected.is_some_and(|length| length > 0) {
        return Err(Fault::Malformed);
    }
    Ok((Request { method, authority, headers, end }, expected))
}

/// The field block fragment of a HEADERS frame (section 6.2).
fn fragment(head: Head, mut payload: &[u8]) -> Result<&[u8], Violation> {
    const SHORT: Violation = Violation::size("HEADERS too short");
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (length, rest) = payload.split_first().ok_or(SHORT)?;
        (padding, payload) = (usize::from(*length), rest);
    }
    if head.has(flag::PRIORITY) {
        payload = payload.split_at_checked(5).ok_or(SHORT)?.1;
    }
    let length = payload.len().checked_sub(padding);
    let length = length.ok_or(Violation::protocol("padding longer than HEADERS"))?;
    Ok(&payload[..length])
}
