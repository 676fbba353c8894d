//! Source ports for dials in the name of a client whose own port is not known, or not free.
//!
//! Mostly our end closes first and leaves its four-tuple in TIME_WAIT. The kernel lets a port that was bound be used
//! again if the application's end has no objections, which it may have for a moment: taken in turn, a port comes back
//! late; picked at random, many dials would meet one of the last second's and be made twice.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use rand::Rng;

/// Below Linux's default ephemeral range (32768..), where the client's own ports are: they stay free for it. Above
/// most ports that applications listen on.
const PORTS: std::ops::Range<u16> = 16384..32768;
/// How many turns are told apart. Pairs that share one use up its ports together.
const CURSORS: usize = 256;

/// The turns of all threads: a port must not be taken by two of them.
static NEXT: [AtomicU16; CURSORS] = [const { AtomicU16::new(0) }; CURSORS];
/// Where turns begin, lest a new process follows right behind an old one.
static START: LazyLock<u16> = LazyLock::new(|| rand::rng().random());

/// The port whose turn it is between `source` and `destination` in a network namespace.
pub(super) fn next(netns: u64, source: IpAddr, destination: SocketAddr) -> u16 {
    let mut hasher = DefaultHasher::new();
    (netns, source, destination).hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "any part of the hash will do")]
    let cursor = &NEXT[hasher.finish() as usize % CURSORS];
    // The number of ports divides 65,536, so that the wrap skips none.
    let turn = START.wrapping_add(cursor.fetch_add(1, Relaxed));
    PORTS.start + turn % (PORTS.end - PORTS.start)
}

/// Any port: the next ones may all be taken.
pub(super) fn random() -> u16 {
    rand::rng().random_range(PORTS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_port_comes_again_only_after_all_the_others() {
        let (source, destination) = ([10, 0, 0, 1].into(), ([10, 0, 0, 2], 80).into());
        let take = || next(1, source, destination);
        let first: Vec<u16> = (0..PORTS.len()).map(|_| take()).collect();
        let second: Vec<u16> = (0..PORTS.len()).map(|_| take()).collect();
        let distinct: HashSet<u16> = first.iter().copied().collect();
        assert_eq!(distinct.len(), PORTS.len());
        assert!(distinct.iter().all(|port| PORTS.contains(port)));
        assert_eq!(first, second);
    }
}
