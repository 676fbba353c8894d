//! Which ports of services' addresses nobody serves, kept with each batch of changes.
//!
//! Only what is so for every client counts: a waypoint may answer for a service without endpoints, and a client may be
//! too far from those that there are.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::address::{Network, NetworkAddress};
use super::backed::Backed;
use super::hashes::Seeds;
use super::service::{BalancingMode, Service, ServiceKey, Visibility};
use super::snapshot::Mesh;
use super::workload::Workload;

/// The services that a batch may have opened or closed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    keys: HashSet<ServiceKey, Seeds>,
    /// The last workload's.
    last: Backed,
    /// As they were before: others may have their addresses.
    earlier: Vec<Arc<Service>>,
}

impl Touched {
    /// A workload comes, changes or goes.
    pub(super) fn by_workload(&mut self, workload: &Workload) {
        // Most endpoints of a batch are of the same services.
        if self.last.is_same(&workload.services) {
            return;
        }
        self.last = workload.services.clone();
        let new = workload.services.keys().filter(|key| !self.keys.contains(*key));
        let new: Vec<_> = new.cloned().collect();
        self.keys.extend(new);
    }

    /// A service comes, changes or goes.
    pub(super) fn by_service(&mut self, key: &ServiceKey, earlier: Option<Arc<Service>>) {
        self.earlier.extend(earlier);
        self.keys.insert(key.clone());
    }

    /// Brings the closed ports up to date.
    pub(super) fn settle(self, mesh: &mut Mesh) {
        let now: Vec<_> = self.keys.iter().filter_map(|key| mesh.service(key).cloned()).collect();
        for service in self.earlier.iter().chain(&now) {
            for at in &service.vips {
                for port in &service.ports {
                    let destination = SocketAddr::new(at.address, port.service_port);
                    let closed = is_closed(mesh, &at.network, destination);
                    let key = (at.network.clone(), destination);
                    if closed {
                        mesh.closed_ports_mut().insert(key, ());
                    } else {
                        mesh.closed_ports_mut().remove(&key);
                    }
                }
            }
        }
    }
}

/// Whether every client means a service by the address that has the port, and nobody serves any of those.
///
/// Ranges do not count: which of the services of an address within is meant is another question.
fn is_closed(mesh: &Mesh, network: &Network, destination: SocketAddr) -> bool {
    let at = NetworkAddress::new(network.clone(), destination.ip());
    let mut is_there_for_all = false;
    for service in mesh.services_with(&at) {
        if !service.has_port(destination.port()) {
            continue;
        }
        if is_served(mesh, service, destination.port()) {
            return false;
        }
        is_there_for_all |= service.visibility == Visibility::Public;
    }
    is_there_for_all
}

fn is_served(mesh: &Mesh, service: &Service, port: u16) -> bool {
    let balancing = &service.load_balancing;
    let serves = |(workload, own): (&Arc<Workload>, &[_])| {
        workload.may_serve(balancing) && service.target_port(own, port).is_some()
    };
    service.waypoint.is_some()
        || balancing.mode == BalancingMode::Passthrough
        || mesh.endpoints(&service.key).any(serves)
}
