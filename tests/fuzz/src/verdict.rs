//! What an end made of one step of a script, and whether two ends agree on it.

use std::collections::{BTreeMap, BTreeSet};

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// It ended the connection, with this code.
    pub broken: Option<u32>,
    /// Streams it reset, with the code.
    pub resets: BTreeMap<u32, u32>,
    /// Streams it told to be answered, with the status.
    pub answered: BTreeMap<u32, u16>,
    /// Streams it told of, and their bytes.
    pub data: BTreeMap<u32, Vec<u8>>,
    /// Streams whose end it told.
    pub ended: BTreeSet<u32>,
    /// Streams it told to be reset by the peer, with the code.
    pub gone: BTreeMap<u32, u32>,
    /// Bytes of DATA it sent, by stream.
    pub sent: BTreeMap<u32, usize>,
}

impl Verdict {
    pub fn is_refused(&self) -> bool {
        self.broken.is_some() || !self.resets.is_empty()
    }

    /// Both refuse, and one of them the connection.
    ///
    /// RFC 9113 section 5.4.1: an error of a stream may be treated as one of the connection.
    pub fn is_the_end_with(&self, other: &Self) -> bool {
        let both = self.is_refused() && other.is_refused();
        both && (self.broken.is_some() || other.broken.is_some())
    }

    /// Both refuse the same streams, or nothing and told the same.
    pub fn agrees_with(&self, other: &Self) -> bool {
        if self.is_refused() && other.is_refused() {
            self.resets.keys().eq(other.resets.keys())
        } else {
            self == other
        }
    }

    /// Notes what the frames in `out` say.
    pub fn sent(&mut self, out: &[u8]) {
        let mut rest = out.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_or(out);
        while let Some(([l0, l1, l2, kind, _, id @ ..], after)) = rest.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
            let (payload, after) = after.split_at(length);
            let number = |at: usize| {
                let four = payload.get(at..).and_then(<[u8]>::first_chunk);
                four.map_or(0, |four| u32::from_be_bytes(*four))
            };
            let id = u32::from_be_bytes(*id);
            match kind {
                0 if length > 0 => *self.sent.entry(id).or_default() += length,
                3 => {
                    self.resets.insert(id, number(0));
                }
                7 if number(4) != 0 => self.broken = Some(number(4)),
                _ => {}
            }
            rest = after;
        }
    }
}

/// The script so far, and both verdicts on its last step.
pub fn report(steps: &[String], ours: &Verdict, theirs: &Verdict) -> String {
    format!("ours {ours:?}\ntheirs {theirs:?}\n{}", steps.join("\n"))
}

/// A frame as it is told in a report.
pub fn told(frame: &[u8]) -> String {
    let start = &frame[3..frame.len().min(80)];
    format!("{} {}", frame.len() - 9, start.escape_ascii())
}
