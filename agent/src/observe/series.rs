//! Connection counters by label set: bounded, and each thread counts on its own.
//!
//! A set holds one [`Counts`] per thread that uses it, so no two cores write to one cache line. The
//! table owns the counts; threads remember them weakly, open connections strongly. So a set can go
//! only while no connection uses it, and a thread that remembers one that went looks it up again.

mod recent;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::recent::Recent;
use super::connection::ConnectionInfo;
use super::labels::{ConnectionLabels, ResponseFlags};
use crate::mesh::MatchedRule;

/// Label sets kept; about 1 KiB each.
pub(super) const MAX_SETS: usize = 16_384;
/// A set that no connection used for so long is dropped: it is counted from zero if it comes again.
pub(super) const IDLE: Duration = Duration::from_secs(3600);

/// Rules told apart among the denials of one label set; what further ones deny is counted without
/// a name.
const MAX_RULES: usize = 16;

const FLAGS: usize = ResponseFlags::ALL.len();

/// What one thread counted for one label set.
#[derive(Debug, Default)]
pub(super) struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    failed: [AtomicU64; FLAGS],
    /// Of the denied ones, those that a policy denied. Its thread alone locks it, but for scrapes.
    denied: Mutex<BTreeMap<MatchedRule, u64>>,
}

impl Counts {
    pub(super) fn open(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// In Istio's metrics "received" is the request and "sent" the response, whoever reports.
    pub(super) fn transfer(&self, request_bytes: u64, response_bytes: u64) {
        self.received_bytes.fetch_add(request_bytes, Relaxed);
        self.sent_bytes.fetch_add(response_bytes, Relaxed);
    }

    pub(super) fn close(&self) {
        self.closed.fetch_add(1, Relaxed);
    }

    /// It had failed; `by` is what denied it.
    pub(super) fn fail(&self, flags: ResponseFlags, by: Option<&MatchedRule>) {
        self.failed[flags.index()].fetch_add(1, Relaxed);
        if let Some(by) = by {
            count(&mut self.denied.lock(), by, 1);
        }
    }
}

/// Totals of a label set over all threads.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) failed: [u64; FLAGS],
    pub(super) denied: BTreeMap<MatchedRule, u64>,
}

impl Totals {
    fn add(&mut self, counts: &Counts) {
        self.opened += counts.opened.load(Relaxed);
        self.closed += counts.closed.load(Relaxed);
        self.received_bytes += counts.received_bytes.load(Relaxed);
        self.sent_bytes += counts.sent_bytes.load(Relaxed);
        for (total, count) in self.failed.iter_mut().zip(&counts.failed) {
            *total += count.load(Relaxed);
        }
        for (by, denied) in counts.denied.lock().iter() {
            count(&mut self.denied, by, *denied);
        }
    }

    /// Of the denied ones, those that are told by policy.
    pub(super) fn denied_by_policy(&self) -> u64 {
        self.denied.values().sum()
    }
}

/// Counts under a rule's name, if there is room for it.
fn count(denied: &mut BTreeMap<MatchedRule, u64>, by: &MatchedRule, more: u64) {
    if let Some(total) = denied.get_mut(by) {
        *total += more;
    } else if denied.len() < MAX_RULES {
        denied.insert(by.clone(), more);
    }
}

#[derive(Debug)]
struct Set {
    threads: Vec<Arc<Counts>>,
    /// What is left of threads that are done.
    past: Totals,
    /// At the last look.
    seen: Totals,
    changed: Instant,
}

impl Set {
    fn new(now: Instant) -> Self {
        Self { threads: Vec::new(), past: Totals::default(), seen: Totals::default(), changed: now }
    }

    fn totals(&self) -> Totals {
        let mut totals = self.past.clone();
        self.threads.iter().for_each(|counts| totals.add(counts));
        totals
    }

    /// Gives up the counts that no connection holds. True if none are left.
    fn retire(&mut self) -> bool {
        for counts in std::mem::take(&mut self.threads) {
            // The unwrap decides atomically: whoever upgrades a weak reference before it keeps the
            // counts alive, and they stay; after it the upgrade fails.
            match Arc::try_unwrap(counts) {
                Ok(counts) => self.past.add(&counts),
                Err(counts) => self.threads.push(counts),
            }
        }
        self.threads.is_empty()
    }
}

