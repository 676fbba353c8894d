//! The parts of `/config_dump` that need more than one module to tell.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::json;

use crate::config::{AgentConfig, LiveSettings};
use crate::connection::{Direction, OpenConnection};
use crate::enroll::{PodState, Status};
use crate::identify::certs::{Condition, IdentityState};
use crate::identify::svid::CertificateInfo;
use crate::mesh::Mesh;
use crate::observe::dump::{
    CertDump, CertificateDump, ConnectionDump, ConnectionsDump, Entries, PolicyDump, ServiceDump,
    WorkloadDump, WorkloadInfoDump, WorkloadStateDump,
};
use crate::xds::XdsStatus;

/// What discovery could not take, by name.
pub(super) fn rejected(discovery: &XdsStatus) -> BTreeMap<String, String> {
    let rejected = discovery.rejected.iter();
    rejected.map(|((_, name), why)| (name.clone(), why.clone())).collect()
}

pub(super) fn workloads(mesh: &Mesh) -> Entries<'_, WorkloadDump> {
    Box::new(mesh.workloads().map(|workload| (&**workload).into()))
}

/// Services with their endpoints.
pub(super) fn services(mesh: &Mesh) -> Entries<'_, ServiceDump> {
    Box::new(mesh.services().map(|service| {
        let endpoints = mesh.endpoints(&service.key);
        ServiceDump::new(service, endpoints.map(|(workload, ports)| (&**workload, ports)))
    }))
}

pub(super) fn policies(mesh: &Mesh) -> Entries<'_, PolicyDump> {
    Box::new(mesh.policies().map(|policy| (&**policy).into()))
}

/// An identity's certificate; never its key.
pub(super) fn certificate(state: &IdentityState) -> CertificateDump {
    let told = match &state.condition {
        Condition::Available => "Available".to_owned(),
        Condition::Initializing => "Initializing".to_owned(),
        Condition::Unavailable(why) => format!("Unavailable: {why}"),
    };
    CertificateDump {
        identity: state.identity.to_string(),
        state: told,
        cert_chain: state.chain.iter().map(one).collect(),
        root_certs: state.roots.iter().map(one).collect(),
    }
}

fn one(certificate: &CertificateInfo) -> CertDump {
    let (from, to) = (time(certificate.not_before), time(certificate.not_after));
    CertDump::new(&certificate.pem, certificate.serial.as_str(), from, to)
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// This node's pods and their connections.
pub(super) fn pods(
    mesh: &Mesh,
    status: &Status,
    connections: &[OpenConnection],
) -> BTreeMap<String, WorkloadStateDump> {
    let mut pods: BTreeMap<String, WorkloadStateDump> = BTreeMap::new();
    let trust_domain = mesh.home().map(|home| home.trust_domain.to_string()).unwrap_or_default();
    for pod in &status.pods {
        let state = if pod.state == PodState::Captured { "Up" } else { "Pending" };
        let info =
            pod.pod.as_ref().map_or_else(WorkloadInfoDump::default, |pod| WorkloadInfoDump {
                name: pod.name.to_string(),
                namespace: pod.namespace.to_string(),
                trust_domain: trust_domain.clone(),
                service_account: pod.account.name().to_string(),
            });
        let entry = WorkloadStateDump {
            state: state.to_owned(),
            connections: ConnectionsDump::default(),
            info,
        };
        pods.insert(pod.uid.to_string(), entry);
    }
    for open in connections {
        let Some(pod) = pods.get_mut(open.pod.0.as_str()) else { continue };
        let list = match open.direction {
            Direction::Inbound => &mut pod.connections.inbound,
            Direction::Outbound => &mut pod.connections.outbound,
        };
        list.push(ConnectionDump {
            src: open.source.to_string(),
            original_dst: open.original_destination.to_string(),
            actual_dst: open.actual_destination.to_string(),
            protocol: if open.tunnelled { "HBONE" } else { "TCP" }.to_owned(),
            client_identity: open.client.as_ref().map(ToString::to_string),
            server_identity: open.server.as_ref().map(ToString::to_string),
            from_client_bytes: open.from_client_bytes,
            from_server_bytes: open.from_server_bytes,
        });
    }
    pods
}

/// The agent's flags, and what it has learned in place of some; paths of secrets, never secrets.
pub(super) fn config(config: &AgentConfig, live: &LiveSettings, mesh: &Mesh) -> serde_json::Value {
    let home = mesh.home().ok();
    json!({
        "nodeName": config.node_name,
        "xdsAddress": config.xds_address,
        "caAddress": config.ca_address,
        "clusterId": mesh.cluster_id().map(|id| id.as_str()),
        "trustDomain": home.map(|home| home.trust_domain.as_str()),
        "network": home.map(|home| home.network.as_str()),
        "rootNamespace": config.root_namespace,
        "threads": config.threads.get(),
        "failOpen": config.fail_open,
        "waitForAnswer": config.wait_for_answer,
        "tlsRecords": format!("{:?}", config.tls_records).to_lowercase(),
        "unknownDestinations": format!("{:?}", live.unknown_destinations).to_lowercase(),
        "standIns": config.stand_ins.all().map(|range| range.to_string()),
        "pinDir": config.pin_dir,
        "cniSocket": config.cni_socket,
        "drainDeadline": humantime::format_duration(live.drain_deadline).to_string(),
    })
}
