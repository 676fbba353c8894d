//! Kubernetes' objects to records. Pure. None means that the object does not count, as if it were
//! not there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use arcstr::ArcStr;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::control_plane::model::{
    Endpoint, Families, Namespace, ObjectKey, Owner, Pod, Service, ServicePort, Slice, TargetPort,
};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An object's key.
pub(super) fn key(meta: &ObjectMeta) -> ObjectKey {
    let part = |part: &Option<String>| part.as_deref().unwrap_or_default().into();
    ObjectKey { namespace: part(&meta.namespace), name: part(&meta.name) }
}

/// A pod, unless it has failed.
pub(super) fn pod(object: core::Pod) -> Option<Pod> {
    let core::Pod { metadata, spec, status } = object;
    let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
    let phase = status.phase.as_deref().unwrap_or_default();
    if phase == "Failed" {
        return None;
    }
    let ready =
        status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    let redirected =
        metadata.annotations.iter().flatten().any(|(k, v)| k == REDIRECTION && v == "enabled");
    Some(Pod {
        key: key(&metadata),
        uid: metadata.uid.unwrap_or_default().into(),
        addresses: pod_addresses(&status),
        service_account: account.unwrap_or("default").into(),
        node: spec.node_name.as_deref().unwrap_or_default().into(),
        host_network: spec.host_network.unwrap_or(false),
        healthy: ready && metadata.deletion_timestamp.is_none(),
        terminal: phase == "Succeeded",
        redirected,
        owner: metadata
            .owner_references
            .into_iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| Owner { kind: owner.kind, name: owner.name }),
        ports: container_ports(&spec),
        labels: metadata.labels.unwrap_or_default(),
    })
}

fn pod_addresses(status: &core::PodStatus) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses = Vec::new();
    for address in all.chain(status.pod_ip.as_deref()).filter_map(address) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn container_ports(spec: &core::PodSpec) -> BTreeMap<String, u16> {
    // Init containers that keep running are sidecars, and have ports too.
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut named = BTreeMap::new();
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        if let (Some(name), true, Some(number)) =
            (&port.name, is_tcp(port.protocol.as_deref()), number(port.container_port))
        {
            named.entry(name.clone()).or_insert(number);
        }
    }
    named
}

/// A service, unless it is another name for something outside.
pub(super) fn service(object: core::Service) -> Option<Service> {
    let core::Service { metadata, spec, status } = object;
    let spec = spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    Some(Service {
        key: key(&metadata),
        addresses: service_addresses(&spec, status.as_ref()),
        ports: spec.ports.iter().flatten().filter_map(service_port).collect(),
        families: families(&spec),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        selector: spec.selector.filter(|selector| !selector.is_empty()),
    })
}

fn service_addresses(
    spec: &core::ServiceSpec,
    status: Option<&core::ServiceStatus>,
) -> Vec<IpAddr> {
    let cluster = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    // A balancer in proxy mode must see the traffic itself.
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let balancers = balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref());
    let mut addresses = Vec::new();
    // A headless service's "None" is no address.
    for address in cluster.chain(balancers).filter_map(|ip| address(ip)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn service_port(port: &core::ServicePort) -> Option<ServicePort> {
    if !is_tcp(port.protocol.as_deref()) {
        return None;
    }
    let own = number(port.port)?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(own),
        Some(IntOrString::Int(target)) => TargetPort::Number(number(*target)?),
        Some(IntOrString::String(name)) => {
            name.parse().map_or_else(|_| TargetPort::Name(name.clone()), TargetPort::Number)
        }
    };
    Some(ServicePort { name: port.name.clone().unwrap_or_default(), port: own, target })
}

fn families(spec: &core::ServiceSpec) -> Families {
    let has = |family: &str| spec.ip_families.iter().flatten().any(|f| f == family);
    match (has("IPv4"), has("IPv6")) {
        (true, true) => Families::Dual,
        (true, false) => Families::Ip4,
        (false, true) => Families::Ip6,
        (false, false) => Families::Automatic,
    }
}

/// A slice, unless it is of names or of no service.
pub(super) fn slice(object: EndpointSlice) -> Option<Slice> {
    let EndpointSlice { metadata, endpoints, ports, address_type } = object;
    if address_type == "FQDN" {
        return None;
    }
    let service: ArcStr = metadata.labels.as_ref()?.get(SERVICE_NAME)?.as_str().into();
    let ports = ports.into_iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let named = |port: k8s_openapi::api::discovery::v1::EndpointPort| {
        Some((port.name.unwrap_or_default(), number(port.port?)?))
    };
    Some(Slice {
        key: key(&metadata),
        service,
        endpoints: endpoints.into_iter().map(endpoint).collect(),
        ports: ports.filter_map(named).collect(),
    })
}

fn endpoint(endpoint: k8s_openapi::api::discovery::v1::Endpoint) -> Endpoint {
    let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
    Endpoint {
        addresses: endpoint.addresses.iter().filter_map(|ip| address(ip)).collect(),
        // Not told is to be taken for ready.
        ready: endpoint.conditions.and_then(|c| c.ready).unwrap_or(true),
        pod: pod.and_then(|pod| pod.name).map(ArcStr::from),
        node: endpoint.node_name.unwrap_or_default().into(),
    }
}

/// A namespace.
pub(super) fn namespace(object: core::Namespace) -> Option<Namespace> {
    let terminating = object.metadata.deletion_timestamp.is_some();
    Some(Namespace { key: key(&object.metadata), terminating })
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// TCP is what is meant when nothing is said.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

#[cfg(test)]
mod tests;
