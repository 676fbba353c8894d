//! What nodes are told of a service's endpoints, from Kubernetes' objects: the same as kube-proxy makes of them.

use prost::Message;
use serde_json::{Value, json};
use sotto_proto::workload::{
    Address, LoadBalancing, Service as Wire, Workload, WorkloadStatus, address::Type,
    load_balancing::HealthPolicy,
};

use super::super::super::model::{Change, Event};
use super::super::super::snapshot::index::Index;
use super::super::super::snapshot::{Settings, Snapshot};
use super::*;

const DB: &str = "shop/db.shop.svc.cluster.local";

/// What is told when these are all the objects there are.
fn told(objects: impl IntoIterator<Item = Value>) -> Snapshot {
    let mut index = Index::new(Settings {
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
    });
    for object in objects {
        apply(&mut index, object);
    }
    index.snapshot()
}

fn apply(index: &mut Index, object: Value) {
    fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
        serde_json::from_value(object).unwrap()
    }
    index.apply(match object["kind"].as_str().unwrap() {
        "Pod" => Event::Pod(Change::Apply(pod(read(object)).unwrap())),
        "Service" => Event::Service(Change::Apply(service(read(object)).unwrap())),
        "Node" => Event::Node(Change::Apply(node(read(object)).unwrap())),
        "EndpointSlice" => Event::Slice(Change::Apply(slice(read(object)).unwrap())),
        kind => panic!("{kind}"),
    });
}

fn messages(snapshot: &Snapshot) -> impl Iterator<Item = Type> {
    snapshot.addresses.values().map(|e| Address::decode(&*e.body).unwrap().r#type.unwrap())
}

fn wire(snapshot: &Snapshot) -> Wire {
    let found = messages(snapshot).find_map(|message| match message {
        Type::Service(service) if service.name == "db" => Some(service),
        _ => None,
    });
    found.unwrap()
}

/// Who gets connections to the service, with the port behind its port 5432.
fn endpoints(snapshot: &Snapshot) -> Vec<(String, u32)> {
    let service = wire(snapshot);
    let anyone = service
        .load_balancing
        .as_ref()
        .is_some_and(|balancing| balancing.health_policy() == HealthPolicy::AllowAll);
    let own = service.ports.iter().find(|port| port.service_port == 5432).map(|p| p.target_port);
    let serves = |workload: Workload| {
        let ports = workload.services.get(DB)?;
        let told = ports.ports.iter().find(|port| port.service_port == 5432);
        let port = told.map(|port| port.target_port).or(own).filter(|port| *port != 0)?;
        let address = workload.addresses.first().map(|bytes| address_of(bytes))?;
        let usable = anyone || workload.status() == WorkloadStatus::Healthy;
        usable.then_some((address, port))
    };
    let mut found: Vec<_> = messages(snapshot)
        .filter_map(|message| match message {
            Type::Workload(workload) => serves(workload),
            Type::Service(_) => None,
        })
        .collect();
    found.sort();
    found
}

fn address_of(bytes: &[u8]) -> String {
    IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()).to_string()
}

