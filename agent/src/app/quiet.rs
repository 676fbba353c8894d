//! Memory that many connections needed goes back to the kernel once it is quiet.
//!
//! A burst leaves free blocks between those that go on; the heap would keep them for the next one. And it ran code
//! that those that go on do not, as handshakes. To look for the one holds up whoever allocates meanwhile, and what
//! is still used of the other is mapped anew: so it is done after bursts only.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::footprint::Footprint;
use crate::observe::metrics::Metrics;
use crate::sys::heap;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// Connections opened or closed since the last look, at most, for it to be quiet.
const CALM: u64 = 8;
/// Connections opened or closed that are a burst.
const BURST: u64 = 64;

/// When to give back.
#[derive(Debug, Default)]
struct Quiet {
    /// At the last look.
    seen: u64,
    /// When memory was last given back.
    given: u64,
}

impl Quiet {
    /// Whether it is quiet after a burst, by how many connections were ever opened or closed.
    fn is_due(&mut self, connections: u64) -> bool {
        let since = connections - std::mem::replace(&mut self.seen, connections);
        let due = since <= CALM && connections - self.given >= BURST;
        if due {
            self.given = connections;
        }
        due
    }
}

/// Gives back after each burst until `stop`.
pub(super) async fn give_back(footprint: Footprint, metrics: Metrics, stop: CancellationToken) {
    let mut quiet = Quiet::default();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        if quiet.is_due(metrics.connections()) {
            heap::give_back();
            footprint.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_each_burst() {
        let mut quiet = Quiet::default();
        let counts = [0, 0, 5, 40, 64, 64, 64, 400, 900, 905, 905];
        let due: Vec<_> = counts.into_iter().map(|count| quiet.is_due(count)).collect();
        let expected = [false, false, false, false, false, true, false, false, false, true, false];
        assert_eq!(due, expected);
    }
}
