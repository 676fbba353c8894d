//! DATA of the peer, and the credit for it (RFC 9113 sections 6.1 and 6.9).

use super::Connection;
use super::read::{At, Step, take};
use crate::tunnel::h2::StreamId;
use crate::tunnel::h2::code::{Code, Violation};
use crate::tunnel::h2::event::Event;
use crate::tunnel::h2::frame::{self, Head, flag};
use crate::tunnel::h2::streams::{Late, Receiving};

impl Connection {
    /// All of a frame counts for flow control, padding too, and whatever becomes of the stream.
    pub(super) fn begin_data(&mut self, head: Head) -> Result<(), Violation> {
        let (id, length) = (head.stream, head.length);
        if id == 0 {
            return Err(Violation::protocol("DATA on no stream"));
        }
        self.charge_connection(length)?;
        self.reader.at = if !self.charge_stream(id, length)? {
            At::Skip { left: length }
        } else if head.has(flag::PADDED) {
            if length == 0 {
                return Err(Violation::size("padded DATA without the padding's length"));
            }
            At::PadLength { head }
        } else {
            self.data_budget(head, length)?;
            At::Data { id, left: length, padding: 0, end: head.has(flag::END_STREAM) }
        };
        Ok(())
    }

    fn charge_connection(&mut self, length: u32) -> Result<(), Violation> {
        let window = self.recv_window.checked_sub(length);
        self.recv_window = window.ok_or(Violation::flow("DATA beyond the connection's window"))?;
        self.credit += length;
        self.give_connection();
        Ok(())
    }

    /// Credit for the connection is given back at once while there is room: the streams' windows bound what is held,
    /// and one whose application does not read stops no other. Without room it is given back only for what was
    /// taken.
    fn give_connection(&mut self) {
        let withheld = if self.tight { self.untaken } else { 0 };
        let withheld = u32::try_from(withheld).unwrap_or(u32::MAX);
        let increment = self.credit.saturating_sub(withheld);
        if increment >= self.config.connection_window / 4 {
            self.credit -= increment;
            self.recv_window += increment;
            self.owe(|out| frame::put_window_update(out, 0, increment));
        }
    }

    /// Whether what is told and not taken weighs: then windows do not grow, and the connection as a whole may send no
    /// more than its window beyond that.
    pub fn tighten(&mut self, tight: bool) {
        if self.tight != tight {
            self.tight = tight;
            self.give_connection();
        }
    }

