//! A service in the dump.

use std::collections::BTreeMap;

use serde::Serialize;

use super::workload::{GatewayDump, health};
use crate::mesh::service::{
    BalancingMode, Families, LoadBalancing, Port, Scope, Service, Visibility,
};
use crate::mesh::workload::Workload;

/// A service of the mesh.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDump {
    /// Kubernetes name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Fully qualified name.
    pub hostname: String,
    /// Virtual addresses, as `network/address`.
    pub vips: Vec<String>,
    /// Virtual ranges, as `network/cidr`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidr_vips: Vec<String>,
    /// Target port by service port; 0 where each endpoint tells its own.
    pub ports: BTreeMap<u16, u16>,
    /// How endpoints are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerDump>,
    /// A proxy in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayDump>,
    /// Those that share its connections.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weighted_waypoints: Vec<ShareDump>,
    /// Endpoints by workload.
    pub endpoints: BTreeMap<String, EndpointDump>,
    /// Identities besides the endpoints' own that may answer for it.
    pub subject_alt_names: Vec<String>,
    /// `IPv4`, `IPv6`, `Dual`, or empty.
    pub ip_families: &'static str,
    /// Stands for its hostname when namespaces disagree.
    pub canonical: bool,
    /// `Public`, or `Namespace`.
    pub visibility: &'static str,
}

/// One of the proxies that share a service's connections.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareDump {
    /// The proxy.
    pub destination: GatewayDump,
    /// Its part, of the sum of all.
    pub weight: u32,
}

/// How endpoints are chosen.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerDump {
    /// Mode.
    pub mode: &'static str,
    /// Preferences, most important first.
    pub routing_preferences: Vec<&'static str>,
    /// Whether endpoints that are not ready are used.
    pub health_policy: &'static str,
}

/// One endpoint.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDump {
    /// The workload.
    pub workload_uid: String,
    /// Target port by service port.
    pub port: BTreeMap<u16, u16>,
    /// `Healthy` or `Unhealthy`.
    pub status: &'static str,
}

impl ServiceDump {
    /// A service and its endpoints.
    pub fn new<'a>(
        service: &Service,
        endpoints: impl Iterator<Item = (&'a Workload, &'a [Port])>,
    ) -> Self {
        let endpoint = |(workload, endpoint_ports): (&Workload, &[Port])| {
            let uid = workload.uid.to_string();
            let port = ports(endpoint_ports);
            let status = health(workload);
            (uid.clone(), EndpointDump { workload_uid: uid, port, status })
        };
        Self {
            name: service.name.to_string(),
            namespace: service.key.namespace.to_string(),
            hostname: service.key.hostname.to_string(),
            vips: service.vips.iter().map(ToString::to_string).collect(),
            cidr_vips: service
                .cidr_vips
                .iter()
                .map(|(net, cidr)| format!("{net}/{cidr}"))
                .collect(),
            ports: ports(&service.ports),
            load_balancer: balancer(&service.load_balancing),
            waypoint: service.waypoint.as_ref().map(GatewayDump::new),
            weighted_waypoints: shares(service),
            endpoints: endpoints.map(endpoint).collect(),
            subject_alt_names: service.subject_alt_names.iter().map(ToString::to_string).collect(),
            ip_families: families(service),
            canonical: service.canonical,
            visibility: match service.visibility {
                Visibility::Public => "Public",
                Visibility::Namespace => "Namespace",
            },
        }
    }
}

fn shares(service: &Service) -> Vec<ShareDump> {
    let share = |(waypoint, weight): &_| ShareDump {
        destination: GatewayDump::new(waypoint),
        weight: *weight,
    };
    service.weighted_waypoints.iter().map(share).collect()
}

fn ports(ports: &[Port]) -> BTreeMap<u16, u16> {
    ports.iter().map(|port| (port.service_port, port.target_port.unwrap_or_default())).collect()
}

fn families(service: &Service) -> &'static str {
    match service.families {
        Families::Ip4 => return "IPv4",
        Families::Ip6 => return "IPv6",
        Families::Dual => return "Dual",
        Families::Any => {}
    }
    let v4 = service.vips.iter().any(|vip| vip.address.is_ipv4());
    let v6 = service.vips.iter().any(|vip| vip.address.is_ipv6());
    match (v4, v6) {
        (true, true) => "Dual",
        (true, false) => "IPv4",
        (false, true) => "IPv6",
        (false, false) => "",
    }
}

fn balancer(balancing: &LoadBalancing) -> Option<LoadBalancerDump> {
    if *balancing == LoadBalancing::default() {
        return None;
    }
    Some(LoadBalancerDump {
        mode: match balancing.mode {
            BalancingMode::Any => "Any",
            BalancingMode::Strict => "Strict",
            BalancingMode::Failover => "Failover",
            BalancingMode::Passthrough => "Passthrough",
        },
        routing_preferences: balancing.preferences.iter().copied().map(scope).collect(),
        health_policy: if balancing.allow_unhealthy { "AllowAll" } else { "OnlyHealthy" },
    })
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    }
}
