//! SETTINGS, WINDOW_UPDATE, RST_STREAM, PRIORITY, PING and GOAWAY of the peer.

use super::send::{GRACE, Leaving};
use super::{Connection, Role};
use crate::tunnel::h2::StreamId;
use crate::tunnel::h2::code::{Code, Violation};
use crate::tunnel::h2::event::Event;
use crate::tunnel::h2::frame::{
    self, DEFAULT_WINDOW, Head, MAX_31, MAX_MAX_FRAME, MIN_MAX_FRAME, flag, number, setting,
};
use crate::tunnel::h2::streams::{Sending, Stream};

const WINDOW_TOO_LARGE: &str = "SETTINGS_INITIAL_WINDOW_SIZE too large";

impl Connection {
    /// RFC 9113 section 6.5.
    pub(super) fn settings_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.has(flag::ACK) {
            return self.settings_acknowledged();
        }
        if !self.introduced {
            self.introduced = true;
            // No limit, if it does not set one (section 6.5.2).
            self.peer.max_streams = u32::MAX;
        }
        let before = self.peer.initial_window;
        for entry in payload.chunks_exact(6) {
            self.setting(u16::from_be_bytes([entry[0], entry[1]]), number(&entry[2..]))?;
        }
        self.initial_window_changed(before)?;
        self.owe(frame::put_settings_ack);
        self.pending.push_back(Event::Settings);
        Ok(())
    }

    /// Ours were applied: the peer now goes by our initial window (section 6.9.3).
    fn settings_acknowledged(&mut self) -> Result<(), Violation> {
        if self.acknowledged {
            return Err(Violation::protocol("SETTINGS acknowledged twice"));
        }
        self.acknowledged = true;
        let less = DEFAULT_WINDOW.saturating_sub(self.config.initial_window).cast_signed();
        for stream in self.streams.values_mut() {
            stream.recv_window -= less;
        }
        Ok(())
    }

    /// Section 6.5.2. Unknown ones are ignored.
    fn setting(&mut self, id: u16, value: u32) -> Result<(), Violation> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.limit(value),
            setting::ENABLE_PUSH if value > u32::from(self.role == Role::Server) => {
                return Err(Violation::protocol("invalid SETTINGS_ENABLE_PUSH"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE if value > MAX_31 => {
                return Err(Violation::flow(WINDOW_TOO_LARGE));
            }
            setting::INITIAL_WINDOW_SIZE => self.peer.initial_window = value,
            setting::MAX_FRAME_SIZE => {
                if !(MIN_MAX_FRAME..=MAX_MAX_FRAME).contains(&value) {
                    return Err(Violation::protocol("invalid SETTINGS_MAX_FRAME_SIZE"));
                }
                self.peer.max_frame = value;
            }
            setting::MAX_HEADER_LIST_SIZE => self.peer.max_header_list = value,
            setting::ENABLE_CONNECT_PROTOCOL => {
                // RFC 8441 section 3: 0 or 1, and never taken back.
                if value > 1 || (value == 0 && self.peer.connect_protocol) {
                    return Err(Violation::protocol("invalid SETTINGS_ENABLE_CONNECT_PROTOCOL"));
                }
                self.peer.connect_protocol = value == 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Section 6.9.2: all streams' windows move by the difference, perhaps below 0. Once a frame,
    /// whatever the values on the way: every stream is touched.
    fn initial_window_changed(&mut self, before: u32) -> Result<(), Violation> {
        let difference = self.peer.initial_window.cast_signed() - before.cast_signed();
        if difference == 0 {
            return Ok(());
        }
        let mut opened = false;
        for stream in self.streams.values_mut() {
            let window = stream.send_window.checked_add(difference);
            let window = window.ok_or(Violation::flow(WINDOW_TOO_LARGE))?;
            opened |= stream.send_window <= 0 && window > 0;
            stream.send_window = window;
        }
        if opened {
            self.pending.push_back(Event::Writable { id: None });
        }
        Ok(())
    }

    /// Section 6.9.
    pub(super) fn window_update_frame(
        &mut self,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Violation> {
        self.budgets.idle.spend(1)?;
        let increment = number(payload) & MAX_31;
        if head.stream == 0 {
            return self.connection_window_update(increment);
        }
        if self.is_idle(head.stream) {
            return Err(Violation::protocol("WINDOW_UPDATE on an idle stream"));
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else { return Ok(()) };
        if increment == 0 {
            return self.stream_error(head.stream, Code::PROTOCOL_ERROR);
        }
        let Some(window) = stream.send_window.checked_add_unsigned(increment) else {
            return self.stream_error(head.stream, Code::FLOW_CONTROL_ERROR);
        };
        let opened = stream.send_window <= 0 && window > 0;
        stream.send_window = window;
        if opened && stream.sending == Sending::Body {
            self.pending.push_back(Event::Writable { id: Some(StreamId(head.stream)) });
        }
        Ok(())
    }

    fn connection_window_update(&mut self, increment: u32) -> Result<(), Violation> {
        if increment == 0 {
            return Err(Violation::protocol("WINDOW_UPDATE by 0"));
        }
        let window = self.send_window + increment;
        if window > MAX_31 {
            return Err(Violation::flow("WINDOW_UPDATE beyond the largest window"));
        }
        if self.send_window == 0 {
            self.pending.push_back(Event::Writable { id: None });
        }
        self.send_window = window;
        Ok(())
    }

    /// Section 6.4.
    pub(super) fn reset_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if self.is_idle(head.stream) {
            return Err(Violation::protocol("RST_STREAM on an idle stream"));
        }
        // All bytes of one that closed in order are here, and stay for the application.
        if self.streams.get(&head.stream).is_some_and(Stream::is_closed) {
            return self.budgets.idle.spend(1);
        }
        let Some(stream) = self.remove(head.stream) else {
            return self.budgets.idle.spend(1);
        };
        // Rapid reset: work was begun and nothing came of it.
        if stream.sending == Sending::Response {
            self.budgets.resets.spend(1)?;
        }
        let (id, code) = (StreamId(head.stream), Code(number(payload)));
        self.pending.push_back(Event::Reset { id, code });
        Ok(())
    }

    /// Section 6.3.
    pub(super) fn begin_priority(&mut self, head: Head) -> Result<usize, Violation> {
        self.budgets.idle.spend(1)?;
        if head.stream == 0 {
            return Err(Violation::protocol("PRIORITY on no stream"));
        }
        if head.length != 5 {
            // A stream error by the letter; but there may be no stream to reset.
            if !self.streams.contains_key(&head.stream) {
                return Err(Violation::size("PRIORITY has no 5 bytes"));
            }
            self.stream_error(head.stream, Code::FRAME_SIZE_ERROR)?;
        }
        Ok(0)
    }

    /// Section 6.7.
    pub(super) fn ping_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation::protocol("PING on a stream"));
        }
        self.budgets.idle.spend(1)?;
        let opaque = payload.first_chunk().copied().unwrap_or_default();
        if !head.has(flag::ACK) {
            self.owe(|out| frame::put_ping(out, opaque, true));
        } else if opaque == GRACE && self.leaving == Leaving::Announced {
            self.leave(Code::NO_ERROR);
        } else {
            self.pending.push_back(Event::Pong { opaque });
        }
        Ok(())
    }

    /// Section 6.8.
    pub(super) fn go_away_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation::protocol("GOAWAY on a stream"));
        }
        self.budgets.idle.spend(1)?;
        let (last, code) = (number(payload) & MAX_31, Code(number(&payload[4..])));
        if self.peer_last.is_some_and(|before| last > before) {
            return Err(Violation::protocol("GOAWAY with a later stream than before"));
        }
        self.peer_last = Some(last);
        self.pending.push_back(Event::GoAway { last: StreamId(last), code });
        if self.role == Role::Client {
            self.refused_above(last);
        }
        Ok(())
    }

    fn refused_above(&mut self, last: u32) {
        let open = self.streams.iter().filter(|(_, stream)| !stream.is_closed());
        let mut refused: Vec<u32> = open.map(|(id, _)| *id).filter(|id| *id > last).collect();
        refused.sort_unstable();
        for id in refused {
            self.forget(id);
            self.pending.push_back(Event::Reset { id: StreamId(id), code: Code::REFUSED_STREAM });
        }
    }
}