    /// Whether the stream takes DATA.
    fn charge_stream(&mut self, id: u32, length: u32) -> Result<bool, Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.late_data(id, length).map(|()| false);
        };
        let code = match stream.receiving {
            // Section 8.1: it is malformed.
            Receiving::Response => Code::PROTOCOL_ERROR,
            Receiving::Ended => Code::STREAM_CLOSED,
            Receiving::Body => {
                let window = stream.recv_window.checked_sub_unsigned(length);
                if let Some(window) = window.filter(|window| length == 0 || *window >= 0) {
                    stream.recv_window = window;
                    return Ok(true);
                }
                Code::FLOW_CONTROL_ERROR
            }
        };
        self.stream_error(id, code)?;
        Ok(false)
    }

    fn late_data(&mut self, id: u32, length: u32) -> Result<(), Violation> {
        if self.is_idle(id) {
            return Err(Violation::protocol("DATA on an idle stream"));
        }
        match self.forgotten.late(id, length) {
            // Windows bound it; empty frames are bounded by nothing else.
            Late::Expected if length > 0 => Ok(()),
            Late::Expected | Late::Unknown => self.budgets.idle.spend(1),
            Late::Closed => Err(Violation::closed("DATA on a closed stream")),
            Late::Overrun => Err(Violation::flow("DATA beyond the window of a reset stream")),
        }
    }

    fn data_budget(&mut self, head: Head, bytes: u32) -> Result<(), Violation> {
        if bytes > 0 {
            self.budgets.idle.earn(1);
        } else if !head.has(flag::END_STREAM) {
            self.budgets.idle.spend(1)?;
        }
        Ok(())
    }

    pub(super) fn begin_padded(&mut self, head: Head, padding: u32) -> Result<(), Violation> {
        let Some(left) = (head.length - 1).checked_sub(padding) else {
            return Err(Violation::protocol("padding longer than DATA"));
        };
        let end = head.has(flag::END_STREAM);
        self.data_budget(head, left)?;
        self.give(head.stream, padding + 1, false);
        self.reader.at = At::Data { id: head.stream, left, padding, end };
        Ok(())
    }

    pub(super) fn read_data<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Step<'a>, Violation> {
        let At::Data { id, left, padding, end } = self.reader.at else { return Ok(Step::Done) };
        if left == 0 {
            self.reader.at = At::Skip { left: padding };
            if end {
                self.ended(id)?;
            }
            return Ok(Step::Done);
        }
        let bytes = take(rest, left as usize);
        if bytes.is_empty() {
            return Ok(Step::Starved);
        }
        let taken = u32::try_from(bytes.len()).unwrap_or(left);
        self.reader.at = At::Data { id, left: left - taken, padding, end };
        self.deliver(id, taken, bytes)
    }

    fn deliver<'a>(&mut self, id: u32, count: u32, bytes: &'a [u8]) -> Result<Step<'a>, Violation> {
        // The owner may have reset the stream in the middle of a frame.
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(Step::Done) };
        if let Some(expected) = stream.expected {
            stream.expected = expected.checked_sub(u64::from(count));
            if stream.expected.is_none() {
                self.stream_error(id, Code::PROTOCOL_ERROR)?;
                return Ok(Step::Done);
            }
        }
        stream.untaken += count;
        self.untaken += u64::from(count);
        Ok(Step::Tell(Event::Data { id: StreamId(id), bytes }))
    }

    /// END_STREAM came.
    pub(super) fn ended(&mut self, id: u32) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.expected.is_some_and(|left| left > 0) {
            return self.stream_error(id, Code::PROTOCOL_ERROR);
        }
        stream.receiving = Receiving::Ended;
        self.pending.push_back(Event::End { id: StreamId(id) });
        self.settle(id);
        Ok(())
    }

    /// The application took bytes of a stream. Every byte of [`Event::Data`] is to be given back
    /// here once, also after the stream's end: until then the stream counts as open.
    ///
    /// `drained`: nothing waits for the application, so a larger window may speed it up.
    pub fn consumed(&mut self, id: StreamId, bytes: usize, drained: bool) {
        let Some(stream) = self.streams.get_mut(&id.0) else { return };
        // More than was told cannot be taken: a mistake here must not break the window.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(stream.untaken);
        stream.untaken -= bytes;
        self.untaken -= u64::from(bytes);
        if stream.is_done() {
            self.remove(id.0);
        } else {
            self.give(id.0, bytes, drained);
        }
        if self.tight {
            self.give_connection();
        }
    }

    /// Gives a stream's credit back once it is half a window.
    fn give(&mut self, id: u32, bytes: u32, drained: bool) {
        let (config, drained) = (self.config, drained && !self.tight);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.credit += bytes;
        if stream.receiving == Receiving::Ended || stream.credit < (stream.target / 2).max(1) {
            return;
        }
        let mut increment = std::mem::take(&mut stream.credit);
        if drained && stream.target < config.max_window {
            let room = u64::from(config.max_window - stream.target);
            let growth = room
                .min(u64::from(stream.target))
                .min(config.window_budget.saturating_sub(self.grown));
            self.grown += growth;
            // At most `max_window`, so it fits.
            let growth = u32::try_from(growth).unwrap_or(0);
            stream.target += growth;
            increment += growth;
        }
        stream.recv_window += increment.cast_signed();
        self.owe(|out| frame::put_window_update(out, id, increment));
    }
}
