use std::sync::Arc;

use super::*;
use crate::mesh::policy::{Authorization, Group};
use crate::mesh::{MeshEvent, PolicyKey, ResourceKind, Store};

const STRICT: &str = "istio_converted_static_strict";

fn workload(namespace: &str, name: &str, last: u8, enrolled: bool) -> Workload {
    let ip = IpAddr::from([10, 0, 0, last]);
    let mut workload = Workload::pod("c", namespace, &format!("{name}-x1"), name, ip).unwrap();
    workload.workload_name = name.into();
    if !enrolled {
        workload.protocol = TunnelProtocol::Tcp;
    }
    workload
}

/// `bookinfo/details` under STRICT, called by `bookinfo/page` (enrolled) and `legacy/sleep` (not).
fn mesh() -> Arc<Mesh> {
    let (mut store, reader) = Store::new();
    let mut details = workload("bookinfo", "details", 2, true);
    details.authorization_policies =
        vec![PolicyKey { namespace: "istio-system".into(), name: STRICT.into() }].into();
    let others = [workload("bookinfo", "page", 3, true), workload("legacy", "sleep", 4, false)];
    let all = others.into_iter().chain([details]);
    store.apply(all.map(|workload| MeshEvent::Workload(Arc::new(workload))));
    store.set_synced(ResourceKind::Address);
    store.set_synced(ResourceKind::Authorization);
    reader.load()
}

fn ask(pairs: &[(&str, &str)]) -> Result<Answer, Refusal> {
    ask_of(&mesh(), pairs)
}

fn ask_of(mesh: &Mesh, pairs: &[(&str, &str)]) -> Result<Answer, Refusal> {
    let parameters = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    answer(mesh, &Network::new(), "node1", &parameters)
}

/// Of each judgement: the way, whether it is the one taken now, and the outcome.
fn check(source: &str, expected: &[(&str, bool, bool)]) {
    let asked =
        ask(&[("source", source), ("destination", "bookinfo/details-x1"), ("port", "9080")]);
    let judged = asked.unwrap().judgements;
    let got: Vec<_> = judged.iter().map(|j| (j.way.as_str(), j.now, j.allowed)).collect();
    assert_eq!(got, expected, "{source}");
}

#[test]
fn an_enrolled_source_comes_by_hbone_alone() {
    check("bookinfo/page-x1", &[("HBONE", true, true)]);
}

#[test]
fn a_source_that_is_not_enrolled_is_judged_both_ways() {
    check("legacy/sleep-x1", &[("HBONE", false, true), ("plaintext", true, false)]);
    check("legacy/sleep", &[("HBONE", false, true), ("plaintext", true, false)]);
}

#[test]
fn an_address_outside_the_mesh_comes_in_the_clear() {
    check("192.0.2.1", &[("plaintext", true, false)]);
}

#[test]
fn a_denial_names_its_policy() {
    let asked = ask(&[("source", "192.0.2.1"), ("destination", "bookinfo/details"), ("port", "1")]);
    let judgement = asked.unwrap().judgements.remove(0);
    assert_eq!(judgement.policy, Some(format!("istio-system/{STRICT}")));
    assert_eq!(judgement.reason, format!("explicitly denied by: istio-system/{STRICT}"));
    let step = &judgement.considered[0];
    assert_eq!((step.matched, step.action.as_deref()), (true, Some("DENY")));
}

#[test]
fn what_is_not_enrolled_enforces_nothing() {
    let asked = ask(&[("source", "192.0.2.1"), ("destination", "legacy/sleep"), ("port", "80")]);
    assert!(asked.unwrap().judgements[0].allowed);
}

#[test]
fn mistakes_are_told() {
    let check = |pairs: &[(&str, &str)], status| {
        assert_eq!(ask(pairs).unwrap_err().status, status, "{pairs:?}");
    };
    check(&[], 400);
    check(&[("source", "bookinfo/page"), ("destination", "bookinfo/nobody")], 404);
    check(&[("source", "bookinfo/nobody"), ("destination", "bookinfo/details")], 404);
    check(&[("source", "bookinfo/page"), ("destination", "bookinfo/details")], 400);
    let pairs = [("source", "bookinfo/page"), ("destination", "bookinfo/details"), ("port", "0")];
    check(&pairs, 400);
}

/// What is said of `bookinfo/page` calling `bookinfo/details`, which names a policy, under these.
fn under(named: &str, policies: Vec<Authorization>) -> Judgement {
    let (mut store, reader) = Store::new();
    let mut details = workload("bookinfo", "details", 2, true);
    details.authorization_policies =
        vec![PolicyKey { namespace: "bookinfo".into(), name: named.into() }].into();
    let all = [workload("bookinfo", "page", 3, true), details];
    store.apply(all.map(|workload| MeshEvent::Workload(Arc::new(workload))));
    store.apply(policies.into_iter().map(|policy| MeshEvent::Policy(Arc::new(policy))));
    store.set_synced(ResourceKind::Address);
    store.set_synced(ResourceKind::Authorization);
    let pairs = [("source", "bookinfo/page"), ("destination", "bookinfo/details"), ("port", "80")];
    ask_of(&reader.load(), &pairs).unwrap().judgements.remove(0)
}

/// A policy of one group that matches everything.
fn policy(name: &str, action: Action, dry_run: bool) -> Authorization {
    Authorization {
        key: PolicyKey { namespace: "bookinfo".into(), name: name.into() },
        scope: PolicyScope::WorkloadSelector,
        action,
        groups: vec![Group::default()],
        dry_run,
    }
}

#[test]
fn a_policy_that_has_not_arrived_denies_and_is_told_as_missing() {
    let judgement = under("late", vec![]);
    assert!(!judgement.allowed);
    assert_eq!(judgement.policy.as_deref(), Some("bookinfo/late"));
    let step = &judgement.considered[0];
    assert_eq!((step.policy.as_str(), &step.action, step.matched), ("bookinfo/late", &None, false));
    assert_eq!(step.why, ["it is referenced, and has not arrived"]);
}

#[test]
fn a_dry_run_is_considered_and_decides_nothing() {
    let judgement = under("dry", vec![policy("dry", Action::Deny, true)]);
    assert!(judgement.allowed);
    let step = &judgement.considered[0];
    assert_eq!((step.policy.as_str(), step.dry_run, step.matched), ("bookinfo/dry", true, true));
    let enforced = under("wet", vec![policy("wet", Action::Deny, false)]);
    assert!(!enforced.allowed);
    assert_eq!((enforced.policy.as_deref(), enforced.rule), (Some("bookinfo/wet"), Some(0)));
}

#[test]
fn what_allows_is_told_too() {
    let judgement = under("all", vec![policy("all", Action::Allow, false)]);
    assert!(judgement.allowed);
    assert_eq!(judgement.reason, "allowed by: bookinfo/all");
}
