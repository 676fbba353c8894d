//! The mesh's types as messages of the control plane: the other way round than [`decode`](super::decode), for what is
//! known to be written down. What is encoded decodes to the same.

use ipnet::IpNet;
use sotto_proto::security::{self as policy_proto, string_match::MatchType};
use sotto_proto::workload::{self as proto, application_tunnel, gateway_address, load_balancing};

use crate::mesh::policy::{Action, Match, PolicyScope, ServiceAccountMatch, StringMatch};
use crate::mesh::service::{
    BalancingMode, Families, Port, STICKY_EXTENSION, Scope, Visibility, Waypoint,
    WaypointDestination,
};
use crate::mesh::workload::{TunnelProtocol, WorkloadKind};
use crate::mesh::{Authorization, Network, NetworkAddress, PolicyKey, Service, Workload};

pub(super) fn workload(from: &Workload) -> proto::Workload {
    let tunnel = match from.protocol {
        TunnelProtocol::Tcp => proto::TunnelProtocol::None,
        TunnelProtocol::Hbone => proto::TunnelProtocol::Hbone,
        // Any that we cannot speak.
        TunnelProtocol::Unknown => proto::TunnelProtocol::LegacyIstioMtls,
    };
    let kind = match from.kind {
        WorkloadKind::Deployment => proto::WorkloadType::Deployment,
        WorkloadKind::CronJob => proto::WorkloadType::Cronjob,
        WorkloadKind::Pod => proto::WorkloadType::Pod,
        WorkloadKind::Job => proto::WorkloadType::Job,
    };
    let status = match from.healthy {
        true => proto::WorkloadStatus::Healthy,
        false => proto::WorkloadStatus::Unhealthy,
    };
    let mode = match from.host_network {
        true => proto::NetworkMode::HostNetwork,
        false => proto::NetworkMode::Standard,
    };
    let policies = from.authorization_policies.iter();
    let services = from.services.iter();
    proto::Workload {
        uid: from.uid.to_string(),
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        addresses: from.addresses.iter().map(|ip| octets(*ip)).collect(),
        hostname: from.hostname.to_string(),
        network: from.network.to_string(),
        tunnel_protocol: tunnel.into(),
        trust_domain: from.identity.trust_domain().to_string(),
        service_account: from.identity.service_account().to_string(),
        waypoint: from.waypoint.as_deref().map(gateway),
        network_gateway: from.network_gateway.as_deref().map(gateway),
        node: from.node.to_string(),
        canonical_name: from.canonical_name.to_string(),
        canonical_revision: from.canonical_revision.to_string(),
        workload_type: kind.into(),
        workload_name: from.workload_name.to_string(),
        native_tunnel: from.native_tunnel,
        application_tunnel: from.application_tunnel.map(|tunnel| {
            let protocol = match tunnel.proxy_protocol {
                true => application_tunnel::Protocol::Proxy,
                false => application_tunnel::Protocol::None,
            };
            let port = tunnel.port.map_or(0, u32::from);
            proto::ApplicationTunnel { protocol: protocol.into(), port }
        }),
        services: services
            .map(|(key, list)| (key.to_string(), proto::PortList { ports: ports(list) }))
            .collect(),
        authorization_policies: policies.map(PolicyKey::to_string).collect(),
        status: status.into(),
        cluster_id: from.cluster_id.to_string(),
        locality: Some(proto::Locality {
            region: from.locality.region.to_string(),
            zone: from.locality.zone.to_string(),
            subzone: from.locality.subzone.to_string(),
        }),
        network_mode: mode.into(),
        extensions: Vec::new(),
        capacity: Some(from.capacity),
    }
}

pub(super) fn service(from: &Service) -> proto::Service {
    let one = |at: &NetworkAddress| proto::NetworkAddress {
        network: at.network.to_string(),
        address: octets(at.address),
        length: None,
    };
    let ranges = from.cidr_vips.iter().map(|(network, range)| proto::NetworkAddress {
        network: network.to_string(),
        address: octets(range.addr()),
        length: Some(range.prefix_len().into()),
    });
    let balancing = &from.load_balancing;
    let share = |(waypoint, weight): &(Waypoint, u32)| proto::WeightedWaypoint {
        destination: Some(gateway(waypoint)),
        weight: *weight,
    };
    let sticky = || proto::Extension { name: STICKY_EXTENSION.to_owned(), config: None };
    proto::Service {
        name: from.name.to_string(),
        namespace: from.key.namespace.to_string(),
        hostname: from.key.hostname.to_string(),
        addresses: from.vips.iter().map(one).chain(ranges).collect(),
        ports: ports(&from.ports),
        subject_alt_names: from.subject_alt_names.iter().map(ToString::to_string).collect(),
        waypoint: from.waypoint.as_ref().map(gateway),
        load_balancing: Some(proto::LoadBalancing {
            routing_preference: balancing.preferences.iter().map(|s| scope(*s).into()).collect(),
            mode: mode(balancing.mode).into(),
            health_policy: match balancing.allow_unhealthy {
                true => load_balancing::HealthPolicy::AllowAll,
                false => load_balancing::HealthPolicy::OnlyHealthy,
            }
            .into(),
        }),
        extensions: balancing.sticky.then(sticky).into_iter().collect(),
        canonical: from.canonical,
        weighted_waypoints: from.weighted_waypoints.iter().map(share).collect(),
        ip_families: match from.families {
            Families::Any => proto::IpFamilies::Automatic,
            Families::Ip4 => proto::IpFamilies::Ipv4Only,
            Families::Ip6 => proto::IpFamilies::Ipv6Only,
            Families::Dual => proto::IpFamilies::Dual,
        }
        .into(),
        visibility: match from.visibility {
            Visibility::Public => proto::Visibility::Public,
            Visibility::Namespace => proto::Visibility::Namespace,
        }
        .into(),
        ..proto::Service::default()
    }
}

