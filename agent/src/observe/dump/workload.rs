//! A workload in the dump.

use serde::Serialize;

use crate::mesh::service::{Waypoint, WaypointDestination};
use crate::mesh::workload::{TunnelProtocol, Workload, WorkloadKind};

/// A workload of the mesh.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadDump {
    /// Unique name.
    pub uid: String,
    /// Addresses.
    pub workload_ips: Vec<String>,
    /// A proxy in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayDump>,
    /// The gateway of its network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_gateway: Option<GatewayDump>,
    /// `HBONE` or `TCP`.
    pub protocol: &'static str,
    /// Pod name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// What made it.
    pub workload_name: String,
    /// What kind of thing made it.
    pub workload_type: &'static str,
    /// App.
    pub canonical_name: String,
    /// Version.
    pub canonical_revision: String,
    /// Cluster.
    pub cluster_id: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Where it runs.
    pub locality: LocalityDump,
    /// Node.
    pub node: String,
    /// Network.
    pub network: String,
    /// `HostNetwork`, or `Standard`.
    pub network_mode: &'static str,
    /// The services it backs, as `namespace/hostname`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// `Healthy` or `Unhealthy`.
    pub status: &'static str,
    /// Name to resolve when it has no address.
    pub hostname: String,
    /// Load-balancing weight.
    pub capacity: u32,
    /// PROXY header for the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_tunnel: Option<ApplicationTunnelDump>,
    /// Policies that select it, as `namespace/name`.
    pub authorization_policies: Vec<String>,
}

/// A waypoint or gateway.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayDump {
    /// `namespace/hostname` or `network/address`.
    pub destination: String,
    /// Its HBONE port.
    pub hbone_mtls_port: u16,
}

impl GatewayDump {
    pub(super) fn new(waypoint: &Waypoint) -> Self {
        let destination = match &waypoint.destination {
            WaypointDestination::Service(key) => key.to_string(),
            WaypointDestination::Address(address) => address.to_string(),
        };
        Self { destination, hbone_mtls_port: waypoint.hbone_port }
    }
}

/// Where a workload runs; empty parts are left out.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityDump {
    /// Region.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Zone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Subzone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subzone: String,
}

/// An application that wants a PROXY header.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationTunnelDump {
    /// `PROXY` or `NONE`.
    pub protocol: &'static str,
    /// The port that takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Whether it is ready for traffic.
pub(super) const fn health(workload: &Workload) -> &'static str {
    if workload.healthy { "Healthy" } else { "Unhealthy" }
}

impl From<&Workload> for WorkloadDump {
    fn from(workload: &Workload) -> Self {
        let locality = &workload.locality;
        Self {
            uid: workload.uid.to_string(),
            workload_ips: workload.addresses.iter().map(ToString::to_string).collect(),
            waypoint: workload.waypoint.as_deref().map(GatewayDump::new),
            network_gateway: workload.network_gateway.as_deref().map(GatewayDump::new),
            protocol: match workload.protocol {
                TunnelProtocol::Hbone => "HBONE",
                TunnelProtocol::Tcp => "TCP",
                TunnelProtocol::Unknown => "UNKNOWN",
            },
            name: workload.name.to_string(),
            namespace: workload.namespace.to_string(),
            service_account: workload.identity.service_account().to_string(),
            workload_name: workload.workload_name.to_string(),
            workload_type: kind(workload.kind),
            canonical_name: workload.canonical_name.to_string(),
            canonical_revision: workload.canonical_revision.to_string(),
            cluster_id: workload.cluster_id.to_string(),
            trust_domain: workload.identity.trust_domain().to_string(),
            locality: LocalityDump {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                subzone: locality.subzone.to_string(),
            },
            node: workload.node.to_string(),
            network: workload.network.to_string(),
            network_mode: if workload.host_network { "HostNetwork" } else { "Standard" },
            services: workload.services.keys().map(ToString::to_string).collect(),
            status: health(workload),
            hostname: workload.hostname.to_string(),
            capacity: workload.capacity,
            application_tunnel: workload.application_tunnel.map(|tunnel| ApplicationTunnelDump {
                protocol: if tunnel.proxy_protocol { "PROXY" } else { "NONE" },
                port: tunnel.port,
            }),
            authorization_policies: workload
                .authorization_policies
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

fn kind(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Deployment => "deployment",
        WorkloadKind::CronJob => "cronjob",
        WorkloadKind::Pod => "pod",
        WorkloadKind::Job => "job",
    }
}
