//! Services.

use std::net::IpAddr;

use prost::Message;
use sotto_proto::workload::{
    Address, IpFamilies, LoadBalancing, NetworkAddress, Port, Service as Wire, address,
    load_balancing::{HealthPolicy, Mode, Scope},
};

use super::{Entry, Settings, version};
use crate::control_plane::model::{Families, Service, ServicePort, TargetPort};

/// A service's resource name.
pub(super) fn name(settings: &Settings, service: &Service) -> String {
    settings.service_name(&service.key)
}

/// A service's resource.
pub(super) fn entry(settings: &Settings, service: &Service) -> Entry {
    let message = Address { r#type: Some(address::Type::Service(wire(settings, service))) };
    let body = message.encode_to_vec();
    Entry { version: version(&[&body]), body: body.into() }
}

fn wire(settings: &Settings, service: &Service) -> Wire {
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
        addresses: service.addresses.iter().map(|ip| network_address(*ip)).collect(),
        ports: service.ports.iter().map(port).collect(),
        load_balancing: load_balancing(service),
        ip_families: families.into(),
        canonical: true,
        ..Wire::default()
    }
}

/// The port; a named target is 0, because each endpoint tells its own.
fn port(port: &ServicePort) -> Port {
    let target_port = match &port.target {
        TargetPort::Number(number) => u32::from(*number),
        TargetPort::Name(_) => 0,
    };
    Port { service_port: u32::from(port.port), target_port, ..Port::default() }
}

fn load_balancing(service: &Service) -> Option<LoadBalancing> {
    if !service.publish_not_ready && !service.node_local {
        return None;
    }
    let mut balancing = LoadBalancing::default();
    if service.publish_not_ready {
        balancing.set_health_policy(HealthPolicy::AllowAll);
    }
    if service.node_local {
        balancing.set_mode(Mode::Strict);
        balancing.push_routing_preference(Scope::Node);
    }
    Some(balancing)
}

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