pub(super) fn authorization(from: &Authorization) -> policy_proto::Authorization {
    let action = match from.action {
        Action::Allow => policy_proto::Action::Allow,
        Action::Deny => policy_proto::Action::Deny,
    };
    let groups = from.groups.iter().map(|group| policy_proto::Group {
        rules: group
            .rules
            .iter()
            .map(|rule| policy_proto::Rules {
                matches: rule.matches.iter().map(condition).collect(),
            })
            .collect(),
    });
    policy_proto::Authorization {
        name: from.key.name.to_string(),
        namespace: from.key.namespace.to_string(),
        scope: policy_scope(from.scope).into(),
        action: action.into(),
        groups: groups.collect(),
        dry_run: from.dry_run,
        ..policy_proto::Authorization::default()
    }
}

/// A policy that could not be read: it cannot be read again, and may govern the same.
pub(super) fn unreadable(key: &PolicyKey, scope: PolicyScope) -> policy_proto::Authorization {
    policy_proto::Authorization {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        scope: policy_scope(scope).into(),
        action: NO_ACTION,
        ..policy_proto::Authorization::default()
    }
}

/// A workload or a service that could not be read: it cannot be read again, as it has no name, but for its addresses.
pub(super) fn unreadable_address(ranges: &[(Network, IpNet)]) -> proto::Service {
    let addresses = ranges.iter().map(|(network, range)| proto::NetworkAddress {
        network: network.to_string(),
        address: octets(range.addr()),
        length: Some(range.prefix_len().into()),
    });
    proto::Service { addresses: addresses.collect(), ..proto::Service::default() }
}

/// No action that there is.
const NO_ACTION: i32 = i32::MAX;

fn condition(from: &Match) -> policy_proto::Match {
    policy_proto::Match {
        namespaces: strings(&from.namespaces),
        not_namespaces: strings(&from.not_namespaces),
        principals: strings(&from.principals),
        not_principals: strings(&from.not_principals),
        source_ips: ranges(&from.source_ips),
        not_source_ips: ranges(&from.not_source_ips),
        destination_ips: ranges(&from.destination_ips),
        not_destination_ips: ranges(&from.not_destination_ips),
        destination_ports: from.destination_ports.iter().map(|port| u32::from(*port)).collect(),
        not_destination_ports: from
            .not_destination_ports
            .iter()
            .map(|port| u32::from(*port))
            .collect(),
        service_accounts: accounts(&from.service_accounts),
        not_service_accounts: accounts(&from.not_service_accounts),
        ..policy_proto::Match::default()
    }
}

fn strings(from: &[StringMatch]) -> Vec<policy_proto::StringMatch> {
    let encode = |from: &StringMatch| {
        let kind = match from {
            StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
            StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
            StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
            StringMatch::Presence => MatchType::Presence(policy_proto::Presence {}),
        };
        policy_proto::StringMatch { match_type: Some(kind) }
    };
    from.iter().map(encode).collect()
}

fn ranges(from: &[IpNet]) -> Vec<policy_proto::Address> {
    let encode = |range: &IpNet| policy_proto::Address {
        address: octets(range.addr()),
        length: range.prefix_len().into(),
    };
    from.iter().map(encode).collect()
}

fn accounts(from: &[ServiceAccountMatch]) -> Vec<policy_proto::ServiceAccountMatch> {
    let encode = |from: &ServiceAccountMatch| policy_proto::ServiceAccountMatch {
        namespace: from.namespace.to_string(),
        service_account: from.service_account.to_string(),
    };
    from.iter().map(encode).collect()
}

fn policy_scope(from: PolicyScope) -> policy_proto::Scope {
    match from {
        PolicyScope::Global => policy_proto::Scope::Global,
        PolicyScope::Namespace => policy_proto::Scope::Namespace,
        PolicyScope::WorkloadSelector => policy_proto::Scope::WorkloadSelector,
    }
}

fn ports(from: &[Port]) -> Vec<proto::Port> {
    let encode = |port: &Port| proto::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.map_or(0, u32::from),
        ..proto::Port::default()
    };
    from.iter().map(encode).collect()
}

fn gateway(from: &Waypoint) -> proto::GatewayAddress {
    let destination = match &from.destination {
        WaypointDestination::Service(key) => {
            gateway_address::Destination::Hostname(proto::NamespacedHostname {
                namespace: key.namespace.to_string(),
                hostname: key.hostname.to_string(),
            })
        }
        WaypointDestination::Address(at) => {
            gateway_address::Destination::Address(proto::NetworkAddress {
                network: at.network.to_string(),
                address: octets(at.address),
                length: None,
            })
        }
    };
    proto::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: from.hbone_port.into(),
    }
}

fn mode(from: BalancingMode) -> load_balancing::Mode {
    match from {
        BalancingMode::Any => load_balancing::Mode::UnspecifiedMode,
        BalancingMode::Strict => load_balancing::Mode::Strict,
        BalancingMode::Failover => load_balancing::Mode::Failover,
        BalancingMode::Passthrough => load_balancing::Mode::Passthrough,
    }
}

fn scope(from: Scope) -> load_balancing::Scope {
    match from {
        Scope::Region => load_balancing::Scope::Region,
        Scope::Zone => load_balancing::Scope::Zone,
        Scope::Subzone => load_balancing::Scope::Subzone,
        Scope::Node => load_balancing::Scope::Node,
        Scope::Cluster => load_balancing::Scope::Cluster,
        Scope::Network => load_balancing::Scope::Network,
    }
}

fn octets(ip: std::net::IpAddr) -> Vec<u8> {
    match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
