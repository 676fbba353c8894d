//! A mesh of any size, as a control plane tells it first: pods of Deployments, ten behind each service, and a few policies.

use prost::Message as _;
use prost_types::Any;
use sotto_proto::ADDRESS_TYPE;
use sotto_proto::ads::{DeltaDiscoveryResponse, Resource};
use sotto_proto::workload::{
    Address, Locality, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload,
    WorkloadType, address::Type,
};

/// Pods behind each service.
const PODS_OF_SERVICE: usize = 10;
/// Services of each namespace.
const SERVICES_OF_NAMESPACE: usize = 50;
/// Pods of each node.
const PODS_OF_NODE: usize = 100;

/// Everything: so many workloads, and a tenth as many services.
pub(crate) fn all(workloads: usize) -> DeltaDiscoveryResponse {
    let services = (0..workloads.div_ceil(PODS_OF_SERVICE)).map(service);
    let resources = services.chain((0..workloads).map(|number| workload(number, 1))).collect();
    told(ADDRESS_TYPE, "1", resources)
}

/// A response.
pub(crate) fn told(
    type_url: &str,
    nonce: &str,
    resources: Vec<Resource>,
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources: resources.iter().map(Resource::encoded).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// One pod, at one of its versions: another node each.
pub(crate) fn workload(number: usize, version: usize) -> Resource {
    let of = number / PODS_OF_SERVICE;
    let (namespace, app) = names(of);
    let name = format!("{app}-{:08x}-{:05x}", hash(of), hash(number) & 0xf_ffff);
    let uid = format!("Kubernetes//Pod/{namespace}/{name}");
    let ports = PortList { ports: vec![port(80, 8080)] };
    let workload = Workload {
        uid,
        name,
        addresses: vec![octets(10, number).to_vec()],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        service_account: app.clone(),
        node: format!("worker-{}.example.internal", number / PODS_OF_NODE + version),
        canonical_name: app.clone(),
        canonical_revision: String::from("v1"),
        workload_type: WorkloadType::Deployment.into(),
        workload_name: app,
        services: [(service_name(of), ports)].into(),
        authorization_policies: vec![String::from("istio-system/istio_converted_static_strict")],
        cluster_id: String::from("Kubernetes"),
        locality: Some(Locality {
            region: String::from("eu-central-1"),
            zone: format!("eu-central-1{}", ["a", "b", "c"][number % 3]),
            subzone: String::new(),
        }),
        namespace,
        ..Workload::default()
    };
    known(workload, version)
}

/// The resource of a pod.
pub(crate) fn known(workload: Workload, version: usize) -> Resource {
    resource(workload.uid.clone(), version, Type::Workload(workload))
}

/// One service.
pub(crate) fn service(number: usize) -> Resource {
    serving(&service_name(number), octets(172, number), 80)
}

/// A service by its name in full, with an address and a port.
pub(crate) fn serving(name: &str, address: [u8; 4], at: u16) -> Resource {
    let (namespace, hostname) = name.split_once('/').unwrap_or_default();
    let address =
        NetworkAddress { network: String::new(), address: address.to_vec(), length: None };
    let service = Service {
        name: hostname.split('.').next().unwrap_or_default().to_owned(),
        namespace: namespace.to_owned(),
        hostname: hostname.to_owned(),
        addresses: vec![address],
        ports: vec![port(at.into(), if at == 80 { 8080 } else { at.into() })],
        ..Service::default()
    };
    resource(name.to_owned(), 1, Type::Service(service))
}

fn names(service: usize) -> (String, String) {
    (format!("team-{}", service / SERVICES_OF_NAMESPACE), format!("backend-{service}"))
}

fn service_name(number: usize) -> String {
    let (namespace, app) = names(number);
    format!("{namespace}/{app}.{namespace}.svc.cluster.local")
}

/// A port and where it leads.
pub(crate) fn port(service_port: u32, target_port: u32) -> Port {
    Port { service_port, target_port, ..Port::default() }
}

/// An address that no other has, with this first octet.
#[expect(clippy::cast_possible_truncation, reason = "there are 2^24 of them")]
fn octets(first: u8, number: usize) -> [u8; 4] {
    let [_, b, c, d] = (number as u32 + 1).to_be_bytes();
    [first, b, c, d]
}

fn resource(name: String, version: usize, message: Type) -> Resource {
    let value = Address { r#type: Some(message) }.encode_to_vec();
    let version = format!("{:020}", hash(value.len() * 31 + version));
    let body = Any { type_url: ADDRESS_TYPE.to_owned(), value };
    Resource { name, version, resource: Some(body), aliases: Vec::new() }
}

/// Scatters numbers, as the names and versions that machines make are.
fn hash(number: usize) -> u64 {
    (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) & 0xffff_ffff
}
