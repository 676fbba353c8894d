//! How many lines may wait for the writer, of all and of one pod.
//!
//! A pod's lines may take a third of what is free of the queue (as its bytes of the agent's buffers): who makes a
//! thousand lines a second loses some of its own, and nobody else's. The agent's own lines have all of it. What was
//! left out is counted by pod, and told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::mesh::LocalPod;

/// Lines that may wait.
pub(super) const LINES: usize = 8192;
/// Pods told apart; those that share a number share a part of the queue.
const SLOTS: usize = 1024;
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

/// Places in the queue.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    of_pods: Box<[AtomicUsize]>,
    hash: RandomState,
    dropped: AtomicU64,
    /// By pod, as `namespace/name`, since they were last told.
    left_out: Mutex<BTreeMap<String, u64>>,
}

/// A line's place; given back with [`Places::give_back`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(Option<usize>);

impl Places {
    pub(super) fn new() -> Self {
        Self {
            taken: AtomicUsize::new(0),
            of_pods: (0..SLOTS).map(|_| AtomicUsize::new(0)).collect(),
            hash: RandomState::new(),
            dropped: AtomicU64::new(0),
            left_out: Mutex::default(),
        }
    }

    /// Lines dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// A place for the line that the calling thread is about to write; if there is none, it is counted as dropped.
    pub(super) fn take(&self) -> Option<Place> {
        POD.with_borrow(|pod| match pod {
            Some(pod) => self.take_for(pod),
            None => self.take_any(LINES, None),
        })
    }

    fn take_for(&self, pod: &LocalPod) -> Option<Place> {
        let slot = usize::try_from(self.hash.hash_one(&pod.uid)).unwrap_or_default() % SLOTS;
        let free = LINES.saturating_sub(self.taken.load(Relaxed));
        if self.of_pods[slot].load(Relaxed) < free / 3
            && let Some(place) = self.take_any(LINES, Some(slot))
        {
            return Some(place);
        }
        let name = format!("{}/{}", pod.namespace, pod.name);
        let mut left_out = self.left_out.lock();
        if left_out.len() < MOST_TOLD || left_out.contains_key(&name) {
            *left_out.entry(name).or_default() += 1;
        }
        drop(left_out);
        self.dropped.fetch_add(1, Relaxed);
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
            self.of_pods[slot].fetch_add(1, Relaxed);
        }
        Some(Place(slot))
    }

    /// The line is written.
    pub(super) fn give_back(&self, Place(slot): Place) {
        self.taken.fetch_sub(1, Relaxed);
        if let Some(slot) = slot {
            self.of_pods[slot].fetch_sub(1, Relaxed);
        }
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

    #[test]
    fn a_pod_that_fills_the_queue_loses_its_own_lines() {
        let places = Places::new();
        let (loud, quiet) = (pod("loud"), pod("quiet"));
        let taken: Vec<_> = (0..10_000).filter_map(|_| of_pod(&loud, || places.take())).collect();
        assert!((LINES / 5..=LINES / 3).contains(&taken.len()), "{}", taken.len());
        assert!((0..100).all(|_| of_pod(&quiet, || places.take()).is_some()));
        assert!((0..1000).all(|_| places.take().is_some()), "the agent's own");
        let lost = u64::try_from(10_000 - taken.len()).unwrap();
        assert_eq!(places.take_left_out(), BTreeMap::from([("ns/loud".to_owned(), lost)]));
        assert_eq!((places.take_left_out().len(), places.dropped()), (0, lost));
        taken.into_iter().for_each(|place| places.give_back(place));
        assert!(of_pod(&loud, || places.take()).is_some());
    }

    #[test]
    fn the_queue_is_bounded_for_the_agent_too() {
        let places = Places::new();
        assert_eq!((0..LINES * 2).filter_map(|_| places.take()).count(), LINES);
        assert_eq!(places.dropped(), u64::try_from(LINES).unwrap());
    }
}
