//! Where a node is, by what is told of its pods.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::mesh::{Account, MeshEvent, PodUid, SpiffeId, Store, WorkloadUid};

/// A pod of node `n1` in a mesh of names of its own.
fn corp(name: &str, last: u8) -> Workload {
    let mut workload =
        Workload::pod("east", "shop", name, "web", IpAddr::from([10, 0, 0, last])).unwrap();
    workload.node = "n1".into();
    workload.network = "net1".into();
    workload.identity = SpiffeId::new("corp", "shop", "web").unwrap();
    workload
}

fn given() -> Given {
    let agent = Some(("shop".into(), "agent".into()));
    Given { node: "n1".into(), agent, ..Given::default() }
}

fn local(name: &str, last: u8) -> LocalPod {
    LocalPod {
        uid: PodUid("u".into()),
        namespace: "shop".into(),
        name: name.into(),
        account: Account::new("shop", "web").unwrap(),
        ip4: Some(Ipv4Addr::new(10, 0, 0, last)),
        ip6: None,
        exclusions: Default::default(),
    }
}

fn told(given: Given, workloads: &[Workload]) -> Result<Arc<Home>, HomeUnknown> {
    let (mut store, reader) = Store::on(given);
    store.apply(workloads.iter().cloned().map(|workload| MeshEvent::Workload(Arc::new(workload))));
    let mesh = reader.load();
    mesh.home().cloned().map_err(Clone::clone)
}

fn home(cluster: &str, network: &str, domain: &str) -> Home {
    Home {
        cluster_id: cluster.into(),
        network: network.into(),
        trust_domain: TrustDomain::new(domain).unwrap(),
    }
}

fn check(given: Given, workloads: &[Workload], expected: Home) {
    assert_eq!(told(given, workloads), Ok(Arc::new(expected)));
}

fn refused(given: Given, workloads: &[Workload], words: &[&str]) {
    let error = told(given, workloads).unwrap_err().to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
}

#[test]
fn cluster_network_and_trust_domain_are_those_of_the_node_s_pods() {
    let elsewhere = Workload { node: "n2".into(), ..Workload::clone(&corp("b", 2)) };
    let elsewhere = Workload { network: "net2".into(), ..elsewhere };
    check(given(), &[elsewhere, corp("a", 1)], home("east", "net1", "corp"));
    refused(given(), &[], &["no pod of node \"n1\""]);
}

#[test]
fn what_is_told_of_the_agent_s_own_pod_counts_more_than_what_is_told_of_others() {
    let odd = Workload { network: "vm".into(), ..corp("a", 1) };
    check(given(), &[odd.clone(), corp("agent", 2)], home("east", "net1", "corp"));
    refused(given(), &[odd, corp("b", 3)], &["networks", "\"vm\"", "\"net1\"", "--network"]);
}

#[test]
fn what_the_agent_is_told_must_be_what_the_control_plane_says() {
    let wrong = Given { network: Some("".into()), ..given() };
    refused(wrong, &[corp("a", 1)], &["--network is \"\"", "shop/a", "\"net1\""]);
    let domain = TrustDomain::new("cluster.local").ok();
    let wrong = Given { trust_domain: domain, ..given() };
    refused(wrong, &[corp("a", 1)], &["--trust-domain", "\"cluster.local\"", "\"corp\""]);
    let wrong = Given { cluster_id: Some("Kubernetes".into()), ..given() };
    refused(wrong, &[corp("a", 1)], &["--cluster-id", "\"Kubernetes\"", "\"east\""]);
    let right = Given { cluster_id: Some("east".into()), ..given() };
    check(right, &[corp("a", 1)], home("east", "net1", "corp"));
}

#[test]
fn an_agent_that_is_told_everything_need_not_wait_for_a_record() {
    let all = Given {
        cluster_id: Some("c".into()),
        network: Some("n".into()),
        trust_domain: TrustDomain::new("d").ok(),
        ..given()
    };
    check(all, &[], home("c", "n", "d"));
}

#[test]
fn a_node_of_the_same_name_in_another_cluster_is_another() {
    let mut other = corp("a", 1);
    other.uid = WorkloadUid("west//Pod/shop/a".into());
    other.cluster_id = "west".into();
    refused(given(), &[corp("a", 1), other.clone()], &["cluster ids", "\"west\"", "--cluster-id"]);
    let east = Given { cluster_id: Some("east".into()), ..given() };
    let (mut store, reader) = Store::on(east);
    store.apply([corp("a", 1), other].map(|workload| MeshEvent::Workload(Arc::new(workload))));
    let mesh = reader.load();
    assert_eq!(mesh.workload_of(&local("a", 1)).unwrap().cluster_id, "east");
}

#[test]
fn a_pod_is_known_by_name_and_address_on_whatever_network() {
    let (mut store, reader) = Store::on(given());
    store.apply([MeshEvent::Workload(Arc::new(corp("a", 1)))]);
    assert!(reader.load().workload_of(&local("a", 1)).is_some());
    // The one before it of the same name.
    assert!(reader.load().workload_of(&local("a", 2)).is_none());
    assert!(reader.load().workload_of(&local("b", 1)).is_none());
    store.apply([MeshEvent::Workload(Arc::new(corp("a", 2)))]);
    assert!(reader.load().workload_of(&local("a", 1)).is_none());
    assert!(reader.load().workload_of(&local("a", 2)).is_some());
}

#[test]
fn a_node_stays_where_it_is_when_its_last_pod_goes() {
    let (mut store, reader) = Store::on(given());
    let pod = corp("a", 1);
    store.apply([MeshEvent::Workload(Arc::new(pod.clone()))]);
    store.apply([MeshEvent::RemoveWorkload(pod.uid)]);
    assert_eq!(reader.load().home().cloned(), Ok(Arc::new(home("east", "net1", "corp"))));
    assert!(reader.load().workload_of(&local("a", 1)).is_none());
    // Told of others, it is where those are.
    let moved = Workload { network: "net2".into(), ..corp("b", 2) };
    store.apply([MeshEvent::Workload(Arc::new(moved))]);
    assert_eq!(reader.load().home().cloned(), Ok(Arc::new(home("east", "net2", "corp"))));
}

#[test]
fn who_waits_for_a_pod_is_woken_when_it_becomes_known_where_the_node_is() {
    let (mut store, reader) = Store::on(given());
    let changes = reader.changes_for(&"shop".into(), &"a".into());
    store.apply([MeshEvent::Workload(Arc::new(corp("b", 2)))]);
    assert!(changes.has_changed().unwrap());
}
