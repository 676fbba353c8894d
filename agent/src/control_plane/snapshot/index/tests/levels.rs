//! Every level of PeerAuthentication comes, changes and goes, and workloads follow at once.

use super::*;

const STATIC: &str = "istio-system/istio_converted_static_strict";

fn with(policy: PeerAuthentication, mode: Mode, port: Option<Mode>) -> PeerAuthentication {
    let ports = port.map(|mode| (9080, mode)).into_iter().collect();
    PeerAuthentication { mode, ports, ..policy }
}

/// The policies that the pod names.
fn named(index: &mut Index) -> Vec<String> {
    workload(&index.snapshot(), DETAILS).authorization_policies
}

/// A policy that makes the pod refer to something, and one in its place that makes it permissive.
#[track_caller]
fn check(policy: PeerAuthentication, permissive: PeerAuthentication, expected: &str) {
    let mut index = index([pod(details())]);
    let before = index.snapshot();
    assert_eq!(named(&mut index), [""; 0]);
    index.apply(peer(policy.clone()));
    assert_eq!(named(&mut index), [expected]);
    assert!(index.snapshot().authorizations.contains_key(expected), "what is named is there");
    index.apply(peer(permissive));
    assert_eq!(named(&mut index), [""; 0], "it changed");
    index.apply(peer(policy.clone()));
    assert_eq!(named(&mut index), [expected], "it changed back");
    index.apply(Event::PeerAuthentication(Change::Delete(policy.key)));
    let after = index.snapshot();
    assert_eq!(after.addresses, before.addresses, "it is gone");
    assert!(after.authorizations.is_empty());
}

#[test]
fn a_policy_of_any_level_and_any_name_takes_effect_and_its_deletion_too() {
    let selecting = |namespace: &str| PeerAuthentication {
        selector: Selector::Labels(labels(&[("app", "details")])),
        ..strict(namespace, "any-name")
    };
    let levels = [
        strict("istio-system", "any-name"),
        strict("bookinfo", "any-name"),
        selecting("bookinfo"),
        selecting("istio-system"),
    ];
    for level in levels {
        check(level.clone(), with(level, Mode::Permissive, None), STATIC);
    }
    for namespace in ["bookinfo", "istio-system"] {
        let expected = format!("{namespace}/converted_peer_authentication_any-name");
        let port = |mode, port| with(selecting(namespace), mode, Some(port));
        let none = port(Mode::Permissive, Mode::Disable);
        check(port(Mode::Permissive, Mode::Strict), none.clone(), &expected);
        check(port(Mode::Strict, Mode::Disable), none, &expected);
    }
}

#[test]
fn the_next_oldest_takes_over_when_the_oldest_goes() {
    let aged = |name: &str, created, mode| PeerAuthentication {
        created,
        mode,
        ..strict("bookinfo", name)
    };
    let mut index = index([pod(details())]);
    index.apply(peer(aged("a", 2, Mode::Permissive)));
    index.apply(peer(aged("b", 1, Mode::Strict)));
    assert_eq!(named(&mut index), [STATIC], "the oldest");
    index.apply(Event::PeerAuthentication(Change::Delete(ObjectKey::new("bookinfo", "b"))));
    assert_eq!(named(&mut index), [""; 0], "the one that is left");
    index.apply(peer(aged("0", 2, Mode::Strict)));
    assert_eq!(named(&mut index), [STATIC], "of one age, the first by name");
}
