//! Finding the proxy in front of a destination.

use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;

use crate::mesh::service::{Waypoint, WaypointDestination};
use crate::mesh::{Mesh, NetworkAddress, Service, Workload};

use super::RouteError;
use super::balance::{self, Client, Endpoint};
use super::outbound::address_of;

/// A waypoint's instance.
pub(super) struct Gateway {
    /// The instance.
    pub(super) workload: Arc<Workload>,
    /// The service it stands behind.
    pub(super) service: Option<Arc<Service>>,
    /// Where it takes tunnels.
    pub(super) address: SocketAddr,
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
pub(super) fn resolve(
    mesh: &Mesh,
    waypoint: &Waypoint,
    client: &Client<'_>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Gateway, RouteError> {
    let unusable = || RouteError::NoWaypoint(destination);
    let (workload, service, port) = match find(mesh, waypoint) {
        Found::Nothing => return Err(unusable()),
        Found::Workload(workload) => (workload, None, waypoint.hbone_port),
        Found::Service(service) => {
            let endpoints = mesh.endpoints(&service.key).map(|(workload, own)| {
                let port = service.target_port(own, waypoint.hbone_port);
                Endpoint { workload, port: port.unwrap_or(waypoint.hbone_port) }
            });
            let endpoint = balance::pick(client, &service.load_balancing, endpoints, rng)
                .ok_or_else(unusable)?;
            (endpoint.workload, Some(service.clone()), endpoint.port)
        }
    };
    let ip = address_of(workload, client, destination.ip())?;
    Ok(Gateway { workload: workload.clone(), service, address: SocketAddr::new(ip, port) })
}

enum Found<'a> {
    Service(&'a Arc<Service>),
    Workload(&'a Arc<Workload>),
    Nothing,
}

fn find<'a>(mesh: &'a Mesh, waypoint: &Waypoint) -> Found<'a> {
    match &waypoint.destination {
        WaypointDestination::Service(key) => {
            mesh.service(key).map_or(Found::Nothing, Found::Service)
        }
        WaypointDestination::Address(NetworkAddress { network, address }) => {
            if let Some(service) = mesh.service_by_vip(network, *address) {
                return Found::Service(service);
            }
            mesh.workload_by_address(network, *address).map_or(Found::Nothing, Found::Workload)
        }
    }
}
