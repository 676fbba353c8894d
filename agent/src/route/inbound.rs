//! The inbound half: what a peer asked for, as an address of the local pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arcstr::ArcStr;

use crate::mesh::service::{Waypoint, WaypointDestination};
use crate::mesh::{LocalPod, Mesh, Network, Service, ServiceKey, Workload};

use super::authority::Authority;
use super::is_illegal_port;

/// Where an accepted tunnel ends.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundTarget {
    /// What policies judge: the pod's address and the port that was asked for.
    pub destination: SocketAddr,
    /// What to dial; differs only for an app that takes tunnelled bytes at a port of its own.
    pub target: SocketAddr,
    /// What the app wants to be told in front of the bytes.
    pub told: Option<Told>,
    /// The local workload, if the mesh knows it.
    pub workload: Option<Arc<Workload>>,
    /// The service the peer asked for by name.
    pub service: Option<Arc<Service>>,
}

/// What an app is told that takes tunnelled bytes: it stands for others than itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What the client asked for: of a service that it named, the service's address, or the pod's if that has none.
    pub destination: SocketAddr,
    /// The hostname of the service that is there.
    pub service: Option<ArcStr>,
}

/// Why a tunnel is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// The peer asked for an address other than the one it connected to.
    #[error("ip mismatch: {asked} != {connected}")]
    IpMismatch {
        /// In the authority.
        asked: IpAddr,
        /// Of the TCP connection.
        connected: IpAddr,
    },
    /// No service with that name is backed by this pod.
    #[error("{hostname} is not a service of this pod")]
    UnknownService {
        /// In the authority.
        hostname: String,
    },
    /// The service has no such port.
    #[error("{service} has no port {port} on this pod")]
    UnknownPort {
        /// Asked for.
        service: ServiceKey,
        /// Asked for.
        port: u16,
    },
    /// The tunnel would end at the node's own ports.
    #[error("port {0} is the mesh's own")]
    IllegalPort(u16),
}

impl InboundError {
    /// The HTTP status that answers the CONNECT.
    pub fn status(&self) -> u16 {
        match self {
            Self::IpMismatch { .. } => 400,
            Self::UnknownService { .. } | Self::UnknownPort { .. } | Self::IllegalPort(_) => 503,
        }
    }
}

/// Where a CONNECT that reached `tcp_destination` in `pod` ends.
///
/// # Errors
/// The authority is not this pod's to serve, or leads to a port that cannot be.
pub fn inbound(
    mesh: &Mesh,
    network: &Network,
    pod: &LocalPod,
    authority: &Authority,
    tcp_destination: SocketAddr,
) -> Result<InboundTarget, InboundError> {
    let local = tcp_destination.ip().to_canonical();
    let workload = mesh.workload_of(pod).cloned();
    let (port, service) = match authority {
        Authority::Ip(asked) => {
            let asked = SocketAddr::new(asked.ip().to_canonical(), asked.port());
            let served = asked.ip() == local
                || workload.as_deref().is_some_and(|own| serves(mesh, network, own, asked));
            if !served {
                return Err(InboundError::IpMismatch { asked: asked.ip(), connected: local });
            }
            (asked.port(), None)
        }
        Authority::Host { hostname, port } => {
            let (port, service) = resolve(mesh, workload.as_deref(), hostname, *port)?;
            (port, Some(service))
        }
    };
    if is_illegal_port(port) {
        return Err(InboundError::IllegalPort(port));
    }
    let tunnel = workload.as_ref().and_then(|workload| workload.application_tunnel);
    let target_port = tunnel.and_then(|tunnel| tunnel.port).unwrap_or(port);
    if is_illegal_port(target_port) {
        return Err(InboundError::IllegalPort(target_port));
    }
    Ok(InboundTarget {
        destination: SocketAddr::new(local, port),
        target: SocketAddr::new(local, target_port),
        told: tunnel
            .filter(|tunnel| tunnel.proxy_protocol)
            .map(|_| told(mesh, network, authority, (service.as_deref(), local))),
        workload,
        service,
    })
}

