//! Connections of the agent's own that come back to it, as if an application had opened them: the last line against a loop.
//!
//! What leads one back is a pod's own rules, or an address that stands for another and that somebody names an endpoint. It
//! happens within the pod that is dialled from, and there the handshake has ended when connect(2) returns: of all others
//! nothing is asked and nothing kept. An application may have the port of one by chance, as its other end is another; that
//! many times in a row nobody has. Rules that also make another client of it are beyond this, and use up the pod's quota.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// How often a connection may come back.
const MOST: usize = 16;

/// The agent's own ends in one pod, on all threads.
#[derive(Debug, Default)]
pub(super) struct Hops {
    /// Each with the client that was served by it. They are followed only when they are asked for: a thread that dials
    /// may say so later than what it dialled has come back to another, and been dialled on.
    ends: Mutex<HashMap<SocketAddr, Served>>,
    arrivals: AtomicU64,
    /// Most pods have none: then nobody has to be waited for.
    count: AtomicUsize,
}

/// A connection as it arrived: from whom, and after how many others. What led to it was there before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served {
    client: SocketAddr,
    arrival: u64,
}

/// An end of the agent's, until dropped.
#[derive(Debug)]
pub(super) struct Hop(Arc<Hops>, SocketAddr);

/// It has come back too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it came back to the agent {MOST} times: rules in the pod, or an endpoint that stands for its own service, lead to itself"
)]
pub(super) struct Loop;

impl Hops {
    /// Takes note of a connection, before anything is dialled for it.
    pub(super) fn arrived(&self, client: SocketAddr) -> Served {
        Served { client, arrival: self.arrivals.fetch_add(1, Ordering::Relaxed) }
    }

    /// Whether it came back too often.
    pub(super) fn check(&self, mut served: Served) -> Result<(), Loop> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let ends = self.ends.lock();
        for _ in 0..MOST {
            match ends.get(&served.client) {
                Some(before) if before.arrival < served.arrival => served = *before,
                _ => return Ok(()),
            }
        }
        Err(Loop)
    }

    /// Keeps an end from which a connection leads on.
    pub(super) fn keep(self: &Arc<Self>, end: SocketAddr, served: Served) -> Hop {
        let mut ends = self.ends.lock();
        ends.insert(end, served);
        self.count.store(ends.len(), Ordering::Release);
        Hop(Arc::clone(self), end)
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        let Self(hops, end) = self;
        let mut ends = hops.ends.lock();
        ends.remove(end);
        hops.count.store(ends.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn what_comes_back_each_time_ends_and_who_is_not_the_agent_never_does() {
        let hops = Arc::new(Hops::default());
        let mut kept = Vec::new();
        let mut client = end(1);
        for port in 1000.. {
            let served = hops.arrived(client);
            if hops.check(served).is_err() {
                break;
            }
            client = end(port);
            kept.push(hops.keep(client, served));
        }
        assert_eq!(kept.len(), MOST);
        assert_eq!(hops.check(hops.arrived(end(1))), Ok(()));
    }

    #[test]
    fn it_does_not_matter_which_of_them_is_told_of_first() {
        let hops = Arc::new(Hops::default());
        let most = u16::try_from(MOST).unwrap();
        let served: Vec<_> = (1..=most).map(|port| (port, hops.arrived(end(port)))).collect();
        let late = served.into_iter().rev();
        let _kept: Vec<_> = late.map(|(port, served)| hops.keep(end(port + 1), served)).collect();
        assert_eq!(hops.check(hops.arrived(end(most + 1))), Err(Loop));
        assert_eq!(hops.check(hops.arrived(end(most))), Ok(()));
    }

    #[test]
    fn applications_that_have_ports_of_the_agents_ends_go_round_in_no_circle() {
        let hops = Arc::new(Hops::default());
        let (one, other) = (hops.arrived(end(1)), hops.arrived(end(2)));
        let _kept = [hops.keep(end(2), one), hops.keep(end(1), other)];
        let _own = hops.keep(end(3), hops.arrived(end(3)));
        for port in 1..=3 {
            assert_eq!(hops.check(hops.arrived(end(port))), Ok(()));
        }
    }

    #[test]
    fn an_end_that_is_closed_is_anybodys() {
        let hops = Arc::new(Hops::default());
        drop(hops.keep(end(7), hops.arrived(end(6))));
        assert!(hops.ends.lock().is_empty());
        assert_eq!(hops.count.load(Ordering::Relaxed), 0);
    }
}
