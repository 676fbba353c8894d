use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::enroll::facts::NamespaceFacts;

fn facts(metadata: &Value, spec: &Value, status: &Value) -> PodFacts {
    let mut object = json!({
        "metadata": { "name": "web-0", "namespace": "shop", "uid": "u-1" },
        "spec": { "containers": [], "serviceAccountName": "web" },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.244.1.7" }], "podIP": "10.244.1.7" },
    });
    merge(&mut object["metadata"], metadata);
    merge(&mut object["spec"], spec);
    merge(&mut object["status"], status);
    let pod: Pod = serde_json::from_value(object).expect("a pod");
    PodFacts::new(&pod).expect("facts")
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn namespace(label: Option<&str>) -> Option<Mode> {
    let labels = label.map(|value| json!({ "istio.io/dataplane-mode": value }));
    let object = json!({ "metadata": { "name": "shop", "labels": labels } });
    NamespaceFacts::new(&serde_json::from_value(object).expect("a namespace")).mode
}

fn check(fact: &str, pod_label: Option<&str>, namespace_label: Option<&str>, expected: Verdict) {
    let metadata = json!({ "labels": pod_label.map(|v| json!({ "istio.io/dataplane-mode": v })) });
    let pod = facts(&metadata, &json!({}), &json!({}));
    assert_eq!(judge(&pod, namespace(namespace_label)), expected, "{fact}");
}

#[test]
fn a_pods_label_wins_over_its_namespaces() {
    let leave = Verdict::Leave;
    check("nobody asks", None, None, leave(Reason::NotSelected));
    check("the namespace asks", None, Some("ambient"), Verdict::Enroll);
    check("the namespace refuses", None, Some("none"), leave(Reason::NotSelected));
    check("the pod asks", Some("ambient"), None, Verdict::Enroll);
    check("the pod asks, the namespace refuses", Some("ambient"), Some("none"), Verdict::Enroll);
    check("the pod refuses", Some("none"), Some("ambient"), leave(Reason::OptedOut));
    check("a value nobody knows says nothing", Some("yes"), Some("ambient"), Verdict::Enroll);
    check("nor does it ask", Some("yes"), None, leave(Reason::NotSelected));
    check("case matters", Some("Ambient"), None, leave(Reason::NotSelected));
    check("an empty value says nothing", Some(""), Some("ambient"), Verdict::Enroll);
}

fn check_never(fact: &str, metadata: &Value, spec: &Value, status: &Value, reason: Reason) {
    let mut metadata = metadata.clone();
    metadata["labels"] = json!({ "istio.io/dataplane-mode": "ambient" });
    let pod = facts(&metadata, spec, status);
    assert_eq!(judge(&pod, Some(Mode::Ambient)), Verdict::Leave(reason), "{fact}");
}

#[test]
fn some_pods_are_never_enrolled_whatever_their_labels() {
    let none = json!({});
    check_never("host network", &none, &json!({ "hostNetwork": true }), &none, Reason::HostNetwork);
    let sidecar = json!({ "annotations": { "sidecar.istio.io/status": "{}" } });
    check_never("sidecar", &sidecar, &none, &none, Reason::Sidecar);
    check_never("succeeded", &none, &none, &json!({ "phase": "Succeeded" }), Reason::Terminal);
    check_never("failed", &none, &none, &json!({ "phase": "Failed" }), Reason::Terminal);
}

#[test]
fn a_pod_that_is_being_deleted_stays_until_it_is_gone() {
    let deleting = json!({
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "labels": { "istio.io/dataplane-mode": "ambient" },
    });
    let pod = facts(&deleting, &json!({}), &json!({}));
    assert_eq!(judge(&pod, None), Verdict::Enroll);
}

#[test]
fn the_account_is_the_pod_s_or_the_namespace_s_default() {
    let pod = facts(&json!({}), &json!({}), &json!({}));
    let local = local_pod(&pod, &pod.ips).expect("a pod");
    assert_eq!(local.account.to_string(), "shop/web");
    let nameless = facts(&json!({}), &json!({ "serviceAccountName": null }), &json!({}));
    let local = local_pod(&nameless, &[]).expect("a pod");
    assert_eq!(local.account.to_string(), "shop/default");
}

#[test]
fn the_first_address_of_each_family_counts_and_mapped_ones_are_ipv4() {
    let pod = facts(&json!({}), &json!({}), &json!({}));
    let ips: Vec<IpAddr> = ["::ffff:10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]
        .map(|ip| ip.parse().expect("an address"))
        .to_vec();
    let local = local_pod(&pod, &ips).expect("a pod");
    assert_eq!(local.ip4, Some([10, 0, 0, 1].into()));
    assert_eq!(local.ip6, Some("fd00::1".parse().expect("an address")));
}

#[test]
fn a_static_pod_is_known_by_the_kubelets_uid_too() {
    let annotations = json!({
        "kubernetes.io/config.hash": HASH, "kubernetes.io/config.mirror": HASH,
    });
    let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n" });
    let metadata = json!({ "annotations": annotations, "ownerReferences": [owner] });
    let pod = facts(&metadata, &json!({ "nodeName": "n1" }), &json!({}));
    assert!(pod.is(&crate::mesh::PodUid(HASH.into())));
    assert!(pod.is(&crate::mesh::PodUid("u-1".into())));
    assert!(!pod.is(&crate::mesh::PodUid("other".into())));
}

fn check_ports(text: &str, expected: &[u16], warnings: usize) {
    let mut told = Vec::new();
    assert_eq!(ports(text, &mut told), expected, "{text}");
    assert_eq!(told.len(), warnings, "{text}: {told:?}");
}

#[test]
fn a_bad_port_is_warned_of_and_stays_captured() {
    check_ports("", &[], 0);
    check_ports("5432", &[5432], 0);
    check_ports(" 6379, 5432 ,5432,", &[5432, 6379], 0);
    check_ports("0", &[], 1);
    check_ports("65536,5432,http,-1", &[5432], 3);
    check_ports("1-1024", &[], 1);
}

fn check_cidrs(text: &str, expected: &[&str], warnings: usize) {
    let mut told = Vec::new();
    let ranges: Vec<_> = cidrs(text, &mut told).iter().map(ToString::to_string).collect();
    assert_eq!(ranges, expected, "{text}");
    assert_eq!(told.len(), warnings, "{text}: {told:?}");
}

#[test]
fn a_bad_range_is_warned_of_and_stays_captured() {
    check_cidrs("", &[], 0);
    check_cidrs("192.0.2.7/24", &["192.0.2.0/24"], 0);
    check_cidrs("192.0.2.1,2001:db8::/32", &["192.0.2.1/32", "2001:db8::/32"], 0);
    check_cidrs("10.0.0.0/33, example.com,*", &[], 3);
}

#[test]
fn warnings_name_annotation_and_value() {
    let metadata = json!({ "annotations": {
        "sotto.io/exclude-outbound-ports": "80,x",
        "sotto.io/exclude-outbound-cidrs": "y",
    } });
    let pod = facts(&metadata, &json!({}), &json!({}));
    assert_eq!(pod.exclusions.outbound_ports, [80]);
    assert_eq!(
        pod.warnings,
        [
            "annotation sotto.io/exclude-outbound-ports: \"x\" is not a port, so it is not excluded",
            "annotation sotto.io/exclude-outbound-cidrs: \"y\" is not a CIDR, so it is not excluded",
        ]
    );
}

const HASH: &str = "1f3870be274f6c49b3e31a0c6728957f";

/// The second UID of a pod with these annotations, whose owner is so.
fn check_second_uid(fact: &str, annotations: &Value, owner: &Value, expected: Option<&str>) {
    let metadata = json!({ "annotations": annotations, "ownerReferences": [owner] });
    let pod = facts(&metadata, &json!({ "nodeName": "n1" }), &json!({}));
    assert_eq!(pod.runtime_uid.as_ref().map(|uid| uid.0.as_str()), expected, "{fact}");
}

#[test]
fn only_a_mirror_pod_of_its_node_has_a_second_uid() {
    let both = |hash: &str| json!({ "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash });
    let owner = |kind: &str, name: &str| json!({ "apiVersion": "v1", "kind": kind, "name": name, "uid": "n", "controller": true });
    let node = owner("Node", "n1");
    check_second_uid("a mirror pod", &both(HASH), &node, Some(HASH));
    let plain = json!({ "kubernetes.io/config.hash": HASH });
    check_second_uid("an ordinary pod", &plain, &owner("ReplicaSet", "web"), None);
    check_second_uid("no mirror, but its node's", &plain, &node, None);
    check_second_uid("a mirror of nobody's", &both(HASH), &owner("ReplicaSet", "n1"), None);
    check_second_uid("another node's", &both(HASH), &owner("Node", "n2"), None);
    let other = json!({ "apiVersion": "evil/v1", "kind": "Node", "name": "n1", "uid": "n" });
    check_second_uid("another kind of node", &both(HASH), &other, None);
    let victim = "0f0e8a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6";
    for text in [victim, "", "..", &HASH[1..], &HASH.to_uppercase(), &format!("{HASH}0")] {
        check_second_uid("no hash", &both(text), &node, None);
    }
    let apart = json!({ "kubernetes.io/config.hash": HASH,
        "kubernetes.io/config.mirror": "00000000000000000000000000000000" });
    check_second_uid("two hashes", &apart, &node, None);
}

#[test]
fn pods_whose_network_is_not_the_node_s_kernel_s_are_left_alone_and_told_so() {
    let none = Value::Null;
    for class in ["gvisor", "kata-qemu", "my-runsc"] {
        let pod = facts(&none, &json!({ "runtimeClassName": class }), &none);
        assert_eq!(judge(&pod, Some(Mode::Ambient)), Verdict::Leave(Reason::Sandboxed), "{class}");
        assert_eq!(out_of_reach(&pod, Some(Mode::Ambient)), Some(Reason::Sandboxed));
        assert_eq!(out_of_reach(&pod, None), None, "nobody asked");
    }
    let launcher = json!({ "labels": { "kubevirt.io": "virt-launcher" } });
    let machine = facts(&launcher, &json!({}), &none);
    assert_eq!(judge(&machine, Some(Mode::Ambient)), Verdict::Leave(Reason::Machine));
    assert_eq!(out_of_reach(&machine, Some(Mode::Ambient)), Some(Reason::Machine));
    let disk = facts(&json!({ "labels": { "kubevirt.io": "hotplug-disk" } }), &json!({}), &none);
    assert_eq!(judge(&disk, Some(Mode::Ambient)), Verdict::Enroll);
    let other = facts(&none, &json!({ "runtimeClassName": "nvidia" }), &none);
    assert_eq!(judge(&other, Some(Mode::Ambient)), Verdict::Enroll);
    let host = facts(&none, &json!({ "hostNetwork": true }), &none);
    assert_eq!(out_of_reach(&host, Some(Mode::Ambient)), Some(Reason::HostNetwork));
    let opted_out = json!({ "labels": { "istio.io/dataplane-mode": "none" } });
    let host = facts(&opted_out, &json!({ "hostNetwork": true }), &none);
    assert_eq!(out_of_reach(&host, Some(Mode::Ambient)), None);
}

#[test]
fn a_pod_says_who_answers_its_names_in_the_words_of_go() {
    let check = |value: &str, expected: Option<bool>, warned: usize| {
        let metadata = json!({ "annotations": { "ambient.istio.io/dns-capture": value } });
        let pod = facts(&metadata, &json!({}), &json!({}));
        assert_eq!((pod.exclusions.names, pod.warnings.len()), (expected, warned), "{value}");
    };
    for (value, expected) in [("true", true), ("1", true), ("False", false), ("f", false)] {
        check(value, Some(expected), 0);
    }
    check("", None, 0);
    check("off", None, 1);
    assert_eq!(facts(&json!({}), &json!({}), &json!({})).exclusions.names, None);
}
