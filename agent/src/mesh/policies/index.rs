//! Policies filed under what they ask for.

use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use super::keys::{Key, Probe, SHAPES, keys};
use crate::mesh::policy::Authorization;

/// Policies in an order, found by what a request shows.
///
/// Adding and removing one costs the logarithm of their number; a clone shares everything.
#[derive(Debug, Clone)]
pub struct PolicyIndex<R: Ord> {
    all: OrdMap<R, Arc<Authorization>>,
    by_key: HashMap<Key, Bucket<R>>,
    /// Buckets of each kind of key, so that kinds nobody uses are not looked for.
    shapes: [usize; SHAPES],
}

/// Most keys lead to one policy, which needs no map.
#[derive(Debug, Clone)]
enum Bucket<R: Ord> {
    One(R, Arc<Authorization>),
    Many(OrdMap<R, Arc<Authorization>>),
}

impl<R: Ord> Default for PolicyIndex<R> {
    fn default() -> Self {
        Self { all: OrdMap::new(), by_key: HashMap::new(), shapes: [0; SHAPES] }
    }
}

impl<R: Ord + Clone> PolicyIndex<R> {
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.all.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The first in order that `matches`, and what it said. Asked are only those that may match
    /// what the probe shows.
    pub fn first<T>(
        &self,
        probe: &Probe<'_>,
        mut matches: impl FnMut(&Authorization) -> Option<T>,
    ) -> Option<(&Arc<Authorization>, T)> {
        let mut best: Option<(&R, &Arc<Authorization>, T)> = None;
        for bucket in self.buckets(probe) {
            for (rank, policy) in bucket.iter() {
                if best.as_ref().is_some_and(|(first, ..)| rank >= *first) {
                    break;
                }
                if let Some(found) = matches(policy) {
                    best = Some((rank, policy, found));
                    break;
                }
            }
        }
        best.map(|(_, policy, found)| (policy, found))
    }

    pub(super) fn insert(&mut self, rank: R, policy: Arc<Authorization>) {
        for key in keys(&policy) {
            match self.by_key.get_mut(&key) {
                Some(bucket) => bucket.insert(&rank, &policy),
                None => {
                    self.shapes[key.shape()] += 1;
                    self.by_key.insert(key, Bucket::One(rank.clone(), policy.clone()));
                }
            }
        }
        self.all.insert(rank, policy);
    }

    pub(super) fn remove(&mut self, rank: &R) {
        let Some(policy) = self.all.remove(rank) else { return };
        for key in keys(&policy) {
            if self.by_key.get_mut(&key).is_some_and(|bucket| bucket.remove(rank)) {
                self.shapes[key.shape()] -= 1;
                self.by_key.remove(&key);
            }
        }
    }

    fn buckets(&self, probe: &Probe<'_>) -> impl Iterator<Item = &Bucket<R>> {
        // Nothing to look for: the probe need not even spell its keys.
        let keys = if self.by_key.is_empty() { &[][..] } else { &probe.keys()[..] };
        let used = keys.iter().zip(self.shapes).filter(|(_, buckets)| *buckets > 0);
        used.filter_map(|(key, _)| self.by_key.get(key.as_ref()?))
    }
}

impl<R: Ord + Clone> Bucket<R> {
    fn iter(&self) -> impl Iterator<Item = (&R, &Arc<Authorization>)> {
        let (one, many) = match self {
            Self::One(rank, policy) => (Some((rank, policy)), None),
            Self::Many(all) => (None, Some(all)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, rank: &R, policy: &Arc<Authorization>) {
        if let Self::One(first, present) = self {
            *self = Self::Many(OrdMap::unit(first.clone(), present.clone()));
        }
        if let Self::Many(all) = self {
            all.insert(rank.clone(), policy.clone());
        }
    }

    /// Tells whether it was the last one.
    fn remove(&mut self, rank: &R) -> bool {
        match self {
            Self::One(only, _) => only == rank,
            Self::Many(all) => {
                all.remove(rank);
                all.is_empty()
            }
        }
    }
}
