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
    Distribution, Endpoint, Families, Namespace, Node, ObjectKey, Owner, Pod, Service, ServicePort,
    Slice, TargetPort,
};
use crate::mesh::service::Locality;

const REDIRECTION: &str = "ambient.istio.io/redirection";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

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
        ready,
        leaving: metadata.deletion_timestamp.is_some(),
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
        addresses: cluster_addresses(&spec),
        balancers: balancers(status.as_ref()),
        ports: spec.ports.iter().flatten().filter_map(service_port).collect(),
        families: families(&spec),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        distribution: distribution(&metadata, &spec),
        sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        selector: spec.selector.filter(|selector| !selector.is_empty()),
    })
}

fn cluster_addresses(spec: &core::ServiceSpec) -> Vec<IpAddr> {
    // A headless service's "None" is no address.
    canonical(spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip))
}

/// The addresses of balancers that a node may answer for itself. One that does not say so must see the traffic, and may
/// have other services on its other ports.
fn balancers(status: Option<&core::ServiceStatus>) -> Vec<IpAddr> {
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingresses = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let ours = ingresses.filter(|ingress| ingress.ip_mode.as_deref() == Some("VIP"));
    canonical(ours.filter_map(|ingress| ingress.ip.as_ref()))
}

fn canonical(texts: impl Iterator<Item = impl AsRef<str>>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in texts.filter_map(|text| address(text.as_ref())) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The field counts before Istio's older annotation, which is not particular about case.
fn distribution(meta: &ObjectMeta, spec: &core::ServiceSpec) -> Distribution {
    let known = |value: &str| {
        let value = value.to_ascii_lowercase();
        match value.as_str() {
            "preferclose" | "prefersamezone" => Some(Distribution::SameZone),
            "prefersamenode" => Some(Distribution::SameNode),
            _ => None,
        }
    };
    let annotation = || meta.annotations.as_ref()?.get(DISTRIBUTION);
    let field = spec.traffic_distribution.as_deref().and_then(known);
    field.or_else(|| annotation().and_then(|value| known(value))).unwrap_or_default()
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
    let labels = metadata.labels.as_ref()?;
    let service: ArcStr = labels.get(SERVICE_NAME)?.as_str().into();
    let managed = labels.get(MANAGED_BY).is_some_and(|by| by == SLICE_CONTROLLER);
    let ports = ports.into_iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
    let named = |port: k8s_openapi::api::discovery::v1::EndpointPort| {
        Some((port.name.unwrap_or_default(), number(port.port?)?))
    };
    let key = key(&metadata);
    Some(Slice {
        service,
        endpoints: endpoints.into_iter().map(|one| endpoint(one, &key.namespace)).collect(),
        ports: ports.filter_map(named).collect(),
        managed,
        key,
    })
}

/// An endpoint; a condition that is not told means the best.
fn endpoint(endpoint: k8s_openapi::api::discovery::v1::Endpoint, namespace: &ArcStr) -> Endpoint {
    let conditions = endpoint.conditions.unwrap_or_default();
    let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = pod.and_then(|pod| {
        let namespace = pod.namespace.map_or_else(|| namespace.clone(), ArcStr::from);
        Some(ObjectKey { namespace, name: pod.name?.into() })
    });
    Endpoint {
        addresses: endpoint.addresses.iter().filter_map(|ip| address(ip)).collect(),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        leaving: conditions.terminating.unwrap_or(false),
        pod,
        node: endpoint.node_name.unwrap_or_default().into(),
    }
}

/// A node.
pub(super) fn node(object: core::Node) -> Option<Node> {
    let label = |name: &str| {
        let labels = object.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(name)).map(ArcStr::from).unwrap_or_default()
    };
    let locality = Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    };
    let addresses = object.status.and_then(|status| status.addresses).unwrap_or_default();
    let addresses = canonical(addresses.iter().map(|address| &address.address));
    Some(Node { key: key(&object.metadata), addresses, locality })
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
mod seen;
#[cfg(test)]
mod tests;
