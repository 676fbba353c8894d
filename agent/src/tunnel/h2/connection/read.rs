//! From bytes to frames, whatever the pieces they come in.

use super::Connection;
use crate::tunnel::h2::budget::SETTINGS_COST;
use crate::tunnel::h2::code::Violation;
use crate::tunnel::h2::event::Event;
use crate::tunnel::h2::frame::{HEAD, Head, PREFACE, flag, kind};

/// SETTINGS with more entries than this are no honest peer's.
const MAX_SETTINGS: u32 = 6 * 100;

/// Where in the input we are.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) at: At,
    /// A frame's head as far as it came.
    head: [u8; HEAD],
    have: usize,
    /// A payload as far as it came.
    payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    Preface {
        seen: usize,
    },
    Head,
    /// A payload that is handled whole, up to `keep` bytes.
    Payload {
        head: Head,
        keep: usize,
    },
    PadLength {
        head: Head,
    },
    Data {
        id: u32,
        left: u32,
        padding: u32,
        end: bool,
    },
    Skip {
        left: u32,
    },
}

/// What came of looking at the input.
pub(super) enum Step<'a> {
    Done,
    Tell(Event<'a>),
    /// There are too few bytes.
    Starved,
}

impl Reader {
    pub(super) fn new(preface: bool) -> Self {
        let at = if preface { At::Preface { seen: 0 } } else { At::Head };
        Self { at, head: [0; HEAD], have: 0, payload: Vec::new() }
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.payload.capacity()
    }

    /// What has come of a frame's head.
    pub(super) fn begun(&self) -> &[u8] {
        &self.head[..self.have]
    }

    /// The same has come, of fewer bytes than a head has.
    pub(super) fn begin_with(&mut self, begun: &[u8]) {
        self.head[..begun.len()].copy_from_slice(begun);
        self.have = begun.len();
    }

    pub(super) fn is_within_frame(&self) -> bool {
        !matches!(self.at, At::Head) || self.have != 0
    }

    fn head(&mut self, rest: &mut &[u8]) -> Option<Head> {
        if self.have == 0
            && let Some((head, after)) = rest.split_first_chunk()
        {
            *rest = after;
            return Some(Head::parse(*head));
        }
        let part = take(rest, HEAD - self.have);
        self.head[self.have..self.have + part.len()].copy_from_slice(part);
        self.have += part.len();
        if self.have < HEAD {
            return None;
        }
        self.have = 0;
        Some(Head::parse(self.head))
    }
}

/// Takes up to `most` bytes off the front.
pub(super) fn take<'a>(rest: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, after) = rest.split_at(rest.len().min(most));
    *rest = after;
    part
}

