//! Who comes in the clear: counted a thread at a time, so that an operator can tell who would break
//! if only mutual TLS were let in.
//!
//! The table is bounded: what no longer fits is counted together, without names.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use arcstr::ArcStr;

use crate::authorize::Request;
use crate::mesh::{LocalPod, PodUid, Workload};

/// Peers told apart on one thread; about 300 bytes each.
const MAX_PEERS: usize = 4096;

/// Connections of plaintext peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Open now.
    pub open: u64,
    /// Let in since the agent's start.
    pub total: u64,
    /// Kept out by policy since the agent's start.
    pub denied: u64,
}

impl Tally {
    /// Adds another thread's.
    pub fn add(&mut self, other: Self) {
        self.open += other.open;
        self.total += other.total;
        self.denied += other.denied;
    }
}

/// One plaintext client of one port of one pod.
#[derive(Debug, Clone)]
pub struct PlaintextPeer {
    /// The pod of this node.
    pub pod: Arc<LocalPod>,
    /// What made the pod, if the mesh knows.
    pub workload: Option<ArcStr>,
    /// The client's namespace and what made it, if the mesh knows.
    pub client: Option<(ArcStr, ArcStr)>,
    /// What policies judge of it.
    pub request: Request,
    /// How many connections.
    pub tally: Tally,
    /// When the last one opened, was denied, or ended.
    pub last_seen: SystemTime,
    /// When the last one opened or was denied.
    pub last_opened: SystemTime,
}

/// All that one thread counted.
#[derive(Debug, Clone, Default)]
pub struct PlaintextPeers {
    /// Told apart.
    pub peers: Vec<PlaintextPeer>,
    /// The rest.
    pub others: Tally,
}

/// A connection as its parties are known.
#[derive(Debug)]
pub(super) struct Encounter<'a> {
    pub(super) pod: &'a Arc<LocalPod>,
    pub(super) workload: Option<&'a Workload>,
    pub(super) client: Option<&'a Workload>,
    pub(super) request: &'a Request,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    pod: PodUid,
    port: u16,
    ip: IpAddr,
    client: Option<(ArcStr, ArcStr)>,
}

#[derive(Debug, Default)]
struct Table {
    peers: HashMap<Key, PlaintextPeer>,
    others: Tally,
}

/// The thread's counters.
#[derive(Debug, Clone, Default)]
pub(super) struct PlaintextCounters(Rc<RefCell<Table>>);

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Counted {
    /// None for one that is counted among the others.
    key: Option<Key>,
    counters: PlaintextCounters,
}

impl PlaintextCounters {
    /// Counts a connection that is let in, as open until the returned value is dropped.
    pub(super) fn let_in(&self, encounter: &Encounter<'_>) -> Counted {
        let key = self.count(encounter, Tally { open: 1, total: 1, denied: 0 });
        Counted { key, counters: self.clone() }
    }

    /// Counts a connection that is kept out.
    pub(super) fn keep_out(&self, encounter: &Encounter<'_>) {
        self.count(encounter, Tally { denied: 1, ..Tally::default() });
    }

    /// All of it.
    pub(super) fn snapshot(&self) -> PlaintextPeers {
        let table = self.0.borrow();
        PlaintextPeers { peers: table.peers.values().cloned().collect(), others: table.others }
    }

    fn count(&self, encounter: &Encounter<'_>, one: Tally) -> Option<Key> {
        let table = &mut *self.0.borrow_mut();
        let request = encounter.request;
        let key = Key {
            pod: encounter.pod.uid.clone(),
            port: request.destination.port(),
            ip: request.source_ip,
            client: encounter.client.map(|c| (c.namespace.clone(), c.workload_name.clone())),
        };
        if table.peers.len() >= MAX_PEERS && !table.peers.contains_key(&key) {
            table.others.add(one);
            return None;
        }
        let peer = table.peers.entry(key.clone()).or_insert_with(|| PlaintextPeer {
            pod: encounter.pod.clone(),
            workload: None,
            client: key.client.clone(),
            request: request.clone(),
            tally: Tally::default(),
            last_seen: SystemTime::UNIX_EPOCH,
            last_opened: SystemTime::UNIX_EPOCH,
        });
        peer.workload = encounter.workload.map(|workload| workload.workload_name.clone());
        peer.request = request.clone();
        peer.tally.add(one);
        peer.last_seen = SystemTime::now();
        peer.last_opened = peer.last_seen;
        Some(key)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let table = &mut *self.counters.0.borrow_mut();
        let tally = match &self.key {
            None => &mut table.others,
            Some(key) => {
                let Some(peer) = table.peers.get_mut(key) else { return };
                peer.last_seen = SystemTime::now();
                &mut peer.tally
            }
        };
        tally.open = tally.open.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Account;
    use crate::mesh::local::Exclusions;

    fn pod() -> Arc<LocalPod> {
        Arc::new(LocalPod {
            uid: PodUid("1".into()),
            namespace: "bookinfo".into(),
            name: "details-1".into(),
            account: Account::new("bookinfo", "details").unwrap(),
            ip4: Some([10, 0, 0, 2].into()),
            ip6: None,
            exclusions: Exclusions::default(),
        })
    }

    fn request(source: u32) -> Request {
        Request {
            source_ip: IpAddr::V4(source.into()),
            source: None,
            destination: "10.0.0.2:9080".parse().unwrap(),
        }
    }

    fn tallies(counters: &PlaintextCounters) -> Vec<Tally> {
        counters.snapshot().peers.into_iter().map(|peer| peer.tally).collect()
    }

    #[test]
    fn a_connection_is_open_until_it_is_let_go_and_counted_for_ever() {
        let (counters, pod, request) = (PlaintextCounters::default(), pod(), request(1));
        let encounter = Encounter { pod: &pod, workload: None, client: None, request: &request };
        let (first, second) = (counters.let_in(&encounter), counters.let_in(&encounter));
        counters.keep_out(&encounter);
        assert_eq!(tallies(&counters), [Tally { open: 2, total: 2, denied: 1 }]);
        drop((first, second));
        assert_eq!(tallies(&counters), [Tally { open: 0, total: 2, denied: 1 }]);
    }

    #[test]
    fn a_full_table_counts_the_rest_together() {
        let (counters, pod) = (PlaintextCounters::default(), pod());
        let meet = |source| {
            let request = request(source);
            let encounter =
                Encounter { pod: &pod, workload: None, client: None, request: &request };
            counters.let_in(&encounter)
        };
        let most = u32::try_from(MAX_PEERS).unwrap();
        let all: Vec<_> = (0..most + 5).map(meet).collect();
        // One that is known goes on being told apart.
        let known = meet(0);
        let seen = counters.snapshot();
        assert_eq!(seen.peers.len(), MAX_PEERS);
        assert_eq!(seen.others, Tally { open: 5, total: 5, denied: 0 });
        drop((all, known));
        assert_eq!(counters.snapshot().others, Tally { open: 0, total: 5, denied: 0 });
    }
}