/// All label sets.
#[derive(Debug)]
pub(super) struct Table {
    sets: Mutex<HashMap<Arc<ConnectionLabels>, Set>>,
    max_sets: usize,
    dropped: AtomicU64,
}

impl Table {
    pub(super) fn new(max_sets: usize) -> Self {
        Self { sets: Mutex::default(), max_sets, dropped: AtomicU64::new(0) }
    }

    /// Sets dropped so far, idle or for want of room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// New counts for a thread. A full table makes room by dropping an unused set; with every set
    /// in use, the connection is counted under labels that say only who reports.
    fn join(&self, labels: ConnectionLabels, now: Instant) -> (Arc<ConnectionLabels>, Arc<Counts>) {
        let mut sets = self.sets.lock();
        let labels = if sets.contains_key(&labels) || self.has_room(&mut sets) {
            labels
        } else {
            ConnectionLabels::overflow(labels.reporter, labels.mutual_tls)
        };
        let key = sets
            .get_key_value(&labels)
            .map_or_else(|| Arc::new(labels), |(key, _)| Arc::clone(key));
        let counts = Arc::new(Counts::default());
        let set = sets.entry(Arc::clone(&key)).or_insert_with(|| Set::new(now));
        set.threads.push(Arc::clone(&counts));
        set.changed = now;
        (key, counts)
    }

    fn has_room(&self, sets: &mut HashMap<Arc<ConnectionLabels>, Set>) -> bool {
        if sets.len() < self.max_sets {
            return true;
        }
        // Dropping an eighth at once keeps the scan rare.
        let mut oldest: Vec<_> =
            sets.iter().map(|(labels, set)| (set.changed, Arc::clone(labels))).collect();
        oldest.sort_unstable_by_key(|(changed, _)| *changed);
        let mut room = self.max_sets.div_ceil(8);
        for (_, labels) in oldest {
            if room == 0 {
                break;
            }
            if sets.get_mut(&labels).is_some_and(Set::retire) {
                sets.remove(&labels);
                self.dropped.fetch_add(1, Relaxed);
                room -= 1;
            }
        }
        sets.len() < self.max_sets
    }

    /// Drops what was idle for long, and returns the rest.
    pub(super) fn collect(
        &self,
        now: Instant,
        idle: Duration,
    ) -> Vec<(Arc<ConnectionLabels>, Totals)> {
        let mut sets = self.sets.lock();
        let before = sets.len();
        sets.retain(|_, set| {
            let totals = set.totals();
            if totals != set.seen {
                set.seen = totals;
                set.changed = now;
            }
            now.duration_since(set.changed) < idle || !set.retire()
        });
        self.dropped.fetch_add((before - sets.len()) as u64, Relaxed);
        sets.iter().map(|(labels, set)| (Arc::clone(labels), set.totals())).collect()
    }
}

/// A thread's memory of the sets it uses.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: HashMap<ConnectionLabels, Weak<Counts>>,
    recent: Recent,
}

impl Cache {
    /// The thread's counts for a connection; labels are made only for parties new to the thread.
    pub(super) fn counts_of(&mut self, table: &Table, info: &ConnectionInfo) -> Arc<Counts> {
        if let Some(counts) = self.recent.find(info) {
            return counts;
        }
        let labels = ConnectionLabels::new(info);
        let counts = self.counts(table, labels.clone());
        if self.known.contains_key(&labels) {
            self.recent.remember(info, &counts);
        }
        counts
    }

    /// The thread's counts for a label set; the table is locked only for a set new to the thread.
    fn counts(&mut self, table: &Table, labels: ConnectionLabels) -> Arc<Counts> {
        if let Some(counts) = self.known.get(&labels).and_then(Weak::upgrade) {
            return counts;
        }
        if self.known.len() >= table.max_sets {
            self.known.retain(|_, counts| counts.strong_count() > 0);
        }
        let (joined, counts) = table.join(labels.clone(), Instant::now());
        // What was counted elsewhere for want of room is asked again next time.
        if *joined == labels {
            self.known.insert(labels, Arc::downgrade(&counts));
        }
        counts
    }
}

#[cfg(test)]
mod tests;
