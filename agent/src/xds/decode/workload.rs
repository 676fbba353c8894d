//! Workloads.

use std::collections::HashMap;

use arcstr::ArcStr;
use ipnet::IpNet;
use sotto_proto::workload::{self as proto, application_tunnel};

use crate::mesh::service::{Locality, Waypoint};
use crate::mesh::spiffe::DEFAULT_TRUST_DOMAIN;
use crate::mesh::workload::{ApplicationTunnel, TunnelProtocol, WorkloadKind};
use crate::mesh::{Addresses, Backed, Network, SpiffeId, Workload, WorkloadUid};

use super::{DecodeError, ip, named, optional_port, policy_key, service, service_key};

/// The service account of pods that name none.
pub(super) const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// What the names of istiod's workloads for gateways between networks begin with.
pub(super) const NETWORK_GATEWAY: &str = "NetworkGateway/";

pub(super) fn workload(from: proto::Workload) -> Result<Workload, DecodeError> {
    let protocol = tunnel_protocol(from.tunnel_protocol);
    let host_network = from.network_mode == i32::from(proto::NetworkMode::HostNetwork);
    let namespace = named(from.namespace, "namespace")?;
    let identity = SpiffeId::new(
        or_default(from.trust_domain, DEFAULT_TRUST_DOMAIN),
        namespace.clone(),
        or_default(from.service_account, DEFAULT_SERVICE_ACCOUNT),
    )?;
    let addresses = from.addresses.iter().map(|bytes| ip(bytes, "workload address"));
    let policies = from.authorization_policies.iter().map(|key| policy_key(key));
    Ok(Workload {
        uid: WorkloadUid(named(from.uid, "uid")?),
        name: from.name.into(),
        namespace,
        addresses: addresses.collect::<Result<Addresses, _>>()?,
        hostname: from.hostname.into(),
        network: from.network.into(),
        protocol,
        identity,
        node: from.node.into(),
        canonical_name: from.canonical_name.into(),
        canonical_revision: from.canonical_revision.into(),
        kind: workload_kind(from.workload_type),
        workload_name: from.workload_name.into(),
        native_tunnel: from.native_tunnel,
        application_tunnel: from.application_tunnel.map(application_tunnel).transpose()?,
        services: services(from.services)?,
        authorization_policies: policies.collect::<Result<_, _>>()?,
        healthy: from.status == i32::from(proto::WorkloadStatus::Healthy),
        cluster_id: from.cluster_id.into(),
        locality: from.locality.map(locality).unwrap_or_default(),
        host_network,
        capacity: from.capacity.unwrap_or(1),
        waypoint: from.waypoint.map(service::waypoint).transpose()?.map(Box::new),
        network_gateway: from.network_gateway.and_then(network_gateway),
    })
}

/// The addresses that are one's own, as far as they can be read.
pub(super) fn own_addresses(from: &proto::Workload) -> Vec<(Network, IpNet)> {
    if from.network_mode == i32::from(proto::NetworkMode::HostNetwork) {
        return Vec::new();
    }
    let network = Network::from(from.network.as_str());
    let addresses = from.addresses.iter().filter_map(|bytes| ip(bytes, "workload address").ok());
    addresses.map(|address| (network.clone(), address.into())).collect()
}

/// Whether a workload can be nobody we would ever talk to. istiod makes one of each gateway between networks, also of those
/// of which it knows the address alone: without a namespace none of them can prove who it is.
pub(super) fn is_nobody(from: &proto::Workload) -> bool {
    from.namespace.is_empty() && from.uid.starts_with(NETWORK_GATEWAY)
}

fn or_default(text: String, default: &'static str) -> ArcStr {
    if text.is_empty() { default.into() } else { text.into() }
}

/// What this version cannot speak it must not mistake for plaintext, nor leave out: what is unknown is plaintext too.
pub(super) fn tunnel_protocol(value: i32) -> TunnelProtocol {
    match proto::TunnelProtocol::try_from(value) {
        Ok(proto::TunnelProtocol::None) => TunnelProtocol::Tcp,
        Ok(proto::TunnelProtocol::Hbone) => TunnelProtocol::Hbone,
        Ok(proto::TunnelProtocol::LegacyIstioMtls) | Err(_) => TunnelProtocol::Unknown,
    }
}

/// Only a label: an unknown kind does no harm.
pub(super) fn workload_kind(value: i32) -> WorkloadKind {
    match proto::WorkloadType::try_from(value) {
        Ok(proto::WorkloadType::Deployment) => WorkloadKind::Deployment,
        Ok(proto::WorkloadType::Cronjob) => WorkloadKind::CronJob,
        Ok(proto::WorkloadType::Job) => WorkloadKind::Job,
        Ok(proto::WorkloadType::Pod) | Err(_) => WorkloadKind::Pod,
    }
}

pub(super) fn application_tunnel(
    from: proto::ApplicationTunnel,
) -> Result<ApplicationTunnel, DecodeError> {
    let proxy_protocol = match application_tunnel::Protocol::try_from(from.protocol) {
        Ok(application_tunnel::Protocol::None) => false,
        Ok(application_tunnel::Protocol::Proxy) => true,
        Err(_) => {
            let what = "application tunnel protocol";
            return Err(DecodeError::Unsupported { what, value: from.protocol });
        }
    };
    Ok(ApplicationTunnel { proxy_protocol, port: optional_port(from.port)? })
}

/// One that leads nowhere is none: who is on another network is not reached without, and others do not need it.
pub(super) fn network_gateway(from: proto::GatewayAddress) -> Option<Box<Waypoint>> {
    service::waypoint(from).ok().map(Box::new)
}

fn services(from: HashMap<String, proto::PortList>) -> Result<Backed, DecodeError> {
    from.into_iter()
        .map(|(key, list)| Ok((service_key(&key)?, service::ports(&list.ports)?)))
        .collect()
}

fn locality(from: proto::Locality) -> Locality {
    Locality { region: from.region.into(), zone: from.zone.into(), subzone: from.subzone.into() }
}
