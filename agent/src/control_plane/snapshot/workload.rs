//! Workloads: pods, and endpoints that no pod is behind.

use std::collections::BTreeMap;
use std::net::IpAddr;

use arcstr::ArcStr;
use prost::Message;
use sotto_proto::workload::{
    Address, Locality, NetworkMode, Port, PortList, TunnelProtocol, Workload as Wire,
    WorkloadStatus, WorkloadType, address,
};

use super::endpoints::Outside;
use super::service::octets;
use super::{Entry, Settings, version};
use crate::control_plane::model::{
    Labels, Node, ObjectKey, Owner, Pod, Service, Slice, TargetPort,
};
use crate::mesh::spiffe::DEFAULT_TRUST_DOMAIN;

/// Ports by service name, sorted: the wire's map has no order, versions need one.
pub(super) type PortsByService = BTreeMap<String, Vec<Port>>;

/// A pod's resource name.
pub(super) fn pod_uid(settings: &Settings, key: &ObjectKey) -> ArcStr {
    arcstr::format!("{}//Pod/{}/{}", settings.cluster_id, key.namespace, key.name)
}

/// A pod's resource; none while it is not on the network.
pub(super) fn pod_entry(
    settings: &Settings,
    pod: &Pod,
    node: Option<&Node>,
    services: PortsByService,
    policies: &[String],
) -> Option<Entry> {
    if pod.terminal || pod.addresses.is_empty() {
        return None;
    }
    let (kind, workload_name) = made_by(pod);
    let label = |names: &[&str]| names.iter().find_map(|name| pod.labels.get(*name)).cloned();
    let canonical_name = label(&CANONICAL_NAME).unwrap_or_else(|| workload_name.clone());
    let canonical_revision = label(&CANONICAL_REVISION).unwrap_or_else(|| "latest".to_owned());
    let native_tunnel = speaks_hbone(&pod.labels);
    let hbone = native_tunnel || pod.redirected;
    let elided = settings.trust_domain == DEFAULT_TRUST_DOMAIN;
    let message = Wire {
        uid: pod_uid(settings, &pod.key).to_string(),
        name: pod.key.name.to_string(),
        namespace: pod.key.namespace.to_string(),
        addresses: pod.addresses.iter().map(|ip| octets(*ip)).collect(),
        tunnel_protocol: if hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None }.into(),
        trust_domain: if elided { String::new() } else { settings.trust_domain.to_string() },
        service_account: pod.service_account.to_string(),
        node: pod.node.to_string(),
        canonical_name,
        canonical_revision,
        workload_type: kind.into(),
        workload_name,
        native_tunnel,
        authorization_policies: policies.to_vec(),
        status: status(pod.healthy()).into(),
        cluster_id: settings.cluster_id.to_string(),
        network_mode: mode(pod.host_network).into(),
        locality: node.and_then(locality),
        ..Wire::default()
    };
    Some(encode(message, services))
}

/// An endpoint's resource name.
pub(super) fn endpoint_uid(settings: &Settings, slice: &ObjectKey, address: IpAddr) -> ArcStr {
    arcstr::format!(
        "{}/discovery.k8s.io/EndpointSlice/{}/{}/{address}",
        settings.cluster_id,
        slice.namespace,
        slice.name
    )
}

/// The resource of an endpoint without a pod, while its service's connections go to it: in the clear, without
/// identity and policies, and not to be found by its address, which something else may have.
pub(super) fn endpoint_entry(
    settings: &Settings,
    service: &Service,
    (slice, address): &(ObjectKey, IpAddr),
    endpoint: &Outside,
) -> Entry {
    let message = Wire {
        uid: endpoint_uid(settings, slice, *address).to_string(),
        name: slice.name.to_string(),
        namespace: slice.namespace.to_string(),
        addresses: vec![octets(*address)],
        node: endpoint.node.to_string(),
        canonical_name: service.key.name.to_string(),
        canonical_revision: "latest".to_owned(),
        workload_type: WorkloadType::Pod.into(),
        workload_name: service.key.name.to_string(),
        status: WorkloadStatus::Healthy.into(),
        cluster_id: settings.cluster_id.to_string(),
        network_mode: NetworkMode::HostNetwork.into(),
        ..Wire::default()
    };
    encode(message, [(settings.service_name(&service.key), endpoint.ports.clone())].into())
}