fn told(
    mesh: &Mesh,
    network: &Network,
    authority: &Authority,
    (service, local): (Option<&Service>, IpAddr),
) -> Told {
    let asked = match authority {
        Authority::Ip(asked) => SocketAddr::new(asked.ip().to_canonical(), asked.port()),
        Authority::Host { port, .. } => {
            let vips = service.iter().flat_map(|service| &service.vips);
            let near = vips.filter(|vip| vip.network == *network).map(|vip| vip.address);
            // Of both families, as a client that does not say which it wants: IPv4.
            let vip = near.min_by_key(IpAddr::is_ipv6);
            SocketAddr::new(vip.unwrap_or(local), *port)
        }
    };
    let there = service.or_else(|| mesh.service_by_vip(network, asked.ip()).map(Arc::as_ref));
    Told { destination: asked, service: there.map(|service| service.key.hostname.clone()) }
}

/// The service that a client most likely asked for: the one it names, if it is one of the workload's; else one with a port
/// that leads to the port where it arrived, rather one with an address of its own than a headless one. For telemetry: it
/// decides nothing.
pub fn likely_service(
    mesh: &Mesh,
    workload: &Workload,
    (named, port): (Option<&str>, u16),
) -> Option<Arc<Service>> {
    let of_workload = || mesh.services_of(workload);
    let is_named = |service: &&Arc<Service>| named == Some(&*service.key.hostname);
    let leads_there = |service: &&Arc<Service>| {
        let own = workload.services.get(&service.key).unwrap_or_default();
        let mut ports = service.ports.iter().chain(own);
        ports.any(|one| service.target_port(own, one.service_port) == Some(port))
    };
    let found = of_workload().find(is_named).or_else(|| {
        let fitting = of_workload().filter(leads_there);
        fitting.min_by_key(|service| (service.vips.is_empty(), &service.key))
    });
    found.cloned()
}

/// Whether the local workload takes traffic for another address: it is the waypoint in front of
/// it and has a port of its own for what the tunnel brings.
fn serves(mesh: &Mesh, network: &Network, own: &Workload, asked: SocketAddr) -> bool {
    if own.application_tunnel.is_none() {
        return false;
    }
    let service = mesh.service_by_vip(network, asked.ip());
    let is_own = |waypoint: &Waypoint| match &waypoint.destination {
        WaypointDestination::Service(key) => own.services.contains_key(key),
        WaypointDestination::Address(at) => {
            (own.network == at.network && own.addresses.contains(&at.address))
                || mesh
                    .service_by_vip(&at.network, at.address)
                    .is_some_and(|service| own.services.contains_key(&service.key))
        }
    };
    match service {
        Some(service) => service.waypoints().any(is_own),
        None => mesh
            .workload_by_address(network, asked.ip())
            .is_some_and(|workload| workload.waypoint.as_deref().is_some_and(is_own)),
    }
}

/// The local port behind a port of a service that the local workload backs.
fn resolve(
    mesh: &Mesh,
    workload: Option<&Workload>,
    hostname: &str,
    port: u16,
) -> Result<(u16, Arc<Service>), InboundError> {
    let unknown = || InboundError::UnknownService { hostname: hostname.to_owned() };
    let workload = workload.ok_or_else(unknown)?;
    // Several namespaces may define a hostname: the pod's own counts first.
    let service = mesh
        .services_by_hostname(hostname)
        .filter(|service| workload.services.contains_key(&service.key))
        .min_by_key(|service| {
            (service.key.namespace != workload.namespace, !service.canonical, &service.key)
        })
        .ok_or_else(unknown)?;
    let own = workload.services.get(&service.key).unwrap_or_default();
    match service.target_port(own, port) {
        Some(target) => Ok((target, service.clone())),
        None => Err(InboundError::UnknownPort { service: service.key.clone(), port }),
    }
}
