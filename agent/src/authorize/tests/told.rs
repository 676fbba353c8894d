//! What is told of a decision: who is named, and why.

use super::*;

#[test]
fn a_decision_names_the_rule_that_matched() {
    let from = |namespace: &str| {
        group(vec![vec![Match { namespaces: exact(namespace), ..Match::default() }]])
    };
    let groups = vec![from("other"), from("another"), from("bookinfo")];
    let of = |action| policy("bookinfo/p", PolicyScope::Namespace, action, groups.clone());
    let decision = decide(&mesh(vec![of(Action::Deny)]), &workload(&[]), &productpage());
    assert_eq!(decision, Decision::Deny(Denial::Explicit(rule("bookinfo/p", 2))));
    match decide(&mesh(vec![of(Action::Allow)]), &workload(&[]), &productpage()) {
        Decision::Allow(permit) => assert_eq!(permit.by(), Some(&rule("bookinfo/p", 2))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_permit_names_the_policy_that_allows() {
    let allow =
        policy("bookinfo/allow", PolicyScope::Namespace, Action::Allow, vec![group(vec![])]);
    match decide(&mesh(vec![allow]), &workload(&[]), &productpage()) {
        Decision::Allow(permit) => assert_eq!(permit.policy(), Some(&key("bookinfo/allow"))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dry_run_policy_is_reported_and_never_enforced() {
    let dry = |name: &str, scope, action| Authorization {
        dry_run: true,
        ..policy(name, scope, action, vec![group(vec![])])
    };
    let mesh = mesh(vec![
        dry("bookinfo/deny", PolicyScope::Namespace, Action::Deny),
        dry("istio-system/allow", PolicyScope::Global, Action::Allow),
        dry("bookinfo/selected", PolicyScope::WorkloadSelector, Action::Deny),
        Authorization {
            groups: vec![],
            ..dry("bookinfo/nothing", PolicyScope::Namespace, Action::Allow)
        },
    ]);
    let workload = workload(&["bookinfo/selected"]);
    assert_eq!(verdict(&decide(&mesh, &workload, &plaintext())), "allow");
    let would = |name: &str, action| DryRun { policy: key(name), action };
    assert_eq!(
        dry_run(&mesh, &workload, &plaintext()),
        [
            would("istio-system/allow", Action::Allow),
            would("bookinfo/deny", Action::Deny),
            would("bookinfo/selected", Action::Deny),
        ]
    );
}

#[test]
fn an_explanation_tells_why_a_policy_does_not_match() {
    let from = |namespace: &str, port| Match {
        namespaces: exact(namespace),
        destination_ports: vec![port],
        ..Match::default()
    };
    let groups = vec![group(vec![vec![from("other", 80)]]), group(vec![vec![from("other", 9080)]])];
    let deny = policy("bookinfo/p", PolicyScope::Namespace, Action::Deny, groups);
    let missing = workload(&["bookinfo/late"]);
    let explained = explain(&mesh(vec![deny]), &missing, &productpage());
    let findings: Vec<_> = explained.considered.into_iter().map(|policy| policy.finding).collect();
    let why = ["rule 0: ports, namespaces differ", "rule 1: namespaces differ"];
    let differ = Finding::Differ(why.map(str::to_owned).to_vec());
    assert_eq!(findings, [differ, Finding::Missing]);
    assert_eq!(explained.decision, Decision::Unknown(vec![key("bookinfo/late")]));
}

#[test]
fn denials_say_why() {
    let check = |denial: Denial, text: &str, status| {
        assert_eq!((denial.to_string().as_str(), denial.status()), (text, status));
    };
    check(Denial::Explicit(rule("a/b", 1)), "explicitly denied by: a/b", 401);
    check(Denial::NotAllowed, "allow policies exist, but none allowed", 401);
    check(Denial::UnknownPolicy(key("a/b")), "policy a/b is referenced but unknown", 401);
    check(Denial::UnreadablePolicy(key("a/b")), "policy a/b is here but cannot be read", 401);
    check(Denial::UnknownWorkload, "workload unknown", 503);
}

#[test]
fn the_policy_named_is_the_meshs_then_the_namespaces_then_the_first_listed() {
    let deny = |name: &str, scope| policy(name, scope, Action::Deny, vec![group(vec![])]);
    let all = [
        deny("istio-system/b", PolicyScope::Global),
        deny("istio-system/c", PolicyScope::Global),
        deny("bookinfo/a", PolicyScope::Namespace),
        deny("bookinfo/b", PolicyScope::Namespace),
        deny("bookinfo/z", PolicyScope::WorkloadSelector),
        deny("bookinfo/y", PolicyScope::WorkloadSelector),
    ];
    let to = workload(&["bookinfo/z", "bookinfo/y"]);
    for (from, named) in all.iter().enumerate() {
        let left = all[from..].iter().rev().cloned().collect();
        let named = MatchedRule { policy: named.key.clone(), rule: Some(0) };
        let decision = decide(&mesh(left), &to, &plaintext());
        assert_eq!(decision, Decision::Deny(Denial::Explicit(named)));
    }
}

#[test]
fn an_explanation_lists_a_policy_that_cannot_be_read() {
    let (mut store, reader) = Store::new();
    store.apply([MeshEvent::UnreadablePolicy(key("bookinfo/p"), PolicyScope::Namespace)]);
    let explained = explain(&reader.load(), &workload(&["bookinfo/late"]), &productpage());
    let listed: Vec<_> =
        explained.considered.into_iter().map(|policy| (policy.scope, policy.finding)).collect();
    assert_eq!(
        listed,
        [
            (PolicyScope::Namespace, Finding::Unreadable),
            (PolicyScope::WorkloadSelector, Finding::Missing),
        ]
    );
}