/// A pod: `state` is `ready`, `waiting`, `leaving` (still ready) or `gone` (leaving, no longer ready).
fn pod_of(namespace: &str, name: &str, ip: &str, state: &str) -> Value {
    let ready = matches!(state, "ready" | "leaving");
    let mut pod = json!({
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "uid": name, "labels": { "app": "db" },
                      "annotations": { "ambient.istio.io/redirection": "enabled" } },
        "spec": { "nodeName": format!("node-of-{name}"), "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
                    "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
    });
    if matches!(state, "leaving" | "gone") {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

fn service_of(extra: Value) -> Value {
    let mut spec = json!({
        "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
        "ports": [{ "name": "sql", "port": 5432, "targetPort": 5432 }],
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({ "kind": "Service", "metadata": { "name": "db", "namespace": "shop" }, "spec": spec })
}

fn with_selector(mut extra: Value) -> Value {
    extra["selector"] = json!({ "app": "db" });
    service_of(extra)
}

fn by_hand(endpoints: Value) -> Value {
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": { "name": "db-1", "namespace": "shop",
                      "labels": { "kubernetes.io/service-name": "db" } },
        "ports": [{ "name": "sql", "port": 6432 }],
    })
}

fn to_pod(namespace: &str, name: &str, ip: &str, ready: bool) -> Value {
    json!({ "addresses": [ip], "conditions": { "ready": ready },
            "targetRef": { "kind": "Pod", "name": name, "namespace": namespace } })
}

#[track_caller]
fn check(objects: &[Value], expected: &[(&str, u32)]) {
    let expected: Vec<_> = expected.iter().map(|(ip, port)| ((*ip).to_owned(), *port)).collect();
    assert_eq!(endpoints(&told(objects.to_vec())), expected);
    // In whichever order they come, one by one.
    for turn in 0..objects.len() {
        let mut order = objects.to_vec();
        order.rotate_left(turn);
        let mut index = Index::new(Settings {
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
        });
        let mut last = Snapshot::default();
        for object in order {
            apply(&mut index, object);
            last = index.snapshot();
        }
        assert_eq!(endpoints(&last), expected, "in another order, by {turn}");
    }
}

#[test]
fn what_a_hand_made_slice_fences_off_gets_nothing_though_its_pod_is_ready() {
    let (a, b) =
        (pod_of("shop", "a", "10.1.0.1", "ready"), pod_of("shop", "b", "10.1.0.2", "ready"));
    let slice = by_hand(json!([
        to_pod("shop", "a", "10.1.0.1", false),
        to_pod("shop", "b", "10.1.0.2", true)
    ]));
    check(&[a, b, service_of(json!({})), slice], &[("10.1.0.2", 6432)]);
}

#[test]
fn what_a_hand_made_slice_calls_ready_is_used_though_its_pod_is_not() {
    let leader = pod_of("shop", "a", "10.1.0.1", "waiting");
    let slice = by_hand(json!([to_pod("shop", "a", "10.1.0.1", true)]));
    check(&[leader, service_of(json!({})), slice], &[("10.1.0.1", 6432)]);
}

#[test]
fn a_slice_may_name_a_pod_of_another_namespace() {
    let activator = pod_of("knative", "activator", "10.1.0.9", "ready");
    let slice = by_hand(json!([to_pod("knative", "activator", "10.1.0.9", true)]));
    check(&[activator, service_of(json!({})), slice], &[("10.1.0.9", 6432)]);
}

#[test]
fn an_endpoint_is_whoever_has_its_address_whatever_is_said_of_it() {
    let pod = pod_of("shop", "a", "10.1.0.1", "ready");
    let bare = by_hand(json!([{ "addresses": ["10.1.0.1"] }]));
    let snapshot = told([pod.clone(), service_of(json!({})), bare]);
    assert_eq!(endpoints(&snapshot), [("10.1.0.1".to_owned(), 6432)]);
    assert_eq!(messages(&snapshot).count(), 2, "the pod and the service, and no second workload");
    // One that names a pod and gives another's address leads to that address.
    let elsewhere = by_hand(json!([to_pod("shop", "a", "192.0.2.7", true)]));
    let snapshot = told([pod, service_of(json!({})), elsewhere]);
    assert_eq!(endpoints(&snapshot), [("192.0.2.7".to_owned(), 6432)]);
}

#[test]
fn an_endpoint_of_a_pod_that_is_not_known_yet_waits_for_it() {
    // Nobody knows how it would have to be reached.
    let slice = by_hand(json!([to_pod("shop", "a", "10.1.0.1", true)]));
    check(&[service_of(json!({})), slice], &[]);
}

#[test]
fn an_endpoint_outside_is_used_while_it_is_ready() {
    let slice = by_hand(json!([
        { "addresses": ["192.0.2.1"] },
        { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
    ]));
    check(&[service_of(json!({})), slice], &[("192.0.2.1", 6432)]);
}

#[test]
fn slices_that_a_controller_makes_of_a_selector_say_nothing_new() {
    let pod = pod_of("shop", "a", "10.1.0.1", "ready");
    let mut slice = by_hand(json!([to_pod("shop", "a", "10.1.0.1", false)]));
    slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
        json!("endpointslice-controller.k8s.io");
    check(&[pod.clone(), with_selector(json!({})), slice.clone()], &[("10.1.0.1", 5432)]);
    // Without the selector they are what is left.
    check(&[pod, service_of(json!({})), slice], &[]);
}

#[test]
fn a_hand_made_slice_adds_to_what_is_selected() {
    let (a, b) =
        (pod_of("shop", "a", "10.1.0.1", "ready"), pod_of("shop", "b", "10.1.0.2", "waiting"));
    let slice = by_hand(json!([{ "addresses": ["192.0.2.1"] }]));
    check(&[a, b, with_selector(json!({})), slice], &[("10.1.0.1", 5432), ("192.0.2.1", 6432)]);
}

#[test]
fn pods_that_are_leaving_serve_on_where_no_other_is_left() {
    let leaving = pod_of("shop", "a", "10.1.0.1", "leaving");
    let gone = pod_of("shop", "b", "10.1.0.2", "gone");
    let both = [leaving.clone(), gone.clone(), with_selector(json!({}))];
    check(&both, &[("10.1.0.1", 5432)]);
    let fresh = pod_of("shop", "c", "10.1.0.3", "ready");
    check(&[leaving, gone, fresh, with_selector(json!({}))], &[("10.1.0.3", 5432)]);
}

#[test]
fn endpoints_of_a_slice_that_are_leaving_serve_on_where_no_other_is_left() {
    let end = |ip: &str, conditions: Value| json!({ "addresses": [ip], "conditions": conditions });
    let leaving = end("192.0.2.1", json!({ "ready": false, "serving": true, "terminating": true }));
    let gone = end("192.0.2.2", json!({ "ready": false, "serving": false, "terminating": true }));
    let off = end("192.0.2.3", json!({ "ready": false, "serving": true }));
    let all = by_hand(json!([leaving, gone, off]));
    check(&[service_of(json!({})), all], &[("192.0.2.1", 6432)]);
}

#[test]
fn with_local_traffic_only_those_that_leave_are_for_each_node_to_fall_back_on() {
    let policy = json!({ "internalTrafficPolicy": "Local" });
    let (a, b) =
        (pod_of("shop", "a", "10.1.0.1", "leaving"), pod_of("shop", "b", "10.1.0.2", "ready"));
    check(&[a, b, with_selector(policy)], &[("10.1.0.1", 5432), ("10.1.0.2", 5432)]);
}

#[test]
fn endpoints_that_are_not_ready_are_published_where_that_is_asked_for() {
    let it = json!({ "publishNotReadyAddresses": true });
    let (a, b) =
        (pod_of("shop", "a", "10.1.0.1", "waiting"), pod_of("shop", "b", "10.1.0.2", "gone"));
    check(&[a, b, with_selector(it)], &[("10.1.0.1", 5432), ("10.1.0.2", 5432)]);
}

fn node_of(name: &str, ip: &str, zone: &str) -> Value {
    json!({
        "kind": "Node",
        "metadata": { "name": name, "labels": {
            "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone,
            "topology.istio.io/subzone": "s" } },
        "status": { "addresses": [
            { "type": "InternalIP", "address": ip }, { "type": "Hostname", "address": name } ] },
    })
}

fn balanced(mode: Value, extra: Value) -> Value {
    let mut service = with_selector(extra);
    service["status"] =
        json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.5", "ipMode": mode }] } });
    service
}

#[track_caller]
fn check_addresses(objects: &[Value], expected: &[&str]) {
    let addresses = wire(&told(objects.to_vec())).addresses;
    let found: Vec<_> = addresses.iter().map(|at| address_of(&at.address)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_balancer_s_address_is_the_service_s_only_where_kubernetes_says_so_and_no_node_has_it() {
    let vip = || balanced(json!("VIP"), json!({}));
    check_addresses(&[balanced(Value::Null, json!({}))], &["10.96.0.1"]);
    check_addresses(&[balanced(json!("Proxy"), json!({}))], &["10.96.0.1"]);
    check_addresses(&[vip()], &["10.96.0.1", "203.0.113.5"]);
    let node = || node_of("n", "203.0.113.5", "z");
    check_addresses(&[vip(), node()], &["10.96.0.1"]);
    check_addresses(&[node(), vip()], &["10.96.0.1"]);
    // Local endpoints only are what the cluster's own address asks for, not the balancer's.
    let local = balanced(json!("VIP"), json!({ "internalTrafficPolicy": "Local" }));
    check_addresses(&[local], &["10.96.0.1"]);
}

#[test]
fn an_external_address_is_not_the_service_s_on_every_port() {
    check_addresses(&[with_selector(json!({ "externalIPs": ["198.51.100.1"] }))], &["10.96.0.1"]);
}

fn balancing(extra: Value) -> Option<LoadBalancing> {
    wire(&told([with_selector(extra)])).load_balancing
}

#[test]
fn endpoints_that_are_near_are_preferred_where_that_is_asked_for() {
    use sotto_proto::workload::load_balancing::{Mode, Scope};
    let failover = |scopes: &[Scope]| LoadBalancing {
        mode: Mode::Failover.into(),
        routing_preference: scopes.iter().map(|scope| (*scope).into()).collect(),
        ..LoadBalancing::default()
    };
    let zone = failover(&[Scope::Network, Scope::Region, Scope::Zone]);
    let node = failover(&[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node]);
    let wish = |value: &str| json!({ "trafficDistribution": value });
    assert_eq!(balancing(wish("PreferClose")), Some(zone.clone()));
    assert_eq!(balancing(wish("PreferSameZone")), Some(zone.clone()));
    assert_eq!(balancing(wish("PreferSameNode")), Some(node));
    assert_eq!(balancing(wish("Else")), None);
    let mut annotated = with_selector(json!({}));
    annotated["metadata"]["annotations"] =
        json!({ "networking.istio.io/traffic-distribution": "preferclose" });
    assert_eq!(wire(&told([annotated])).load_balancing, Some(zone));
}

#[test]
fn a_pod_is_where_its_node_is() {
    let node = node_of("node-of-a", "10.0.0.1", "z1");
    for objects in [
        [pod_of("shop", "a", "10.1.0.1", "ready"), node.clone()],
        [node.clone(), pod_of("shop", "a", "10.1.0.1", "ready")],
    ] {
        let found = messages(&told(objects)).find_map(|message| match message {
            Type::Workload(workload) => workload.locality,
            Type::Service(_) => None,
        });
        let found = found.unwrap();
        assert_eq!((&*found.region, &*found.zone, &*found.subzone), ("r", "z1", "s"));
    }
}
