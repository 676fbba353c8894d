//! The outbound half: where a captured connection of a local pod goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;

use crate::mesh::service::{BalancingMode, Families};
use crate::mesh::workload::TunnelProtocol;
use crate::mesh::{LocalPod, Mesh, Network, Service, Workload};

use super::across::{self, Far};
use super::balance::{self, Client};
use super::peer::{address_for, expected};
use super::proxy;
use super::waypoint::{self, Instance};
use super::{
    DirectRoute, HBONE_PORT, Proxied, Route, RouteError, TunnelRoute, Unresolved, is_illegal_port,
};

/// Where a connection of `source` to `destination` goes.
///
/// `source_workload` is what the mesh says of the source; without it, locality preferences match
/// nothing and no waypoint is recognized as the source itself.
pub fn outbound(
    mesh: &Mesh,
    source: &LocalPod,
    source_workload: Option<&Workload>,
    network: &Network,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Route {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let client = Client { pod: source, workload: source_workload, network };
    let route = if source.owns(destination.ip()) {
        to_self(mesh, &client, destination)
    } else if let Some(service) = mesh.service_at(network, destination, &source.namespace) {
        to_service(mesh, &client, service, destination, rng)
    } else if let Some(workload) = mesh.workload_by_address(network, destination.ip()) {
        to_workload(mesh, &client, workload, destination, rng)
    } else {
        unknown(mesh, &client, destination, None)
    };
    route.unwrap_or_else(Route::Refuse)
}

/// Where a connection of `source` goes, once the hostname of its destination is resolved. An address is asked for at its
/// word: it is no other workload's, whoever has it in the mesh.
pub fn resolved(source: &LocalPod, to: &Unresolved, addresses: &[IpAddr]) -> Route {
    let usable = |ip: &&IpAddr| {
        let has_family = if ip.is_ipv4() { source.ip4.is_some() } else { source.ip6.is_some() };
        has_family && !ip.is_unspecified() && !ip.is_loopback()
    };
    let liked = |ip: &&IpAddr| ip.is_ipv4() == to.like.is_ipv4();
    let first = addresses.iter().filter(usable).find(liked);
    let Some(ip) = first.or_else(|| addresses.iter().find(usable)) else {
        return Route::Refuse(to.failure());
    };
    let target = SocketAddr::new(*ip, to.port);
    if let Some(proxied) = &to.proxy {
        return proxy::tunnel(&to.workload, to.service.as_ref(), target, Proxied::clone(proxied));
    }
    let route = finish(source, &to.workload, to.service.as_ref(), target);
    route.unwrap_or_else(Route::Refuse)
}

/// A pod that reaches for its own address never leaves its network namespace.
fn to_self(mesh: &Mesh, client: &Client<'_>, destination: SocketAddr) -> Result<Route, RouteError> {
    if is_illegal_port(destination.port()) {
        return Err(RouteError::IllegalPort(destination));
    }
    let workload = mesh.workload_of(client.pod).cloned();
    Ok(Route::Direct(DirectRoute { target: destination, workload, service: None }))
}

fn to_service(
    mesh: &Mesh,
    client: &Client<'_>,
    service: &Arc<Service>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Route, RouteError> {
    if let Some(waypoint) = waypoint::of_service(service, rng)
        && !waypoint::is_client_of(mesh, service, client)
    {
        let gateway = waypoint::resolve(mesh, waypoint, client, destination, rng)?;
        if let Some(behind) = gateway.service.filter(|_| is_far(client, gateway.workload)) {
            let far = Far { workload: gateway.workload, service: behind };
            return across::route(mesh, client, &far, (service, destination), rng);
        }
        return through(client, &gateway, Some(service), destination);
    }
    if service.load_balancing.mode == BalancingMode::Passthrough {
        return passthrough(mesh, client, service, destination);
    }
    let endpoint = balance::choose(mesh, client, service, destination, rng)?;
    if is_far(client, endpoint.workload) {
        let far = Far { workload: endpoint.workload, service };
        return across::route(mesh, client, &far, (service, destination), rng);
    }
    if is_unresolved(endpoint.workload, client) {
        return Ok(Route::Resolve(Unresolved {
            workload: endpoint.workload.clone(),
            service: Some(service.clone()),
            port: endpoint.port,
            like: destination.ip(),
            proxy: None,
        }));
    }
    let families = service.families;
    let ip = address_for(endpoint.workload, destination.ip(), |ip| families.include(ip))?;
    finish(client.pod, endpoint.workload, Some(service), SocketAddr::new(ip, endpoint.port))
}

/// The client has chosen the address: it is kept, whoever owns it.
fn passthrough(
    mesh: &Mesh,
    client: &Client<'_>,
    service: &Arc<Service>,
    destination: SocketAddr,
) -> Result<Route, RouteError> {
    match mesh.workload_by_address(client.network, destination.ip()) {
        Some(workload) => finish(client.pod, workload, Some(service), destination),
        None => unknown(mesh, client, destination, Some(service)),
    }
}

/// What no workload is known for is not of the mesh, unless something was told of it that cannot be read.
fn unknown(
    mesh: &Mesh,
    client: &Client<'_>,
    destination: SocketAddr,
    service: Option<&Arc<Service>>,
) -> Result<Route, RouteError> {
    match mesh.unreadable_at(client.network, destination.ip()) {
        Some(name) => Err(RouteError::Unreadable { destination, name: name.clone() }),
        None => Ok(Route::Direct(DirectRoute {
            target: destination,
            workload: None,
            service: service.cloned(),
        })),
    }
}

fn to_workload(
    mesh: &Mesh,
    client: &Client<'_>,
    workload: &Arc<Workload>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Route, RouteError> {
    if let Some(waypoint) = &workload.waypoint
        && !waypoint::is_client(mesh, waypoint, client)
    {
        let gateway = waypoint::resolve(mesh, waypoint, client, destination, rng)?;
        return through(client, &gateway, None, destination);
    }
    finish(client.pod, workload, None, destination)
}

/// A tunnel to a waypoint, which gets the destination as the app named it.
fn through(
    client: &Client<'_>,
    gateway: &Instance<'_>,
    service: Option<&Arc<Service>>,
    destination: SocketAddr,
) -> Result<Route, RouteError> {
    if is_illegal_port(destination.port()) {
        return Err(RouteError::IllegalPort(destination));
    }
    let Instance { workload, service: behind, port } = *gateway;
    if is_far(client, workload) {
        let (workload, network) = (workload.uid.clone(), workload.network.clone());
        return Err(RouteError::OtherNetwork { workload, network });
    }
    let families = behind.map_or(Families::Any, |service| service.families);
    let proxied = Proxied {
        expected: expected(workload, behind.map(Arc::as_ref)),
        authority: destination.to_string(),
        target: destination,
        across: None,
    };
    proxy::route((workload, port), service, proxied, |ip| families.include(ip))
}

fn is_far(client: &Client<'_>, workload: &Workload) -> bool {
    workload.network != *client.network
}

/// The last step to a workload: a tunnel where it takes one, else a plain connection.
fn finish(
    source: &LocalPod,
    workload: &Arc<Workload>,
    service: Option<&Arc<Service>>,
    target: SocketAddr,
) -> Result<Route, RouteError> {
    let direct = || {
        Route::Direct(DirectRoute {
            target,
            workload: Some(workload.clone()),
            service: service.cloned(),
        })
    };
    // Sharing the node's address, it has no listener of its own for tunnels.
    let tunnelled = workload.protocol == TunnelProtocol::Hbone && !workload.host_network;
    let own = source.owns(target.ip());
    if (tunnelled || own) && is_illegal_port(target.port()) {
        return Err(RouteError::IllegalPort(target));
    }
    if own {
        return Ok(direct());
    }
    if workload.protocol == TunnelProtocol::Unknown {
        return Err(RouteError::UnknownTunnel(workload.uid.clone()));
    }
    if !tunnelled {
        return Ok(direct());
    }
    Ok(Route::Tunnel(TunnelRoute {
        workload: workload.clone(),
        service: service.cloned(),
        gateway: SocketAddr::new(target.ip(), HBONE_PORT),
        authority: target.to_string(),
        expected: expected(workload, service.map(Arc::as_ref)),
        target,
        across: None,
    }))
}

/// Whether a workload has a hostname instead of an address, where that can be resolved.
fn is_unresolved(workload: &Workload, client: &Client<'_>) -> bool {
    workload.addresses.is_empty()
        && !workload.hostname.is_empty()
        && workload.network == *client.network
}
