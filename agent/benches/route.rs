//! What it costs to find out where a connection goes.

#![expect(clippy::unwrap_used, reason = "fixed names and addresses")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use divan::{Bencher, black_box};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use sotto::mesh::local::Exclusions;
use sotto::mesh::service::{Families, LoadBalancing, Port, Visibility};
use sotto::mesh::{
    Account, LocalPod, Mesh, MeshEvent, Network, NetworkAddress, PodUid, Service, ServiceKey,
    Store, Workload,
};
use sotto::route::{Route, outbound};

const WORKLOADS: [u32; 3] = [10, 1000, 10_000];
/// Every service has so many endpoints.
const ENDPOINTS: u32 = 10;

fn main() {
    divan::main();
}

#[divan::bench(args = WORKLOADS)]
fn to_a_pod(bencher: Bencher<'_, '_>, workloads: u32) {
    check(bencher, workloads, SocketAddr::new(pod_ip(workloads / 2), 8080), true);
}

#[divan::bench(args = WORKLOADS)]
fn to_a_service(bencher: Bencher<'_, '_>, workloads: u32) {
    let service = workloads / ENDPOINTS / 2;
    check(bencher, workloads, SocketAddr::new(vip(service), 80), true);
}

#[divan::bench(args = WORKLOADS)]
fn out_of_the_mesh(bencher: Bencher<'_, '_>, workloads: u32) {
    check(bencher, workloads, "192.0.2.1:443".parse().unwrap(), false);
}

fn check(bencher: Bencher<'_, '_>, workloads: u32, destination: SocketAddr, tunnelled: bool) {
    let (mesh, network, source) = (mesh(workloads), Network::new(), source());
    let workload = mesh.workload_of(&source).cloned();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut route =
        || outbound(&mesh, &source, workload.as_deref(), &network, destination, &mut rng);
    assert_eq!(matches!(route(), Route::Tunnel(_)), tunnelled, "{destination}");
    bencher.bench_local(|| black_box(route()));
}

fn pod_ip(of: u32) -> IpAddr {
    let [_, high, middle, low] = of.to_be_bytes();
    [10, high, middle, low].into()
}

fn vip(of: u32) -> IpAddr {
    let [.., middle, low] = of.to_be_bytes();
    [172, 16, middle, low].into()
}

fn service_key(of: u32) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: arcstr::format!("s{of}.shop.svc") }
}

fn source() -> LocalPod {
    let IpAddr::V4(ip4) = pod_ip(0) else { unreachable!("pods have IPv4 addresses") };
    LocalPod {
        uid: PodUid("uid".into()),
        namespace: "shop".into(),
        name: "pod0".into(),
        account: Account::new("shop", "web").unwrap(),
        ip4: Some(ip4),
        ip6: None,
        exclusions: Exclusions::default(),
    }
}

fn mesh(workloads: u32) -> Arc<Mesh> {
    let port = || Port { service_port: 80, target_port: Some(8080) };
    let pods = (0..workloads).map(|of| {
        let name = format!("pod{of}");
        let mut pod = Workload::pod("c", "shop", &name, "web", pod_ip(of)).unwrap();
        pod.services.insert(service_key(of / ENDPOINTS), vec![port()]);
        MeshEvent::Workload(Arc::new(pod))
    });
    let services = (0..workloads.div_ceil(ENDPOINTS)).map(|of| {
        MeshEvent::Service(Arc::new(Service {
            name: arcstr::format!("s{of}"),
            key: service_key(of),
            vips: vec![NetworkAddress::new("", vip(of))],
            cidr_vips: vec![],
            ports: vec![port()],
            subject_alt_names: vec![],
            waypoint: None,
            weighted_waypoints: vec![],
            load_balancing: LoadBalancing::default(),
            canonical: true,
            families: Families::default(),
            visibility: Visibility::default(),
        }))
    });
    let (mut store, reader) = Store::new();
    store.apply(services.chain(pods));
    reader.load()
}
