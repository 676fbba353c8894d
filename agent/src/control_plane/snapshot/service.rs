//! Services.

use std::net::IpAddr;

use prost::Message;
use sotto_proto::workload::{
    Address, Extension, IpFamilies, LoadBalancing, NetworkAddress, Port, Service as Wire, address,
    load_balancing::{HealthPolicy, Mode, Scope},
};

use super::endpoints::Endpoints;
use super::{Entry, Settings, version};
use crate::control_plane::model::{Distribution, Families, Service, ServicePort, TargetPort};
use crate::mesh::service::STICKY_EXTENSION;

/// A service's resource, with the virtual addresses that are its own.
pub(super) fn entry(
    settings: &Settings,
    service: &Service,
    addresses: &[IpAddr],
    endpoints: &Endpoints,
) -> Entry {
    let service = wire(settings, service, addresses, endpoints);
    let message = Address { r#type: Some(address::Type::Service(service)) };
    let body = message.encode_to_vec();
    Entry { version: version(&[&body]), body: body.into() }
}

fn wire(
    settings: &Settings,
    service: &Service,
    addresses: &[IpAddr],
    endpoints: &Endpoints,
) -> Wire {
    let families = match service.families {
        Families::Automatic => IpFamilies::Automatic,
        Families::Ip4 => IpFamilies::Ipv4Only,
        Families::Ip6 => IpFamilies::Ipv6Only,
        Families::Dual => IpFamilies::Dual,
    };
    Wire {
        name: service.key.name.to_string(),
        namespace: service.key.namespace.to_string(),
        hostname: settings.hostname(&service.key),
        addresses: addresses.iter().map(|ip| network_address(*ip)).collect(),
        ports: service.ports.iter().map(|one| port(one, endpoints.by_slices)).collect(),
        load_balancing: load_balancing(service, endpoints.exact),
        ip_families: families.into(),
        extensions: extensions(service),
        canonical: true,
        ..Wire::default()
    }
}

/// The port; a target is 0 where each endpoint tells its own.
fn port(port: &ServicePort, by_slices: bool) -> Port {
    let target_port = match &port.target {
        TargetPort::Number(number) if !by_slices => u32::from(*number),
        TargetPort::Number(_) | TargetPort::Name(_) => 0,
    };
    Port { service_port: u32::from(port.port), target_port, ..Port::default() }
}

/// To keep to the node outweighs to prefer it, as Kubernetes has it.
fn load_balancing(service: &Service, exact: bool) -> Option<LoadBalancing> {
    let (mode, preferences): (Mode, &[Scope]) = match service.distribution {
        _ if service.node_local => (Mode::Strict, &[Scope::Node]),
        Distribution::Any => (Mode::UnspecifiedMode, &[]),
        Distribution::SameZone => (Mode::Failover, &NEAR[..3]),
        Distribution::SameNode => (Mode::Failover, &NEAR),
    };
    if preferences.is_empty() && !exact {
        return None;
    }
    let mut balancing = LoadBalancing {
        routing_preference: preferences.iter().map(|scope| (*scope).into()).collect(),
        ..LoadBalancing::default()
    };
    balancing.set_mode(mode);
    if exact {
        balancing.set_health_policy(HealthPolicy::AllowAll);
    }
    Some(balancing)
}

/// What else a service asks for, for which the wire has no field. Agents that do not know it leave it.
fn extensions(service: &Service) -> Vec<Extension> {
    let sticky = || Extension { name: STICKY_EXTENSION.to_owned(), config: None };
    service.sticky.then(sticky).into_iter().collect()
}

/// How near an endpoint is, the widest first: what Istio tells of `PreferSameNode`; of `PreferSameZone`, the first three.
const NEAR: [Scope; 5] = [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];

fn network_address(ip: IpAddr) -> NetworkAddress {
    NetworkAddress { network: String::new(), address: octets(ip), length: None }
}

/// 4 or 16 bytes.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
