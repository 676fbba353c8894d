use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::authorize::Request;
use crate::mesh::local::Exclusions;
use crate::mesh::{Given, LocalPod, MeshEvent, PodUid, PolicyKey, ResourceKind, Store};

const STRICT: &str = "istio_converted_static_strict";

fn workload(namespace: &str, name: &str, last: u8, strict: bool) -> Workload {
    let mut workload =
        Workload::pod("c", namespace, &format!("{name}-x1"), name, [10, 0, 0, last].into())
            .unwrap();
    workload.workload_name = name.into();
    workload.node = arcstr::format!("node{last}");
    if strict {
        workload.authorization_policies =
            vec![PolicyKey { namespace: "istio-system".into(), name: STRICT.into() }].into();
    }
    workload
}

fn mesh(workloads: Vec<Workload>) -> Arc<Mesh> {
    let (mut store, reader) = Store::on(Given { node: "node2".into(), ..Given::default() });
    store.apply(workloads.into_iter().map(|workload| MeshEvent::Workload(Arc::new(workload))));
    store.set_synced(ResourceKind::Address);
    store.set_synced(ResourceKind::Authorization);
    reader.load()
}

/// `legacy/sleep` calling `bookinfo/details`, as a thread counted it.
fn peer(pod: &str) -> PlaintextPeer {
    let pod = LocalPod {
        uid: PodUid(pod.into()),
        namespace: "bookinfo".into(),
        name: pod.into(),
        account: workload("bookinfo", "details", 2, false).identity.account().clone(),
        ip4: Some([10, 0, 0, 2].into()),
        ip6: None,
        exclusions: Exclusions::default(),
    };
    PlaintextPeer {
        pod: Arc::new(pod),
        workload: Some("details".into()),
        client: Some(("legacy".into(), "sleep".into())),
        request: Request {
            source_ip: [10, 0, 0, 4].into(),
            source: None,
            destination: "10.0.0.2:9080".parse().unwrap(),
        },
        tally: Tally { open: 1, total: 2, denied: 3 },
        last_seen: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
        last_opened: SystemTime::UNIX_EPOCH + Duration::from_secs(6),
    }
}

fn ask(mesh: &Mesh, namespace: Option<&str>, peers: Vec<PlaintextPeer>) -> Answer {
    let others = Tally { open: 0, total: 1, denied: 0 };
    let threads = vec![PlaintextPeers { peers, others }, PlaintextPeers::default()];
    answer(mesh, "node2", namespace, threads).unwrap()
}

#[test]
fn a_plaintext_client_is_told_by_its_workload() {
    let mesh = mesh(vec![workload("bookinfo", "details", 2, false)]);
    let answer = ask(&mesh, Some("bookinfo"), vec![peer("details-x1"), peer("details-x1")]);
    let expected = Client {
        destination: "bookinfo/details".into(),
        port: 9080,
        client: "legacy/sleep".into(),
        client_enrolled: false,
        client_ips: BTreeSet::new(),
        opened: BTreeMap::from([([10, 0, 0, 4].into(), 6000)]),
        counts: Counts { open: 2, total: 4, denied: 6 },
        last_seen: 7,
        denied_by: None,
        passes_since: None,
    };
    assert_eq!(answer.clients, [expected]);
    assert_eq!(answer.enrolled, BTreeMap::from([("node2".to_owned(), 1)]));
    assert_eq!(answer.others.total, 1);
}

#[test]
fn a_client_that_policy_keeps_out_is_listed_as_denied() {
    let mesh = mesh(vec![workload("bookinfo", "details", 2, true)]);
    let clients = ask(&mesh, None, vec![peer("details-x1")]).clients;
    let why = format!("explicitly denied by: istio-system/{STRICT}");
    assert_eq!(clients[0].denied_by, Some(why));
}

#[test]
fn a_row_is_denied_only_if_all_of_it_is() {
    let one = |denied_by: Option<&str>| {
        let mesh = mesh(vec![workload("bookinfo", "details", 2, false)]);
        let client = ask(&mesh, None, vec![peer("details-x1")]).clients.remove(0);
        Client { denied_by: denied_by.map(str::to_owned), ..client }
    };
    assert_eq!(merged([one(Some("a")), one(None)])[0].denied_by, None);
    assert_eq!(merged([one(None), one(Some("a"))])[0].denied_by, None);
    assert_eq!(merged([one(Some("a")), one(Some("a"))])[0].denied_by.as_deref(), Some("a"));
}

#[test]
fn a_pod_that_is_gone_counts_while_a_replica_of_it_is_there() {
    let there = mesh(vec![workload("bookinfo", "details", 2, false)]);
    assert_eq!(ask(&there, None, vec![peer("details-old")]).clients.len(), 1);
    let gone = mesh(vec![workload("bookinfo", "reviews", 2, false)]);
    assert_eq!(ask(&gone, None, vec![peer("details-old")]).clients, []);
}

#[test]
fn other_namespaces_are_left_out() {
    let mesh = mesh(vec![
        workload("bookinfo", "details", 2, false),
        Workload { protocol: TunnelProtocol::Tcp, ..workload("legacy", "sleep", 4, false) },
    ]);
    let answer = ask(&mesh, Some("legacy"), vec![peer("details-x1")]);
    assert_eq!((answer.clients, answer.enrolled), (vec![], BTreeMap::new()));
    assert_eq!(answer.not_enrolled, ["legacy/sleep-x1"]);
}

#[test]
fn nothing_is_told_before_the_mesh_is_known() {
    let asked = answer(&Mesh::default(), "node1", None, vec![]);
    assert_eq!(asked.unwrap_err().status, 503);
}

#[test]
fn a_client_is_enrolled_with_all_its_replicas_or_not() {
    let replica = |pod: &str, last: u8, protocol| {
        let mut workload = workload("legacy", "sleep", last, false);
        workload.uid = crate::mesh::WorkloadUid(pod.into());
        Workload { protocol, ..workload }
    };
    let check = |replicas: Vec<Workload>, enrolled: bool, ips: &[u8]| {
        let mut all = vec![workload("bookinfo", "details", 2, false)];
        all.extend(replicas);
        let client = ask(&mesh(all), None, vec![peer("details-x1")]).clients.remove(0);
        let ips: BTreeSet<IpAddr> = ips.iter().map(|ip| IpAddr::from([10, 0, 0, *ip])).collect();
        assert_eq!((client.client_enrolled, client.client_ips), (enrolled, ips));
    };
    let (hbone, tcp) = (TunnelProtocol::Hbone, TunnelProtocol::Tcp);
    check(vec![replica("a", 4, hbone), replica("b", 5, hbone)], true, &[4, 5]);
    check(vec![replica("a", 4, hbone), replica("b", 5, tcp)], false, &[4, 5]);
    check(vec![replica("a", 4, tcp)], false, &[4]);
    check(vec![], false, &[]);
    // The address alone is no proof: another's pod may have it by now.
    check(vec![Workload { workload_name: "other".into(), ..replica("a", 4, hbone) }], false, &[]);
    let host = Workload { host_network: true, ..replica("a", 4, hbone) };
    check(vec![host], false, &[4]);
}