impl Connection {
    pub(super) fn read<'a>(
        &mut self,
        input: &'a [u8],
    ) -> Result<(usize, Option<Event<'a>>), Violation> {
        let mut rest = input;
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok((input.len() - rest.len(), Some(event)));
            }
            match self.step(&mut rest)? {
                Step::Done => {}
                Step::Tell(event) => return Ok((input.len() - rest.len(), Some(event))),
                Step::Starved => return Ok((input.len(), None)),
            }
        }
    }

    fn step<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Step<'a>, Violation> {
        match self.reader.at {
            At::Head => {
                let Some(head) = self.reader.head(rest) else { return Ok(Step::Starved) };
                self.begin(head)?;
            }
            At::Data { .. } => return self.read_data(rest),
            At::Payload { head, keep } => return self.read_payload(head, keep, rest),
            At::PadLength { head } => {
                let [padding] = take(rest, 1) else { return Ok(Step::Starved) };
                self.begin_padded(head, u32::from(*padding))?;
            }
            At::Skip { left: 0 } => self.reader.at = At::Head,
            At::Skip { left } => {
                let skipped = take(rest, left as usize).len();
                if skipped == 0 {
                    return Ok(Step::Starved);
                }
                self.reader.at = At::Skip { left: left - u32::try_from(skipped).unwrap_or(left) };
            }
            At::Preface { seen } => {
                let expected = &PREFACE[seen..];
                let part = take(rest, expected.len());
                if !expected.starts_with(part) {
                    return Err(Violation::protocol("no HTTP/2 preface"));
                }
                if part.len() < expected.len() {
                    self.reader.at = At::Preface { seen: seen + part.len() };
                    return Ok(Step::Starved);
                }
                self.reader.at = At::Head;
            }
        }
        Ok(Step::Done)
    }

    /// Judges a frame by its head (RFC 9113 section 4.2) and decides how its payload is read.
    fn begin(&mut self, head: Head) -> Result<(), Violation> {
        if head.length > self.config.max_frame {
            return Err(Violation::size("frame larger than allowed"));
        }
        if self.owed > self.most_owed() {
            return Err(Violation::abuse("peer does not read its answers"));
        }
        // Section 3.4.
        if !self.introduced && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Violation::protocol("first frame is no SETTINGS"));
        }
        // Section 6.10.
        let continued = self.block.as_ref().map(|block| block.stream);
        if continued.is_some() && (head.kind, Some(head.stream)) != (kind::CONTINUATION, continued)
        {
            return Err(Violation::protocol("header block interrupted"));
        }
        let keep = match head.kind {
            kind::DATA => return self.begin_data(head),
            kind::HEADERS | kind::CONTINUATION => self.begin_headers(head)?,
            kind::PRIORITY => self.begin_priority(head)?,
            kind::RST_STREAM => sized(head, 4, "RST_STREAM has no 4 bytes")?,
            kind::WINDOW_UPDATE => sized(head, 4, "WINDOW_UPDATE has no 4 bytes")?,
            kind::PING => sized(head, 8, "PING has no 8 bytes")?,
            kind::SETTINGS => self.begin_settings(head)?,
            kind::GOAWAY if head.length < 8 => {
                return Err(Violation::size("GOAWAY has less than 8 bytes"));
            }
            kind::GOAWAY => 8,
            // Sections 6.6 and 8.4: clients never push, and ours told the server not to.
            kind::PUSH_PROMISE => return Err(Violation::protocol("PUSH_PROMISE")),
            // Section 5.5.
            _ => {
                self.budgets.idle.spend(1)?;
                self.reader.at = At::Skip { left: head.length };
                return Ok(());
            }
        };
        self.reader.at = At::Payload { head, keep };
        Ok(())
    }

    fn begin_settings(&mut self, head: Head) -> Result<usize, Violation> {
        if head.stream != 0 {
            return Err(Violation::protocol("SETTINGS on a stream"));
        }
        if head.has(flag::ACK) && head.length != 0 {
            return Err(Violation::size("SETTINGS acknowledgement with a payload"));
        }
        if !head.length.is_multiple_of(6) {
            return Err(Violation::size("SETTINGS of no multiple of 6 bytes"));
        }
        if head.length > MAX_SETTINGS {
            return Err(Violation::abuse("SETTINGS with too many entries"));
        }
        self.budgets.idle.spend(SETTINGS_COST)?;
        Ok(head.length as usize)
    }

    fn read_payload<'a>(
        &mut self,
        head: Head,
        keep: usize,
        rest: &mut &'a [u8],
    ) -> Result<Step<'a>, Violation> {
        let left = At::Skip { left: head.length - u32::try_from(keep).unwrap_or(head.length) };
        if self.reader.payload.is_empty()
            && let Some((payload, after)) = rest.split_at_checked(keep)
        {
            *rest = after;
            self.reader.at = left;
            self.frame(head, payload)?;
            return Ok(Step::Done);
        }
        let missing = keep - self.reader.payload.len();
        self.reader.payload.extend_from_slice(take(rest, missing));
        if self.reader.payload.len() < keep {
            return Ok(Step::Starved);
        }
        // Not kept for the next one: idle connections are many, split control frames few.
        let payload = std::mem::take(&mut self.reader.payload);
        self.reader.at = left;
        self.frame(head, &payload)?;
        Ok(Step::Done)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Violation> {
        match head.kind {
            kind::HEADERS => self.headers_frame(head, payload),
            kind::CONTINUATION => self.continuation_frame(head, payload),
            kind::SETTINGS => self.settings_frame(head, payload),
            kind::WINDOW_UPDATE => self.window_update_frame(head, payload),
            kind::RST_STREAM => self.reset_frame(head, payload),
            kind::PING => self.ping_frame(head, payload),
            kind::GOAWAY => self.go_away_frame(head, payload),
            // PRIORITY is ignored (section 5.3.2).
            _ => Ok(()),
        }
    }
}

fn sized(head: Head, length: u32, what: &'static str) -> Result<usize, Violation> {
    if head.length == length { Ok(length as usize) } else { Err(Violation::size(what)) }
}