/// Where a node is, if that is known.
fn locality(node: &Node) -> Option<Locality> {
    let told = &node.locality;
    let (region, zone, subzone) =
        (told.region.to_string(), told.zone.to_string(), told.subzone.to_string());
    let known = !(region.is_empty() && zone.is_empty() && subzone.is_empty());
    known.then_some(Locality { region, zone, subzone })
}

/// A pod's own ports for a service; a named port that it does not have is left out.
pub(super) fn pod_ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let target = |target: &TargetPort| match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => pod.ports.get(name).copied(),
    };
    ports(service.ports.iter().filter_map(|p| Some((p.port, target(&p.target)?))))
}

/// A slice's ports for its service: they bear the service ports' names.
pub(super) fn slice_ports(service: &Service, slice: &Slice) -> Vec<Port> {
    ports(service.ports.iter().filter_map(|p| Some((p.port, *slice.ports.get(&p.name)?))))
}

fn ports(pairs: impl Iterator<Item = (u16, u16)>) -> Vec<Port> {
    let port = |(service, target)| Port {
        service_port: u32::from(service),
        target_port: u32::from(target),
        ..Port::default()
    };
    pairs.map(port).collect()
}

fn encode(mut workload: Wire, services: PortsByService) -> Entry {
    let bare = workload.encode_to_vec();
    let lists: Vec<(String, PortList)> =
        services.into_iter().map(|(name, ports)| (name, PortList { ports })).collect();
    let encoded: Vec<Vec<u8>> = lists.iter().map(|(_, list)| list.encode_to_vec()).collect();
    let mut parts: Vec<&[u8]> = vec![&bare];
    for ((name, _), ports) in lists.iter().zip(&encoded) {
        parts.extend([name.as_bytes(), ports]);
    }
    let version = version(&parts);
    workload.services = lists.into_iter().collect();
    let message = Address { r#type: Some(address::Type::Workload(workload)) };
    Entry { version, body: message.encode_to_vec().into() }
}

fn status(healthy: bool) -> WorkloadStatus {
    if healthy { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy }
}

fn mode(host_network: bool) -> NetworkMode {
    if host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard }
}

/// Speaks HBONE itself, without a node agent.
fn speaks_hbone(labels: &Labels) -> bool {
    labels.get("networking.istio.io/tunnel").is_some_and(|value| value == "http")
}

/// What a pod's user would say made it: the Deployment, not its ReplicaSet; the CronJob, not its Job.
fn made_by(pod: &Pod) -> (WorkloadType, String) {
    let Some(Owner { kind, name }) = &pod.owner else {
        return (WorkloadType::Pod, pod.key.name.to_string());
    };
    match kind.as_str() {
        "ReplicaSet" => match deployment_of(name, &pod.labels) {
            Some(deployment) => (WorkloadType::Deployment, deployment.to_owned()),
            None => (WorkloadType::Pod, name.clone()),
        },
        "Deployment" => (WorkloadType::Deployment, name.clone()),
        "Job" => match cron_job_of(name) {
            Some(cron_job) => (WorkloadType::Cronjob, cron_job.to_owned()),
            None => (WorkloadType::Job, name.clone()),
        },
        _ => (WorkloadType::Pod, name.clone()),
    }
}

/// A ReplicaSet of a Deployment is named after it and the hash that its pods bear as a label.
fn deployment_of<'n>(replica_set: &'n str, labels: &Labels) -> Option<&'n str> {
    let hash = labels.get("pod-template-hash")?;
    replica_set.strip_suffix(hash.as_str())?.strip_suffix('-').filter(|name| !name.is_empty())
}

/// A Job of a CronJob is named after it and its time in minutes of the Unix epoch.
fn cron_job_of(job: &str) -> Option<&str> {
    let (name, time) = job.rsplit_once('-')?;
    let is_time = (8..=10).contains(&time.len()) && time.bytes().all(|b| b.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

const CANONICAL_NAME: [&str; 3] =
    ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
const CANONICAL_REVISION: [&str; 3] =
    ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
