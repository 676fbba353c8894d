//! A thread's shortcut from the parties of a connection to its counts.
//!
//! A label set is some twenty strings; parties are told apart by where their descriptions are in memory. A weak
//! reference keeps that place from being used again, so the same place is the same party.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ptr;
use std::sync::{Arc, Weak};

use super::Counts;
use crate::mesh::{LocalPod, Service, SpiffeId, Workload};
use crate::observe::connection::{ConnectionInfo, Party};
use crate::observe::labels::Reporter;

/// Entries kept; all go when there is no room for another. About 300 bytes each.
const MOST: usize = 4096;

/// What was looked up lately.
#[derive(Debug, Default)]
pub(super) struct Recent {
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    reporter: Reporter,
    mutual_tls: bool,
    source: Seen,
    destination: Seen,
    service: Weak<Service>,
    counts: Weak<Counts>,
}

#[derive(Debug)]
struct Seen {
    workload: Weak<Workload>,
    local: Weak<LocalPod>,
    identity: Option<SpiffeId>,
}

impl Recent {
    /// The counts of a connection between the same parties, if they are alive.
    pub(super) fn find(&self, info: &ConnectionInfo) -> Option<Arc<Counts>> {
        let entry = self.entries.get(&hash(info))?;
        if entry.is_of(info) { entry.counts.upgrade() } else { None }
    }

    /// Keeps the counts for the next connection between these parties.
    pub(super) fn remember(&mut self, info: &ConnectionInfo, counts: &Arc<Counts>) {
        if self.entries.len() >= MOST {
            self.entries.clear();
        }
        let entry = Entry {
            reporter: info.reporter,
            mutual_tls: info.mutual_tls,
            source: Seen::new(&info.source),
            destination: Seen::new(&info.destination),
            service: weak(info.service.as_ref()),
            counts: Arc::downgrade(counts),
        };
        self.entries.insert(hash(info), entry);
    }
}

impl Entry {
    fn is_of(&self, info: &ConnectionInfo) -> bool {
        self.reporter == info.reporter
            && self.mutual_tls == info.mutual_tls
            && self.source.is(&info.source)
            && self.destination.is(&info.destination)
            && is_same(&self.service, info.service.as_ref())
    }
}

impl Seen {
    fn new(party: &Party) -> Self {
        Self {
            workload: weak(party.workload.as_ref()),
            local: weak(party.local.as_ref()),
            identity: party.identity.clone(),
        }
    }

    fn is(&self, party: &Party) -> bool {
        is_same(&self.workload, party.workload.as_ref())
            && is_same(&self.local, party.local.as_ref())
            && self.identity == party.identity
    }
}

fn hash(info: &ConnectionInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    (info.reporter, info.mutual_tls, address(info.service.as_ref())).hash(&mut hasher);
    for party in [&info.source, &info.destination] {
        (address(party.workload.as_ref()), address(party.local.as_ref())).hash(&mut hasher);
        party.identity.hash(&mut hasher);
    }
    hasher.finish()
}

fn address<T>(party: Option<&Arc<T>>) -> *const T {
    party.map_or_else(ptr::null, Arc::as_ptr)
}

fn weak<T>(party: Option<&Arc<T>>) -> Weak<T> {
    party.map_or_else(Weak::new, Arc::downgrade)
}

/// An empty weak reference is nobody's.
fn is_same<T>(known: &Weak<T>, party: Option<&Arc<T>>) -> bool {
    match party {
        Some(party) => ptr::eq(known.as_ptr(), Arc::as_ptr(party)),
        None => known.ptr_eq(&Weak::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Arc<Workload> {
        let address = [10, 0, 0, 1].into();
        Arc::new(Workload::pod("c", "ns", "pod", "sa", address).unwrap())
    }

    fn info(workload: Option<&Arc<Workload>>) -> ConnectionInfo {
        let address = ([10, 0, 0, 1], 80).into();
        ConnectionInfo {
            reporter: Reporter::Source,
            source: Party { workload: workload.cloned(), ..Party::at(address) },
            destination: Party::at(address),
            service: None,
            hbone_target: None,
            mutual_tls: false,
        }
    }

    #[test]
    fn only_the_very_same_parties_share_counts() {
        let (mut recent, counts) = (Recent::default(), Arc::default());
        let (known, alike) = (workload(), workload());
        recent.remember(&info(Some(&known)), &counts);
        let found = |info: &ConnectionInfo| recent.find(info).is_some();
        assert!(found(&info(Some(&known))));
        assert!(!found(&info(Some(&alike))), "the mesh told something new of it");
        assert!(!found(&info(None)));
        assert!(!found(&ConnectionInfo { mutual_tls: true, ..info(Some(&known)) }));
        let identity = Some(known.identity.clone());
        let source = Party { identity, ..info(Some(&known)).source };
        assert!(!found(&ConnectionInfo { source, ..info(Some(&known)) }));
    }

    #[test]
    fn counts_that_are_gone_are_not_found_again() {
        let (mut recent, counts) = (Recent::default(), Arc::default());
        recent.remember(&info(None), &counts);
        assert!(recent.find(&info(None)).is_some());
        drop(counts);
        assert!(recent.find(&info(None)).is_none());
    }
}
