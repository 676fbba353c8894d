//! How many lines may wait for the writer, of all and of one pod, and how many a pod may have a second.
//!
//! The node keeps only so much of our log: a pod that opens connections as fast as it can would have the lines of all
//! others rotated away. So each has [`LinesPerPod`] a second, and [`BURST`] times as many at once. And a pod's lines may take a third of what is free of the queue (as its bytes of the agent's buffers): who makes a
//! thousand lines a second loses some of its own, and nobody else's. The agent's own lines have all of it. What was
//! left out is counted by pod, and told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::mesh::LocalPod;

/// Lines that may wait.
pub(super) const LINES: usize = 8192;
/// Pods told apart; those that share a number share a part of the queue.
const SLOTS: usize = 1024;
/// Seconds' worth of lines that a pod may have at once.
const BURST: u64 = 10;
/// Pods whose lines were left out that are told at a time.
const MOST_TOLD: usize = 64;

thread_local! {
    static POD: RefCell<Option<Arc<LocalPod>>> = const { RefCell::new(None) };
}

/// Runs `log`, whose lines are a pod's.
pub(crate) fn of_pod<T>(pod: &Arc<LocalPod>, log: impl FnOnce() -> T) -> T {
    let before = POD.replace(Some(Arc::clone(pod)));
    let result = log();
    POD.replace(before);
    result
}

/// Lines that one pod may have a second; none: as many as are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinesPerPod(pub Option<NonZeroU32>);

/// Lines that are not in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LostLines {
    /// For want of room: whoever reads them is too slow.
    pub dropped: u64,
    /// Of pods that have too many a second.
    pub suppressed: u64,
}

/// Places in the queue.
#[derive(Debug)]
pub(super) struct Places {
    /// Between two lines of a pod, for as long as it goes on.
    each: Option<Duration>,
    began: Instant,
    taken: AtomicUsize,
    of_pods: Box<[OfPod]>,
    hash: RandomState,
    dropped: AtomicU64,
    suppressed: AtomicU64,
    /// By pod, as `namespace/name`, since they were last told.
    left_out: Mutex<BTreeMap<String, u64>>,
}

/// What one pod's lines take; or those of several that share a number.
#[derive(Debug, Default)]
struct OfPod {
    taken: AtomicUsize,
    /// When all its lines so far will have had their time, in nanoseconds since the beginning.
    paid: AtomicU64,
}

impl OfPod {
    /// Whether it may have a line at `now`; then it is paid for.
    fn pay(&self, each: Duration, now: Duration) -> bool {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (each, now) = (nanoseconds(each), nanoseconds(now));
        let second = nanoseconds(Duration::from_secs(1));
        let paid = self.paid.fetch_update(Relaxed, Relaxed, |paid| {
            let paid = paid.max(now).saturating_add(each);
            (paid - now <= BURST * second).then_some(paid)
        });
        paid.is_ok()
    }
}

/// A line's place; given back with [`Places::give_back`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(Option<usize>);

impl Places {
    pub(super) fn new(LinesPerPod(a_second): LinesPerPod) -> Self {
        Self {
            each: a_second.map(|lines| Duration::from_secs(1) / lines.get()),
            began: Instant::now(),
            taken: AtomicUsize::new(0),
            of_pods: (0..SLOTS).map(|_| OfPod::default()).collect(),
            hash: RandomState::new(),
            dropped: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            left_out: Mutex::default(),
        }
    }

    /// Lines lost so far.
    pub(super) fn lost(&self) -> LostLines {
        let (dropped, suppressed) = (self.dropped.load(Relaxed), self.suppressed.load(Relaxed));
        LostLines { dropped, suppressed }
    }

    /// A place for the line that the calling thread is about to write; if there is none, it is counted as lost.
    pub(super) fn take(&self) -> Option<Place> {
        POD.with_borrow(|pod| match pod {
            Some(pod) => self.take_for(pod),
            None => self.take_any(LINES, None),
        })
    }

