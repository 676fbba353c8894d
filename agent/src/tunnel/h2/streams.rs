//! The streams of a connection, and what is known of those that are gone.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use sotto_proto::handover::Forgotten as Gone;

/// What the peer may still send on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Client: the response has not come.
    Response,
    /// DATA, and perhaps trailers.
    Body,
    /// It sent END_STREAM.
    Ended,
}

/// What we may still send on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Server: the response has not gone out.
    Response,
    /// DATA.
    Body,
    /// We sent END_STREAM.
    Ended,
}

/// A stream that is open or half-closed, or whose bytes were not all taken.
#[derive(Debug)]
pub(super) struct Stream {
    /// What we may send; below 0 after the peer shrank its windows (RFC 9113 section 6.9.2).
    pub(super) send_window: i32,
    /// What the peer may send; below 0 when it learns late of a small initial window.
    pub(super) recv_window: i32,
    /// The size that `recv_window` is brought back to.
    pub(super) target: u32,
    /// Bytes taken whose credit was not given back.
    pub(super) credit: u32,
    /// Bytes told and not taken.
    pub(super) untaken: u32,
    /// What is left of content-length.
    pub(super) expected: Option<u64>,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    /// A CONNECT (and not refused, at a client): its bytes are no content, and it has no trailers.
    pub(super) tunnel: bool,
}

impl Stream {
    /// Both ends ended it (RFC 9113 section 5.1); the application may still have bytes to take.
    pub(super) fn is_closed(&self) -> bool {
        self.receiving == Receiving::Ended && self.sending == Sending::Ended
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_closed() && self.untaken == 0
    }
}

/// Stream ids are sequential, and a peer gains nothing from collisions in so small a map: spreading
/// them by one multiplication does.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        // 2^64 divided by the golden ratio. The map takes low bits for the place and the high ones
        // for a tag; ids are odd, so the lowest bit says nothing.
        self.0 = (self.0 ^ u64::from(id >> 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A map by stream id.
pub(super) type ById<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

/// Streams for which what has none keeps room: many of them come once, and a connection stays for minutes.
pub(in super::super) const FEW: usize = 4;

/// Removes a stream.
pub(super) fn remove<T>(streams: &mut ById<T>, id: u32) -> Option<T> {
    let removed = streams.remove(&id);
    if streams.is_empty() {
        streams.shrink_to(FEW);
    }
    removed
}

/// Streams we reset: what the peer sent before it learns of that is no fault (section 5.1).
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// What the peer may still have in flight.
    windows: ById<i32>,
    order: VecDeque<u32>,
    /// Streams up to here may have been dropped from this list.
    horizon: u32,
}

/// Streams remembered after a reset.
const REMEMBERED: usize = 1024;

/// What a frame on a stream that is gone means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// It was sent before the peer knew.
    Expected,
    /// Reset so long ago that nothing is known of it.
    Unknown,
    /// The peer ended it itself.
    Closed,
    /// More than the stream's window.
    Overrun,
}

impl Forgotten {
    pub(super) fn insert(&mut self, id: u32, window: i32) {
        if self.windows.insert(id, window).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.windows.remove(&oldest);
            self.horizon = self.horizon.max(oldest);
        }
    }

    /// All that are remembered, the oldest first.
    pub(super) fn freeze(&self) -> Vec<Gone> {
        let window = |id: &u32| Some(Gone { id: *id, window: *self.windows.get(id)? });
        self.order.iter().filter_map(window).collect()
    }

    /// Up to where there may have been others.
    pub(super) fn horizon(&self) -> u32 {
        self.horizon
    }

    /// None if they are more than are remembered.
    pub(super) fn thaw(gone: Vec<(u32, i32)>, horizon: u32) -> Option<Self> {
        let mut this = Self { horizon, ..Self::default() };
        if gone.len() > REMEMBERED {
            return None;
        }
        gone.into_iter().for_each(|(id, window)| this.insert(id, window));
        Some(this)
    }

    /// The peer sent so many bytes on a stream that is gone.
    pub(super) fn late(&mut self, id: u32, bytes: u32) -> Late {
        match self.windows.get_mut(&id) {
            Some(window) => match window.checked_sub_unsigned(bytes) {
                Some(left) if bytes == 0 || left >= 0 => {
                    *window = left;
                    Late::Expected
                }
                _ => Late::Overrun,
            },
            None if id <= self.horizon => Late::Unknown,
            None => Late::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_had_many_streams_keeps_room_for_few() {
        let mut streams: ById<u32> = (1..=100).map(|id| (id, id)).collect();
        assert_eq!(remove(&mut streams, 101), None);
        assert!((1..=100).all(|id| remove(&mut streams, id) == Some(id)));
        assert!(streams.capacity() < 8, "{}", streams.capacity());
    }
}
