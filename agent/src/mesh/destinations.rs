//! The addresses that are ours to carry, and the ports among them where nobody is: what the kernel needs to leave
//! everything else alone, and to refuse what would only be reset.

use std::net::{IpAddr, SocketAddr};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;

use super::address::Network;
use super::snapshot::Mesh;

/// How the set of destinations of one network changed between two snapshots.
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
    /// What changed from `old` to `new` for `network`; the cost is that of the difference.
    pub fn between(old: &Mesh, new: &Mesh, network: &Network) -> Self {
        let mut delta = Self::default();
        for change in old.destinations().0.diff(&new.destinations().0) {
            match change {
                DiffItem::Add((of, range), _) if of == network => delta.add(*range),
                DiffItem::Remove((of, range), _) if of == network => delta.remove(*range),
                DiffItem::Add(..) | DiffItem::Remove(..) | DiffItem::Update { .. } => {}
            }
        }
        for change in old.closed_ports().diff(new.closed_ports()) {
            match change {
                DiffItem::Add((of, port), ()) if of == network => delta.closed.push(*port),
                DiffItem::Remove((of, port), ()) if of == network => delta.opened.push(*port),
                DiffItem::Add(..) | DiffItem::Remove(..) | DiffItem::Update { .. } => {}
            }
        }
        delta
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

/// Ports of services' addresses behind which nobody is, by network.
pub(super) type ClosedPorts = OrdMap<(Network, SocketAddr), ()>;

/// Destinations by network, counted: several resources may share one.
#[derive(Debug, Clone, Default)]
pub(super) struct Destinations(OrdMap<(Network, IpNet), u32>);

impl Destinations {
    /// Counts a destination up.
    pub(super) fn insert(&mut self, network: &Network, range: IpNet) {
        *self.0.entry((network.clone(), range.trunc())).or_insert(0) += 1;
    }

    /// Counts a destination down.
    pub(super) fn remove(&mut self, network: &Network, range: IpNet) {
        let at = (network.clone(), range.trunc());
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
