//! The tunnels of this thread that peers have dialled, so that they can be looked at again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio_util::sync::CancellationToken;

use super::inbound::Caller;
use crate::mesh::SpiffeId;
use crate::tunnel::{Chain, Exit, Server, Verdict};

/// The tunnels that peers of this thread's pods have dialled.
#[derive(Debug, Clone, Default)]
pub(super) struct Accepted(Rc<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: Cell<u64>,
    tunnels: RefCell<HashMap<u64, Tunnel>>,
}

#[derive(Debug)]
struct Tunnel {
    /// Whom the peer dialled.
    local: SpiffeId,
    peer: Rc<Chain>,
    /// None of one that has ended.
    exit: Option<Exit>,
    caller: Rc<Caller>,
    drain: CancellationToken,
    abort: CancellationToken,
}

/// A tunnel that may be taken elsewhere.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Who dialled it.
    pub(super) caller: Rc<Caller>,
    /// What that has shown.
    pub(super) peer: Rc<Chain>,
    /// The way out.
    pub(super) exit: Exit,
}

/// Keeps a tunnel among those that are looked at.
#[derive(Debug)]
pub(super) struct Watched {
    number: u64,
    all: Accepted,
}

impl Accepted {
    /// Watches a tunnel with the identity `local` at this end, which `drain` and `abort` end.
    pub(super) fn watch(
        &self,
        local: SpiffeId,
        server: &Server,
        caller: &Rc<Caller>,
        (drain, abort): (CancellationToken, CancellationToken),
    ) -> Watched {
        let (peer, exit, caller) = (server.peer().clone(), server.exit(), caller.clone());
        let number = self.0.next.get();
        self.0.next.set(number + 1);
        let tunnel = Tunnel { local, peer, exit, caller, drain, abort };
        self.0.tunnels.borrow_mut().insert(number, tunnel);
        Watched { number, all: self.clone() }
    }

    /// Those that may be taken elsewhere.
    pub(super) fn leaving(&self) -> Vec<Leaving> {
        let tunnels = self.0.tunnels.borrow();
        let leaving = |tunnel: &Tunnel| {
            let exit = tunnel.exit.clone().filter(|_| !tunnel.abort.is_cancelled())?;
            Some(Leaving { caller: tunnel.caller.clone(), peer: tunnel.peer.clone(), exit })
        };
        tunnels.values().filter_map(leaving).collect()
    }

    /// Looks at every tunnel: `judge` is asked with whose identity it was taken, and what its peer has shown.
    pub(super) fn review(&self, judge: impl Fn(&SpiffeId, &Chain) -> Verdict) {
        let tunnels = self.0.tunnels.borrow();
        for tunnel in tunnels.values().filter(|tunnel| !tunnel.abort.is_cancelled()) {
            match judge(&tunnel.local, &tunnel.peer) {
                Verdict::Keep => {}
                Verdict::Drain => tunnel.drain.cancel(),
                Verdict::Cut => tunnel.abort.cancel(),
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.all.0.tunnels.borrow_mut().remove(&self.number);
    }
}
