//! Services, and the ports and gateways that workloads have too.

use ipnet::IpNet;
use sotto_proto::workload::{self as proto, gateway_address, load_balancing};

use crate::mesh::service::{
    BalancingMode, Families, LoadBalancing, Port, STICKY_EXTENSION, Scope, Visibility, Waypoint,
    WaypointDestination,
};
use crate::mesh::{Network, NetworkAddress, Service, ServiceKey};
use crate::route::HBONE_PORT;

use super::{DecodeError, ip, named, optional_port, port};

pub(super) fn service(from: proto::Service) -> Result<Service, DecodeError> {
    let mut vips = Vec::new();
    let mut cidr_vips = Vec::new();
    for address in from.addresses {
        match virtual_address(address)? {
            VirtualAddress::One(address) => vips.push(address),
            VirtualAddress::Range(network, range) => cidr_vips.push((network, range)),
        }
    }
    let weighted_waypoints = weighted(from.weighted_waypoints)?;
    let sticky = from.extensions.iter().any(|extension| extension.name == STICKY_EXTENSION);
    let balancing = from.load_balancing.map(load_balancing).unwrap_or_default();
    let primary = from.waypoint.map(waypoint).transpose()?;
    // Whatever is said of shares, a service that has them is not reached past them all.
    let heaviest = || Some(weighted_waypoints.iter().max_by_key(|(_, weight)| weight)?.0.clone());
    Ok(Service {
        name: from.name.into(),
        key: ServiceKey {
            namespace: named(from.namespace, "namespace")?,
            hostname: named(from.hostname, "hostname")?,
        },
        vips,
        cidr_vips,
        ports: ports(&from.ports)?,
        subject_alt_names: from.subject_alt_names.into_iter().map(Into::into).collect(),
        waypoint: primary.or_else(heaviest),
        weighted_waypoints,
        load_balancing: LoadBalancing { sticky, ..balancing },
        canonical: from.canonical,
        families: families(from.ip_families),
        visibility: visibility(from.visibility),
    })
}

/// The addresses that can be read.
pub(super) fn ranges(from: Vec<proto::NetworkAddress>) -> Vec<(Network, IpNet)> {
    let range = |address| match virtual_address(address).ok()? {
        VirtualAddress::One(at) => Some((at.network, at.address.into())),
        VirtualAddress::Range(network, range) => Some((network, range)),
    };
    from.into_iter().filter_map(range).collect()
}

/// What this version does not know of is any.
fn families(value: i32) -> Families {
    match proto::IpFamilies::try_from(value) {
        Ok(proto::IpFamilies::Ipv4Only) => Families::Ip4,
        Ok(proto::IpFamilies::Ipv6Only) => Families::Ip6,
        Ok(proto::IpFamilies::Dual) => Families::Dual,
        Ok(proto::IpFamilies::Automatic) | Err(_) => Families::Any,
    }
}

/// One that this version does not know of is everybody's: whom it is hidden from goes past its waypoint.
fn visibility(value: i32) -> Visibility {
    match proto::Visibility::try_from(value) {
        Ok(proto::Visibility::Namespace) => Visibility::Namespace,
        Ok(proto::Visibility::Public) | Err(_) => Visibility::Public,
    }
}

pub(super) fn ports(from: &[proto::Port]) -> Result<Vec<Port>, DecodeError> {
    let decode = |from: &proto::Port| {
        let target_port = optional_port(from.target_port)?;
        Ok(Port { service_port: port(from.service_port)?, target_port })
    };
    from.iter().map(decode).collect()
}

fn weighted(from: Vec<proto::WeightedWaypoint>) -> Result<Vec<(Waypoint, u32)>, DecodeError> {
    let share = |one: proto::WeightedWaypoint| {
        let destination = one.destination.ok_or(DecodeError::Missing("waypoint of a share"))?;
        Ok((waypoint(destination)?, one.weight))
    };
    from.into_iter().map(share).collect()
}

pub(super) fn waypoint(from: proto::GatewayAddress) -> Result<Waypoint, DecodeError> {
    let destination = from.destination.ok_or(DecodeError::Missing("gateway destination"))?;
    let destination = match destination {
        gateway_address::Destination::Hostname(host) => WaypointDestination::Service(ServiceKey {
            namespace: named(host.namespace, "gateway namespace")?,
            hostname: named(host.hostname, "gateway hostname")?,
        }),
        gateway_address::Destination::Address(at) => WaypointDestination::Address(
            NetworkAddress::new(at.network, ip(&at.address, "gateway address")?),
        ),
    };
    let hbone_port = optional_port(from.hbone_mtls_port)?.unwrap_or(HBONE_PORT);
    Ok(Waypoint { destination, hbone_port })
}

enum VirtualAddress {
    One(NetworkAddress),
    Range(Network, IpNet),
}

fn virtual_address(from: proto::NetworkAddress) -> Result<VirtualAddress, DecodeError> {
    const WHAT: &str = "virtual address";
    let address = ip(&from.address, WHAT)?;
    let full = if address.is_ipv4() { 32 } else { 128 };
    match from.length {
        None => Ok(VirtualAddress::One(NetworkAddress::new(from.network, address))),
        Some(length) if length == full => {
            Ok(VirtualAddress::One(NetworkAddress::new(from.network, address)))
        }
        Some(length) => {
            let length = u8::try_from(length).map_err(|_| DecodeError::Address(WHAT))?;
            let range = IpNet::new(address, length).map_err(|_| DecodeError::Address(WHAT))?;
            Ok(VirtualAddress::Range(from.network.into(), range.trunc()))
        }
    }
}

/// What this version does not know of it is as if it were not said: a service that is left out is reached past its waypoint.
fn load_balancing(from: proto::LoadBalancing) -> LoadBalancing {
    let mode = match load_balancing::Mode::try_from(from.mode) {
        Ok(load_balancing::Mode::UnspecifiedMode) | Err(_) => BalancingMode::Any,
        Ok(load_balancing::Mode::Strict) => BalancingMode::Strict,
        Ok(load_balancing::Mode::Failover) => BalancingMode::Failover,
        Ok(load_balancing::Mode::Passthrough) => BalancingMode::Passthrough,
    };
    let preferences = from.routing_preference.into_iter().filter_map(scope).collect();
    let allow_unhealthy = from.health_policy == i32::from(load_balancing::HealthPolicy::AllowAll);
    LoadBalancing { preferences, mode, allow_unhealthy, sticky: false }
}

fn scope(value: i32) -> Option<Scope> {
    match load_balancing::Scope::try_from(value) {
        Ok(load_balancing::Scope::Region) => Some(Scope::Region),
        Ok(load_balancing::Scope::Zone) => Some(Scope::Zone),
        Ok(load_balancing::Scope::Subzone) => Some(Scope::Subzone),
        Ok(load_balancing::Scope::Node) => Some(Scope::Node),
        Ok(load_balancing::Scope::Cluster) => Some(Scope::Cluster),
        Ok(load_balancing::Scope::Network) => Some(Scope::Network),
        Ok(load_balancing::Scope::UnspecifiedScope) | Err(_) => None,
    }
}
