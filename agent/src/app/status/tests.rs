use std::collections::BTreeMap;

use super::answer::{ControlPlane, Pod};
use super::*;

const NOW: u64 = 1_800_000_000;

fn certificate() -> Certificate {
    Certificate {
        identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
        usable: true,
        trouble: None,
        failures: 0,
        serial_number: Some("77".into()),
        not_before: Some(NOW - 60),
        not_after: Some(NOW + 23 * 3600 + 61),
    }
}

fn pod(trouble: Option<&str>) -> Pod {
    Pod {
        name: "shop/web-1".into(),
        state: if trouble.is_some() { "pending" } else { "captured" }.into(),
        trouble: trouble.map(str::to_owned),
        inbound: 2,
        outbound: 1,
    }
}

/// A node where all is well, and another has a pod, too.
fn well() -> Answer {
    Answer {
        node: "node1".into(),
        version: "0.1.0".into(),
        now: NOW,
        control_plane: ControlPlane {
            address: "https://cp:15012".into(),
            connected: true,
            synced: true,
            last_answer: Some(NOW - 5),
            ..ControlPlane::default()
        },
        pods: vec![pod(None)],
        certificates: vec![certificate()],
        enrolled: BTreeMap::from([("node1".into(), 1), ("node2".into(), 1)]),
        ..Answer::default()
    }
}

#[test]
fn a_node_where_all_is_well_says_so_on_one_line() {
    let report = Report::new(vec![well(), well()], false).unwrap();
    assert!(report.wrong.is_empty());
    let expected = concat!(
        "NODE   VERSION  READY  CAPTURED  OPEN  CERTIFICATES                      CONTROL PLANE\n",
        "node1  0.1.0    yes    1 of 1    3     1 of 1, next expires in 23h 1m    connected, answered 5s ago\n",
        "\nNot asked, though enrolled pods run there: node2\n",
        "\nAll is well.\n",
    );
    let spaceless = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(spaceless(&report.to_string()), spaceless(expected));
}

#[test]
fn who_asks_for_all_is_told_which_node_is_missing() {
    let error = Report::new(vec![well()], true).unwrap_err().to_string();
    assert!(error.contains("enrolled pods run on node2 too"), "{error}");
    let other = Answer { node: "node2".into(), ..well() };
    assert!(Report::new(vec![well(), other], true).unwrap().wrong.is_empty());
}

#[test]
fn everything_that_is_wrong_is_told_with_what_to_do() {
    let away = ControlPlane {
        connected: false,
        last_error: Some("connection refused".into()),
        rejected: BTreeMap::from([("shop/deny".into(), "no rules".into())]),
        ..well().control_plane
    };
    let late = Certificate { failures: 3, ..certificate() };
    let none = Certificate { usable: false, trouble: Some("refused".into()), ..certificate() };
    let remarks = [("kubelet", "the kubelet is not known"), ("pods", "pods in trouble: 1")];
    let remarks = remarks.map(|(about, text)| (about.to_owned(), text.to_owned()));
    for (change, expected) in [
        (Answer { pending: vec!["pods of this node".into()], ..well() }, "waits for pods of this"),
        (Answer { control_plane: away, ..well() }, "connection refused | shop/deny cannot be read"),
        (Answer { pods: vec![pod(Some("no netns"))], ..well() }, "shop/web-1 is pending, not"),
        (Answer { certificates: vec![late], ..well() }, "was not renewed, 3 times"),
        (Answer { certificates: vec![none], ..well() }, "no certificate for spiffe://"),
        (Answer { remarks: remarks.into(), ..well() }, "the kubelet is not known"),
    ] {
        let report = Report::new(vec![change], false).unwrap();
        let told: Vec<_> = report.wrong.iter().map(|wrong| wrong.what.as_str()).collect();
        let expected: Vec<_> = expected.split(" | ").collect();
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{told} is not {expected}");
        }
        assert!(report.wrong.iter().all(|wrong| !wrong.help.is_empty()));
        assert!(!report.to_string().contains("All is well"));
    }
}

#[test]
fn agents_of_two_versions_are_told() {
    let newer = Answer { node: "node2".into(), version: "0.2.0".into(), ..well() };
    let report = Report::new(vec![newer, well()], true).unwrap();
    assert_eq!(report.wrong.len(), 1);
    assert!(report.wrong[0].what.contains("0.1.0, 0.2.0"), "{:?}", report.wrong);
}

#[test]
fn a_pod_that_can_never_be_captured_is_listed_and_not_wrong() {
    let left_alone =
        BTreeMap::from([("shop/node-exporter".into(), "it uses the host network".into())]);
    let report = Report::new(vec![Answer { left_alone, ..well() }], false).unwrap();
    assert!(report.wrong.is_empty());
    assert!(report.to_string().contains("shop/node-exporter  node1  it uses the host network"));
}

#[test]
fn certificates_are_listed_with_their_end() {
    let gone = Certificate { not_after: Some(NOW - 90), ..certificate() };
    let answer = Answer { certificates: vec![certificate(), gone], ..well() };
    let told = Certificates::new(vec![answer]).to_string();
    let rows: Vec<_> = told.lines().skip(1).collect();
    assert!(rows[0].contains("spiffe://cluster.local/ns/shop/sa/web  usable"), "{told}");
    assert!(rows[0].contains("in 23h 1m") && rows[0].ends_with("77"), "{told}");
    assert!(rows[1].contains("EXPIRED 1m 30s ago"), "{told}");
}
