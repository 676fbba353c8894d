//! Names that a pod's own resolver does not know, and the mesh does.

use kit::cluster::ClusterOptions;
use sotto_proto::workload::{NetworkAddress, Port, PortList, Service, Workload};

use super::bench::Bench;
use super::script::{Script, workload};

const CLIENT: (&str, &str) = ("front", "client");
const HOSTNAME: &str = "only.mesh.example";
const URL: &str = "http://only.mesh.example/get";
/// As the kubelet writes it in a cluster; where no resolver is. (Those of the kit's pods ask `lo`, which is nobody's
/// business.)
const RESOLVER: &str = "kubectl exec -n front deploy/client -- sh -c 'printf \"%s\\n\" \
    \"search front.svc.cluster.local svc.cluster.local cluster.local\" \"nameserver 10.96.0.10\" \
    \"options ndots:5 timeout:1 attempts:1\" > /etc/resolv.conf'";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_name_only_the_mesh_knows_is_reached_by_it() {
    let agent_flags = vec![String::from("--dns-capture")];
    let options = ClusterOptions { agent_flags, ..ClusterOptions::default() };
    let mut bench = Bench::streams_with(options).await;
    bench.shell(RESOLVER).await;
    // Could not resolve host.
    assert_eq!(bench.curl(CLIENT, URL).await, "exit 6");

    let client = bench.cluster.pod_of("front", "client").await.unwrap();
    let web = bench.cluster.pod_of("back", "web").await.unwrap();
    let mut script = Script::take(&mut bench, 1).await;
    let port = Port { service_port: 80, target_port: 8000, ..Port::default() };
    let ports = PortList { ports: vec![port] };
    let backing =
        Workload { services: [(format!("back/{HOSTNAME}"), ports)].into(), ..workload(&web, &[]) };
    script.workloads(vec![workload(&client, &[]), backing]).await;
    let vip = NetworkAddress { address: vec![240, 240, 0, 1], ..NetworkAddress::default() };
    let service = Service {
        name: "only".into(),
        namespace: "back".into(),
        hostname: HOSTNAME.into(),
        addresses: vec![vip],
        ports: vec![port],
        ..Service::default()
    };
    script.services(vec![service]).await;
    script.policies(vec![]).await;

    bench.shows(CLIENT, URL, "200").await;
    let line = bench.logged(1, "dst.service=\"only.mesh.example\"").await;
    assert!(line.contains("dst.identity=\"spiffe://cluster.local/ns/back/sa/"), "{line}");
}
