//! Finding the proxy in front of a destination.

use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;
use rand::seq::IndexedRandom as _;

use crate::mesh::service::{Waypoint, WaypointDestination};
use crate::mesh::{Mesh, NetworkAddress, Service, Workload};

use super::RouteError;
use super::balance::{self, Client, Endpoint};

/// An instance of a waypoint or of a network's gateway.
pub(super) struct Instance<'a> {
    /// The instance.
    pub(super) workload: &'a Arc<Workload>,
    /// The service it stands behind.
    pub(super) service: Option<&'a Arc<Service>>,
    /// The port where it takes tunnels.
    pub(super) port: u16,
}

/// The waypoint of one more connection to a service: by chance, where several share them (Istio's canaries).
pub(super) fn of_service<'a>(service: &'a Service, rng: &mut impl Rng) -> Option<&'a Waypoint> {
    let shares = &service.weighted_waypoints;
    let chosen = shares.choose_weighted(rng, |(_, weight)| u64::from(*weight));
    // None has a weight: as if nothing was said of them.
    chosen.ok().map(|(waypoint, _)| waypoint).or(service.waypoint.as_ref())
}

/// Whether the client is an instance of a waypoint of the service.
pub(super) fn is_client_of(mesh: &Mesh, service: &Service, client: &Client<'_>) -> bool {
    service.waypoints().any(|waypoint| is_client(mesh, waypoint, client))
}

/// Whether the client is an instance of the waypoint: then it is the one that goes on.
pub(super) fn is_client(mesh: &Mesh, waypoint: &Waypoint, client: &Client<'_>) -> bool {
    let Some(own) = client.workload else { return false };
    match find(mesh, waypoint) {
        Found::Service(service) => own.services.contains_key(&service.key),
        Found::Workload(workload) => workload.uid == own.uid,
        Found::Nothing => false,
    }
}

/// An instance to connect to. A waypoint that cannot be used is an error, never a detour around it.
pub(super) fn resolve<'a>(
    mesh: &'a Mesh,
    waypoint: &Waypoint,
    client: &Client<'_>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Instance<'a>, RouteError> {
    instance(mesh, waypoint, client, rng).ok_or(RouteError::NoWaypoint(destination))
}

/// An instance of a waypoint or of a gateway, if any can be used.
pub(super) fn instance<'a>(
    mesh: &'a Mesh,
    waypoint: &Waypoint,
    client: &Client<'_>,
    rng: &mut impl Rng,
) -> Option<Instance<'a>> {
    match find(mesh, waypoint) {
        Found::Nothing => None,
        Found::Workload(workload) => {
            Some(Instance { workload, service: None, port: waypoint.hbone_port })
        }
        Found::Service(service) => {
            let endpoints = mesh.endpoints(&service.key).map(|(workload, own)| {
                let port = service.target_port(own, waypoint.hbone_port);
                Endpoint { workload, port: port.unwrap_or(waypoint.hbone_port) }
            });
            let chosen = balance::pick(client, &service.load_balancing, endpoints, rng)?;
            let Endpoint { workload, port } = chosen;
            Some(Instance { workload, service: Some(service), port })
        }
    }
}

enum Found<'a> {
    Service(&'a Arc<Service>),
    Workload(&'a Arc<Workload>),
    Nothing,
}

fn find<'a>(mesh: &'a Mesh, waypoint: &Waypoint) -> Found<'a> {
    match &waypoint.destination {
        WaypointDestination::Service(key) => match mesh.service(key) {
            Some(service) => Found::Service(service),
            // A name that is no service's may be that of a workload without an address.
            None => mesh.workload_by_hostname(key).map_or(Found::Nothing, Found::Workload),
        },
        WaypointDestination::Address(NetworkAddress { network, address }) => {
            if let Some(service) = mesh.service_by_vip(network, *address) {
                return Found::Service(service);
            }
            mesh.workload_by_address(network, *address).map_or(Found::Nothing, Found::Workload)
        }
    }
}