    fn take_for(&self, pod: &LocalPod) -> Option<Place> {
        let slot = usize::try_from(self.hash.hash_one(&pod.uid)).unwrap_or_default() % SLOTS;
        let free = LINES.saturating_sub(self.taken.load(Relaxed));
        let now = self.began.elapsed();
        let lost = if self.each.is_some_and(|each| !self.of_pods[slot].pay(each, now)) {
            &self.suppressed
        } else if self.of_pods[slot].taken.load(Relaxed) < free / 3
            && let Some(place) = self.take_any(LINES, Some(slot))
        {
            return Some(place);
        } else {
            &self.dropped
        };
        lost.fetch_add(1, Relaxed);
        let name = format!("{}/{}", pod.namespace, pod.name);
        let mut left_out = self.left_out.lock();
        if left_out.len() < MOST_TOLD || left_out.contains_key(&name) {
            *left_out.entry(name).or_default() += 1;
        }
        None
    }

    fn take_any(&self, most: usize, slot: Option<usize>) -> Option<Place> {
        // Threads that write at the same moment may exceed it by a line each.
        if self.taken.load(Relaxed) >= most {
            if slot.is_none() {
                self.dropped.fetch_add(1, Relaxed);
            }
            return None;
        }
        self.taken.fetch_add(1, Relaxed);
        if let Some(slot) = slot {
            self.of_pods[slot].taken.fetch_add(1, Relaxed);
        }
        Some(Place(slot))
    }

    /// The line is written.
    pub(super) fn give_back(&self, Place(slot): Place) {
        self.taken.fetch_sub(1, Relaxed);
        if let Some(slot) = slot {
            self.of_pods[slot].taken.fetch_sub(1, Relaxed);
        }
    }

    /// Whether there is something to tell.
    pub(super) fn has_left_out(&self) -> bool {
        !self.left_out.lock().is_empty()
    }

    /// How many lines of which pods were left out since the last call.
    pub(super) fn take_left_out(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.left_out.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::pod;

    const ALL: LinesPerPod = LinesPerPod(None);

    #[test]
    fn a_pod_has_only_so_many_lines_a_second() {
        let places = Places::new(LinesPerPod(NonZeroU32::new(100)));
        let (loud, quiet) = (pod("loud"), pod("quiet"));
        // The reader is as fast as can be.
        let written = (0..100_000).filter_map(|_| of_pod(&loud, || places.take()));
        let written = written.map(|place| places.give_back(place)).count();
        // Ten seconds' worth, and what the test itself takes.
        assert!((1000..2000).contains(&written), "{written}");
        assert!((0..500).all(|_| of_pod(&quiet, || places.take()).is_some()));
        assert!((0..5000).all(|_| places.take().is_some()), "the agent's own");
        let suppressed = u64::try_from(100_000 - written).unwrap();
        assert_eq!(places.lost(), LostLines { dropped: 0, suppressed });
        assert_eq!(places.take_left_out(), BTreeMap::from([("ns/loud".to_owned(), suppressed)]));
    }

    #[test]
    fn lines_are_paid_for_with_time() {
        let (of_pod, each) = (OfPod::default(), Duration::from_millis(10));
        let at = |seconds, tries: usize| {
            let now = Duration::from_secs(seconds);
            (0..tries).filter(|_| of_pod.pay(each, now)).count()
        };
        assert_eq!(at(0, 5000), 1000);
        assert_eq!(at(1, 5000), 100);
        assert_eq!(at(3, 5000), 200);
        // A long rest saves no more than there may be at once.
        assert_eq!(at(3600, 5000), 1000);
    }

    #[test]
    fn a_pod_that_fills_the_queue_loses_its_own_lines() {
        let places = Places::new(ALL);
        let (loud, quiet) = (pod("loud"), pod("quiet"));
        let taken: Vec<_> = (0..10_000).filter_map(|_| of_pod(&loud, || places.take())).collect();
        assert!((LINES / 5..=LINES / 3).contains(&taken.len()), "{}", taken.len());
        assert!((0..100).all(|_| of_pod(&quiet, || places.take()).is_some()));
        assert!((0..1000).all(|_| places.take().is_some()), "the agent's own");
        let lost = u64::try_from(10_000 - taken.len()).unwrap();
        assert_eq!(places.take_left_out(), BTreeMap::from([("ns/loud".to_owned(), lost)]));
        assert_eq!((places.take_left_out().len(), places.lost().dropped), (0, lost));
        taken.into_iter().for_each(|place| places.give_back(place));
        assert!(of_pod(&loud, || places.take()).is_some());
    }

    #[test]
    fn the_queue_is_bounded_for_the_agent_too() {
        let places = Places::new(ALL);
        assert_eq!((0..LINES * 2).filter_map(|_| places.take()).count(), LINES);
        assert_eq!(places.lost().dropped, u64::try_from(LINES).unwrap());
    }
}
