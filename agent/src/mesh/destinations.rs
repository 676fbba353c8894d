//! The addresses that are ours to carry, and the ports among them where nobody is: what the kernel needs to leave
//! everything else alone, and to refuse what would only be reset.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;

use super::address::Network;
use super::snapshot::Mesh;

/// How the set of destinations changed between two snapshots, those of all networks together: what is an address of the
/// mesh on some network must not go past the agent because this node's own network is not known, or not yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationsDelta {
    /// Addresses that came.
    pub added: Vec<IpAddr>,
    /// Addresses that went.
    pub removed: Vec<IpAddr>,
    /// Ranges that came.
    pub added_cidrs: Vec<IpNet>,
    /// Ranges that went.
    pub removed_cidrs: Vec<IpNet>,
    /// Ports of services that nobody serves any more.
    pub closed: Vec<SocketAddr>,
    /// Ports of services that somebody serves again, or that are no service's any more.
    pub opened: Vec<SocketAddr>,
}

impl DestinationsDelta {
    /// What changed from `old` to `new`; the cost is that of the difference.
    pub fn between(old: &Mesh, new: &Mesh) -> Self {
        let mut delta = Self::default();
        for change in old.destinations().0.diff(&new.destinations().0) {
            match change {
                DiffItem::Add(range, _) => delta.add(*range),
                DiffItem::Remove(range, _) => delta.remove(*range),
                DiffItem::Update { .. } => {}
            }
        }
        delta.close(old, new);
        delta
    }

    /// Ports are closed on one network, which may just have been learned.
    fn close(&mut self, old: &Mesh, new: &Mesh) {
        let network = |mesh: &Mesh| mesh.home().ok().map(|home| home.network.clone());
        let (before, after) = (network(old), network(new));
        if before != after {
            let all = |mesh, network: Option<Network>| -> BTreeSet<SocketAddr> {
                network.iter().flat_map(|network| closed_on(mesh, network)).collect()
            };
            let (before, after) = (all(old, before), all(new, after));
            self.opened.extend(&before - &after);
            self.closed.extend(&after - &before);
            return;
        }
        for change in old.closed_ports().diff(new.closed_ports()) {
            match change {
                DiffItem::Add((of, port), ()) if after.as_ref() == Some(of) => {
                    self.closed.push(*port);
                }
                DiffItem::Remove((of, port), ()) if after.as_ref() == Some(of) => {
                    self.opened.push(*port);
                }
                DiffItem::Add(..) | DiffItem::Remove(..) | DiffItem::Update { .. } => {}
            }
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, range: IpNet) {
        if is_host(range) {
            self.added.push(range.addr());
        } else {
            self.added_cidrs.push(range);
        }
    }

    fn remove(&mut self, range: IpNet) {
        if is_host(range) {
            self.removed.push(range.addr());
        } else {
            self.removed_cidrs.push(range);
        }
    }
}

fn closed_on(mesh: &Mesh, network: &Network) -> Vec<SocketAddr> {
    let here = mesh.closed_ports().keys().filter(|(of, _)| of == network);
    here.map(|(_, port)| *port).collect()
}

/// Ports of services' addresses behind which nobody is, by network.
pub(super) type ClosedPorts = OrdMap<(Network, SocketAddr), ()>;

/// Destinations, counted: several resources may share one.
#[derive(Debug, Clone, Default)]
pub(super) struct Destinations(OrdMap<IpNet, u32>);

impl Destinations {
    /// Counts a destination up.
    pub(super) fn insert(&mut self, range: IpNet) {
        let at = range.trunc();
        match self.0.get_mut(&at) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(at, 1)),
        }
    }

    /// Counts a destination down.
    pub(super) fn remove(&mut self, range: IpNet) {
        let at = range.trunc();
        match self.0.get_mut(&at) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.0.remove(&at);
            }
        }
    }
}

fn is_host(range: IpNet) -> bool {
    range.prefix_len() == range.max_prefix_len()
}
