//! How many connections and streams the node's pods may have open, and what they may hold: the process's descriptors
//! and its memory are everybody's, and a flood to or from one pod must leave some for the others.
//!
//! As of memory ([`Budget`]), a pod may have a third of what all pods leave free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::hops::Hops;
use crate::tunnel::{Budget, Share};

/// What all pods of the node have together.
#[derive(Debug)]
pub struct Means {
    most: usize,
    open: AtomicUsize,
    refused: AtomicU64,
    bytes: Arc<Budget>,
}

impl Means {
    /// Room for `most` connections, and bytes for what waits.
    pub fn new(most: usize, bytes: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { most, open: AtomicUsize::new(0), refused: AtomicU64::new(0), bytes })
    }

    /// Connections and streams there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Connections and streams open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Connections and streams that were one too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// What waits.
    pub fn bytes(&self) -> &Budget {
        &self.bytes
    }

    /// One pod's part, on all threads together.
    pub fn quota(self: &Arc<Self>) -> Arc<Quota> {
        let share = Share::new(&self.bytes);
        let hops = Arc::default();
        Arc::new(Quota { means: Arc::clone(self), open: AtomicUsize::new(0), share, hops })
    }
}

/// One pod's part.
#[derive(Debug)]
pub struct Quota {
    means: Arc<Means>,
    open: AtomicUsize,
    share: Arc<Share>,
    hops: Arc<Hops>,
}

/// One connection's or stream's place, until dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Quota>);

/// The pod has too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pod has {0} connections open, and may have no more as long as the node has {1}")]
pub(super) struct Full(usize, usize);

impl Quota {
    /// Takes a place, if there is one left.
    pub(super) fn take(self: &Arc<Self>) -> Result<Place, Full> {
        let total = self.means.open();
        let allowed = self.means.most.saturating_sub(total) / 3;
        let more = |open| (open < allowed).then_some(open + 1);
        match self.open.fetch_update(Relaxed, Relaxed, more) {
            Ok(_) => {
                self.means.open.fetch_add(1, Relaxed);
                Ok(Place(Arc::clone(self)))
            }
            Err(open) => {
                self.means.refused.fetch_add(1, Relaxed);
                Err(Full(open, total))
            }
        }
    }

    /// What of the agent's own may come back in the pod.
    pub(super) fn hops(&self) -> &Arc<Hops> {
        &self.hops
    }

    /// What the pod may hold.
    pub(super) fn share(&self) -> Arc<Share> {
        Arc::clone(&self.share)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.means.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(most: usize) -> Arc<Means> {
        Means::new(most, Budget::new(1 << 20))
    }

    #[test]
    fn a_full_pod_takes_the_next_when_one_has_ended() {
        let quota = means(8).quota();
        let (first, _second) = (quota.take().unwrap(), quota.take().unwrap());
        assert_eq!(quota.take().unwrap_err(), Full(2, 2));
        drop(first);
        let _third = quota.take().unwrap();
        assert_eq!(quota.take().unwrap_err(), Full(2, 2));
    }

    #[test]
    fn greedy_pods_leave_some_for_the_next() {
        let means = means(1000);
        let all = |quota: &Arc<Quota>| -> Vec<Place> {
            std::iter::from_fn(|| quota.take().ok()).collect()
        };
        let pods: Vec<_> = (0..20).map(|_| means.quota()).collect();
        let taken: Vec<_> = pods.iter().map(all).collect();
        let counts: Vec<_> = taken.iter().map(Vec::len).collect();
        assert_eq!(counts[..4], [250, 187, 141, 105]);
        assert!(counts[10] > 10, "{counts:?}");
        assert_eq!(means.refused(), 20);
        // One that gives up what it has leaves it to the others.
        drop(taken);
        assert_eq!(means.open(), 0);
        assert_eq!(all(&pods[19]).len(), 250);
    }
}
