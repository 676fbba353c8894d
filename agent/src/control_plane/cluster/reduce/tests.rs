use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn pod_json(phase: &str) -> Value {
    json!({
        "metadata": {
            "name": "details-x", "namespace": "bookinfo", "uid": "u1",
            "labels": { "app": "details" },
            "annotations": { "ambient.istio.io/redirection": "enabled" },
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Other", "name": "o", "uid": "1" },
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "details", "uid": "2",
                  "controller": true },
            ],
        },
        "spec": {
            "nodeName": "n1", "serviceAccountName": "details",
            "containers": [{ "name": "c", "ports": [
                { "name": "http", "containerPort": 9080 },
                { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                { "containerPort": 1 },
            ]}],
            "initContainers": [{ "name": "s", "ports": [{ "name": "side", "containerPort": 99 }] }],
        },
        "status": {
            "phase": phase, "podIP": "10.244.1.2",
            "podIPs": [{ "ip": "10.244.1.2" }, { "ip": "fd00::2" }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

#[test]
fn pod_is_reduced() {
    let found = pod(object(pod_json("Running"))).unwrap();
    let expected = Pod {
        key: ObjectKey::new("bookinfo", "details-x"),
        uid: "u1".into(),
        addresses: vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        labels: [("app".to_owned(), "details".to_owned())].into(),
        service_account: "details".into(),
        node: "n1".into(),
        host_network: false,
        ready: true,
        leaving: false,
        terminal: false,
        redirected: true,
        owner: Some(Owner { kind: "ReplicaSet".to_owned(), name: "details".to_owned() }),
        ports: [("http".to_owned(), 9080), ("side".to_owned(), 99)].into(),
    };
    assert_eq!(found, expected);
}

#[test]
fn failed_pods_do_not_count_and_ended_ones_are_terminal() {
    assert_eq!(pod(object(pod_json("Failed"))), None);
    assert!(pod(object(pod_json("Succeeded"))).unwrap().terminal);
}

#[test]
fn a_pod_being_deleted_or_not_ready_is_unhealthy() {
    let mut deleting = pod_json("Running");
    deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(!pod(object(deleting)).unwrap().healthy());
    let mut waiting = pod_json("Running");
    waiting["status"]["conditions"][0]["status"] = json!("False");
    assert!(!pod(object(waiting)).unwrap().healthy());
}

#[test]
fn redirection_must_be_enabled() {
    let mut pending = pod_json("Running");
    pending["metadata"]["annotations"]["ambient.istio.io/redirection"] = json!("pending");
    assert!(!pod(object(pending)).unwrap().redirected);
}

#[test]
fn a_bare_pod_is_reduced() {
    let found = pod(object(json!({ "metadata": { "name": "p", "namespace": "n" } }))).unwrap();
    assert_eq!(found.service_account, "default");
    assert!(found.addresses.is_empty() && !found.healthy() && !found.redirected);
}

#[test]
fn mapped_addresses_are_made_canonical() {
    let mut mapped = pod_json("Running");
    mapped["status"]["podIPs"] = json!([{ "ip": "::ffff:10.244.1.2" }]);
    assert_eq!(pod(object(mapped)).unwrap().addresses, ["10.244.1.2".parse::<IpAddr>().unwrap()]);
}

fn service_json(spec: Value) -> Value {
    json!({ "metadata": { "name": "s", "namespace": "n" }, "spec": spec })
}

#[test]
fn service_is_reduced() {
    let found = service(object(json!({
        "metadata": { "name": "s", "namespace": "n" },
        "spec": {
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ipFamilies": ["IPv4", "IPv6"],
            "selector": { "app": "a" },
            "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "trafficDistribution": "PreferSameNode", "publishNotReadyAddresses": true,
            "ports": [
                { "name": "a", "port": 80, "targetPort": 8080 },
                { "name": "b", "port": 81, "targetPort": "http", "protocol": "TCP" },
                { "name": "c", "port": 82 },
                { "name": "d", "port": 83, "protocol": "UDP" },
            ],
        },
        "status": { "loadBalancer": { "ingress": [
            { "ip": "192.0.2.1", "ipMode": "VIP" }, { "ip": "192.0.2.2", "ipMode": "Proxy" }, { "hostname": "x" },
        ]}},
    })))
    .unwrap();
    let port = |name: &str, port, target| ServicePort { name: name.to_owned(), port, target };
    let expected = Service {
        key: ObjectKey::new("n", "s"),
        selector: Some([("app".to_owned(), "a".to_owned())].into()),
        addresses: ["10.96.0.7", "fd00::7"].map(|ip| ip.parse().unwrap()).to_vec(),
        balancers: vec!["192.0.2.1".parse().unwrap()],
        ports: vec![
            port("a", 80, TargetPort::Number(8080)),
            port("b", 81, TargetPort::Name("http".to_owned())),
            port("c", 82, TargetPort::Number(82)),
        ],
        families: Families::Dual,
        publish_not_ready: true,
        node_local: true,
        distribution: Distribution::SameNode,
        sticky: true,
    };
    assert_eq!(found, expected);
}

#[test]
fn headless_and_external_services() {
    let headless = json!({ "clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"] });
    let found = service(object(service_json(headless))).unwrap();
    assert_eq!((found.addresses.len(), found.selector, found.families), (0, None, Families::Ip6));
    let external = json!({ "type": "ExternalName", "externalName": "example.org" });
    assert_eq!(service(object(service_json(external))), None);
}

#[test]
fn slice_is_reduced() {
    let value = |kind: &str| {
        json!({
            "metadata": { "name": "s-1", "namespace": "n",
                          "labels": { "kubernetes.io/service-name": "s" } },
            "addressType": kind,
            "endpoints": [
                { "addresses": ["10.0.0.1"], "conditions": { "ready": true }, "nodeName": "n1",
                  "targetRef": { "kind": "Pod", "name": "p" } },
                { "addresses": ["10.0.0.4"], "conditions": { "serving": false, "terminating": true },
                  "targetRef": { "kind": "Pod", "name": "p", "namespace": "other" } },
                { "addresses": ["10.0.0.2"], "conditions": {} },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false },
                  "targetRef": { "kind": "Node", "name": "x" } },
            ],
            "ports": [{ "name": "http", "port": 8080 }, { "name": "u", "port": 1, "protocol": "UDP" }],
        })
    };
    let endpoint = |address: &str, ready, pod: Option<&str>, node: &str| Endpoint {
        addresses: vec![address.parse().unwrap()],
        ready,
        serving: true,
        leaving: false,
        pod: pod.map(|name| ObjectKey::new("n", name)),
        node: node.into(),
    };
    let expected = Slice {
        key: ObjectKey::new("n", "s-1"),
        service: "s".into(),
        endpoints: vec![
            endpoint("10.0.0.1", true, Some("p"), "n1"),
            Endpoint {
                serving: false,
                leaving: true,
                pod: Some(ObjectKey::new("other", "p")),
                ..endpoint("10.0.0.4", true, None, "")
            },
            endpoint("10.0.0.2", true, None, ""),
            endpoint("10.0.0.3", false, None, ""),
        ],
        ports: [("http".to_owned(), 8080)].into(),
        managed: false,
    };
    assert_eq!(slice(object(value("IPv4"))), Some(expected));
    assert_eq!(slice(object(value("FQDN"))), None);
}
