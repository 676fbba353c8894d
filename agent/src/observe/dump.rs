//! What `/config_dump` shows, under the keys that `istioctl ztunnel-config` reads.

mod listed;
mod policy;
mod service;
mod workload;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::listed::{Entries, Listed};
pub use self::policy::PolicyDump;
pub use self::service::{EndpointDump, LoadBalancerDump, ServiceDump};
pub use self::workload::{ApplicationTunnelDump, GatewayDump, LocalityDump, WorkloadDump};

/// All the agent knows.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigDump {
    /// Workloads of the mesh.
    pub workloads: Listed<WorkloadDump>,
    /// Services of the mesh.
    pub services: Listed<ServiceDump>,
    /// Always empty: endpoints may come before their service, and are kept with their workload.
    pub staged_services: serde_json::Map<String, serde_json::Value>,
    /// Policies of the mesh.
    pub policies: Listed<PolicyDump>,
    /// Resources whose newest version cannot be read: why, and what is done without it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<String, String>,
    /// Certificates of this node's pods.
    pub certificates: Vec<CertificateDump>,
    /// This node's pods, by UID.
    pub workload_state: BTreeMap<String, WorkloadStateDump>,
    /// Always empty: there is no static configuration.
    pub static_config: StaticDump,
    /// What was built.
    pub version: VersionDump,
    /// The agent's flags; no secrets.
    pub config: serde_json::Value,
}

/// Always empty: all is of the control plane.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct StaticDump {
    /// Workloads.
    pub workloads: [(); 0],
    /// Services.
    pub services: [(); 0],
    /// Policies.
    pub policies: [(); 0],
}

/// What was built.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionDump {
    /// Of the package.
    pub version: String,
}

impl Default for VersionDump {
    fn default() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// An identity's certificate.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDump {
    /// SPIFFE URI.
    pub identity: String,
    /// `Available`, `Initializing`, or `Unavailable: why`.
    pub state: String,
    /// The leaf first.
    pub cert_chain: Vec<CertDump>,
    /// What it is verified with.
    pub root_certs: Vec<CertDump>,
}

/// One certificate.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertDump {
    /// Base64 of its PEM.
    pub pem: String,
    /// Printed as it is.
    pub serial_number: String,
    /// RFC 3339.
    pub valid_from: String,
    /// RFC 3339.
    pub expiration_time: String,
}

impl CertDump {
    /// A certificate by its PEM text, serial number and times (RFC 3339).
    pub fn new(
        pem: &str,
        serial_number: impl Into<String>,
        valid_from: impl Into<String>,
        expiration_time: impl Into<String>,
    ) -> Self {
        use base64::Engine as _;
        Self {
            pem: base64::engine::general_purpose::STANDARD.encode(pem),
            serial_number: serial_number.into(),
            valid_from: valid_from.into(),
            expiration_time: expiration_time.into(),
        }
    }
}

/// A pod of this node.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStateDump {
    /// `Up` or `Pending`.
    pub state: String,
    /// Its open connections.
    pub connections: ConnectionsDump,
    /// What it is.
    pub info: WorkloadInfoDump,
}

/// What a pod is.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadInfoDump {
    /// Pod name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Service account.
    pub service_account: String,
}

/// A pod's open connections.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionsDump {
    /// To it.
    pub inbound: Vec<ConnectionDump>,
    /// From it.
    pub outbound: Vec<ConnectionDump>,
}

/// An open connection.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionDump {
    /// The client's address.
    pub src: String,
    /// What the client asked for.
    pub original_dst: String,
    /// Where it went.
    pub actual_dst: String,
    /// `HBONE` or `TCP`.
    pub protocol: String,
    /// SPIFFE URI of the client, where that is certified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_identity: Option<String>,
    /// SPIFFE URI of the server, where that is certified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_identity: Option<String>,
    /// What the client has sent so far.
    pub from_client_bytes: u64,
    /// What the server has sent so far.
    pub from_server_bytes: u64,
}

#[cfg(test)]
mod tests;
