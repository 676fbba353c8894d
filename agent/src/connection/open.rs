//! The connections open on a thread, for the admin page and the thread's clock. Each thread keeps its own, so no
//! lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use super::record::Live;
use crate::mesh::{PodUid, SpiffeId};
use crate::tunnel::Progress;

/// Which way a connection goes, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To it.
    Inbound,
    /// From it.
    Outbound,
}

/// One open connection.
#[derive(Debug, Clone)]
pub struct OpenConnection {
    /// The pod of this node.
    pub pod: PodUid,
    /// Which way.
    pub direction: Direction,
    /// The client's address.
    pub source: SocketAddr,
    /// What the client asked for.
    pub original_destination: SocketAddr,
    /// Where it went.
    pub actual_destination: SocketAddr,
    /// Whether it is in a tunnel.
    pub tunnelled: bool,
    /// Who the client is, where that is certified.
    pub client: Option<SpiffeId>,
    /// Who the server is, where that is certified.
    pub server: Option<SpiffeId>,
    /// What the client has sent so far.
    pub from_client_bytes: u64,
    /// What the server has sent so far.
    pub from_server_bytes: u64,
}

/// The connections open on this thread.
#[derive(Clone, Default)]
pub(super) struct OpenConnections(Rc<RefCell<Entries>>);

#[derive(Default)]
struct Entries {
    next: u64,
    open: HashMap<u64, Rc<Live>>,
    /// Whose relays have let go of them, for another process.
    moved: Vec<Rc<Live>>,
}

/// Keeps a connection listed.
pub(super) struct Listed {
    number: u64,
    list: OpenConnections,
}

impl OpenConnections {
    /// Lists a connection until the returned value is dropped.
    pub(super) fn list(&self, live: Rc<Live>) -> Listed {
        let mut entries = self.0.borrow_mut();
        let number = entries.next;
        entries.next += 1;
        entries.open.insert(number, live);
        Listed { number, list: self.clone() }
    }

    /// The one that counts there, also if its relay has just let go of it.
    pub(super) fn of(&self, progress: &Rc<Progress>) -> Option<Rc<Live>> {
        let is_it = |live: &&Rc<Live>| Rc::ptr_eq(live.progress(), progress);
        let mut entries = self.0.borrow_mut();
        if let Some(at) = entries.moved.iter().position(|live| is_it(&live)) {
            return Some(entries.moved.swap_remove(at));
        }
        entries.open.values().find(is_it).cloned()
    }

    /// Those without a tunnel.
    pub(super) fn plain(&self) -> Vec<Rc<Live>> {
        let entries = self.0.borrow();
        entries.open.values().filter(|live| live.brake().is_some()).cloned().collect()
    }

    /// All of them.
    pub(super) fn snapshot(&self) -> Vec<OpenConnection> {
        self.0.borrow().open.values().filter_map(|live| live.listed()).collect()
    }

    /// Tells the totals so far of all of them.
    pub(super) fn tell(&self) {
        self.0.borrow().open.values().for_each(|live| live.tell());
    }
}

impl Listed {
    /// Keeps it for who takes it elsewhere, unless that has been there before us.
    pub(super) fn leave(self) {
        let mut entries = self.list.0.borrow_mut();
        let live = entries.open.remove(&self.number).filter(|live| live.listed().is_some());
        entries.moved.extend(live);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let removed = self.list.0.borrow_mut().open.remove(&self.number);
        // Its end may be told by this: after the list is let go.
        drop(removed);
    }
}
