//! The rows of the matching rules, one fact each.

use std::sync::Arc;

use crate::mesh::policy::{
    Action, Authorization, Group, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch,
};
use crate::mesh::{MatchedRule, Mesh, MeshEvent, PolicyKey, SpiffeId, Store, Workload};

use super::{Decision, Denial, DryRun, Finding, Request, decide, dry_run, explain};

mod matching;
mod told;

const NAMESPACE: &str = "bookinfo";

fn key(name: &str) -> PolicyKey {
    let (namespace, name) = name.split_once('/').unwrap();
    PolicyKey { namespace: namespace.into(), name: name.into() }
}

fn rule(name: &str, rule: usize) -> MatchedRule {
    MatchedRule { policy: key(name), rule: Some(rule) }
}

fn policy(name: &str, scope: PolicyScope, action: Action, groups: Vec<Group>) -> Authorization {
    Authorization { key: key(name), scope, action, groups, dry_run: false }
}

fn one(condition: Match) -> Vec<Group> {
    vec![group(vec![vec![condition]])]
}

fn group(rules: Vec<Vec<Match>>) -> Group {
    Group { rules: rules.into_iter().map(|matches| Rule { matches }).collect() }
}

fn mesh(policies: Vec<Authorization>) -> Arc<Mesh> {
    let (mut store, reader) = Store::new();
    store.apply(policies.into_iter().map(|policy| MeshEvent::Policy(Arc::new(policy))));
    reader.load()
}

fn workload(policies: &[&str]) -> Workload {
    let mut workload =
        Workload::pod("Kubernetes", NAMESPACE, "details", "details", "10.0.0.2".parse().unwrap())
            .unwrap();
    workload.authorization_policies = policies.iter().map(|name| key(name)).collect();
    workload
}

fn plaintext() -> Request {
    Request {
        source_ip: "10.0.0.1".parse().unwrap(),
        source: None,
        destination: "10.0.0.2:9080".parse().unwrap(),
    }
}

fn from(identity: &str) -> Request {
    Request { source: Some(identity.parse().unwrap()), ..plaintext() }
}

fn productpage() -> Request {
    from("spiffe://cluster.local/ns/bookinfo/sa/productpage")
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

fn presence() -> Vec<StringMatch> {
    vec![StringMatch::Presence]
}

/// What `Decision` says, without the reasons.
fn verdict(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::Deny(_) => "deny",
        Decision::Unknown(_) => "unknown",
    }
}

/// Whether `groups` match: they do if a DENY policy of them denies.
fn check(groups: Vec<Group>, request: &Request, matches: bool) {
    let deny = policy("bookinfo/p", PolicyScope::Namespace, Action::Deny, groups.clone());
    let decision = decide(&mesh(vec![deny]), &workload(&[]), request);
    assert_eq!(verdict(&decision) == "deny", matches, "DENY {groups:?} {request:?}");
    let allow = policy("bookinfo/p", PolicyScope::Namespace, Action::Allow, groups.clone());
    let decision = decide(&mesh(vec![allow]), &workload(&[]), request);
    assert_eq!(verdict(&decision) == "allow", matches, "ALLOW {groups:?} {request:?}");
}

fn check_match(condition: Match, request: &Request, matches: bool) {
    check(one(condition), request, matches);
}

#[test]
fn no_policy_allows() {
    assert_eq!(verdict(&decide(&Mesh::default(), &workload(&[]), &plaintext())), "allow");
}

#[test]
fn an_allow_policy_without_groups_denies_everything() {
    let nothing = policy("bookinfo/nothing", PolicyScope::Namespace, Action::Allow, vec![]);
    let decision = decide(&mesh(vec![nothing]), &workload(&[]), &productpage());
    assert_eq!(decision, Decision::Deny(Denial::NotAllowed));
}

#[test]
fn deny_wins_over_allow() {
    let all = vec![group(vec![])];
    let policies = vec![
        policy("bookinfo/allow", PolicyScope::Namespace, Action::Allow, all.clone()),
        policy("bookinfo/deny", PolicyScope::Namespace, Action::Deny, all),
    ];
    let decision = decide(&mesh(policies), &workload(&[]), &productpage());
    assert_eq!(decision, Decision::Deny(Denial::Explicit(rule("bookinfo/deny", 0))));
}

#[test]
fn what_no_allow_policy_allows_is_denied() {
    let only = Match { namespaces: exact("other"), ..Match::default() };
    let allow = policy("bookinfo/allow", PolicyScope::Namespace, Action::Allow, one(only));
    let decision = decide(&mesh(vec![allow]), &workload(&[]), &productpage());
    assert_eq!(decision, Decision::Deny(Denial::NotAllowed));
}

#[test]
fn a_namespace_policy_governs_its_namespace_alone() {
    let all = || vec![group(vec![])];
    let here = policy("bookinfo/p", PolicyScope::Namespace, Action::Deny, all());
    let elsewhere = policy("other/p", PolicyScope::Namespace, Action::Deny, all());
    assert_eq!(verdict(&decide(&mesh(vec![here]), &workload(&[]), &plaintext())), "deny");
    assert_eq!(verdict(&decide(&mesh(vec![elsewhere]), &workload(&[]), &plaintext())), "allow");
}

#[test]
fn a_global_policy_governs_every_workload() {
    let global = policy("istio-system/p", PolicyScope::Global, Action::Deny, vec![group(vec![])]);
    assert_eq!(verdict(&decide(&mesh(vec![global]), &workload(&[]), &plaintext())), "deny");
}

#[test]
fn a_selector_policy_governs_the_workloads_that_name_it_whatever_its_namespace() {
    for name in ["bookinfo/p", "istio-system/p"] {
        let selected =
            policy(name, PolicyScope::WorkloadSelector, Action::Deny, vec![group(vec![])]);
        let mesh = mesh(vec![selected]);
        assert_eq!(verdict(&decide(&mesh, &workload(&[]), &plaintext())), "allow");
        assert_eq!(verdict(&decide(&mesh, &workload(&[name]), &plaintext())), "deny");
    }
}

#[test]
fn a_referenced_policy_that_is_missing_allows_nothing() {
    let decision = decide(&Mesh::default(), &workload(&["bookinfo/a", "bookinfo/b"]), &plaintext());
    assert_eq!(decision, Decision::Unknown(vec![key("bookinfo/a"), key("bookinfo/b")]));
    let allow =
        policy("bookinfo/allow", PolicyScope::Namespace, Action::Allow, vec![group(vec![])]);
    let decision = decide(&mesh(vec![allow]), &workload(&["bookinfo/a"]), &productpage());
    assert_eq!(decision, Decision::Unknown(vec![key("bookinfo/a")]));
}

#[test]
fn a_matching_deny_wins_over_a_missing_policy() {
    let deny = policy("bookinfo/deny", PolicyScope::Namespace, Action::Deny, vec![group(vec![])]);
    let decision = decide(&mesh(vec![deny]), &workload(&["bookinfo/a"]), &plaintext());
    assert_eq!(decision, Decision::Deny(Denial::Explicit(rule("bookinfo/deny", 0))));
}

#[test]
fn the_static_strict_policy_is_enforced_before_it_arrives() {
    for root in ["istio-system", "mesh-root"] {
        let name = format!("{root}/istio_converted_static_strict");
        let workload = workload(&[&name]);
        let decision = decide(&Mesh::default(), &workload, &plaintext());
        assert_eq!(decision, Decision::Deny(Denial::Explicit(key(&name).into())));
        assert_eq!(verdict(&decide(&Mesh::default(), &workload, &productpage())), "allow");
    }
}

#[test]
fn a_converted_policy_that_never_comes_keeps_out_plaintext_alone() {
    for name in ["bookinfo/converted_peer_authentication_w", "root/converted_peer_authentication_x"]
    {
        let to = workload(&[name]);
        let decision = decide(&Mesh::default(), &to, &plaintext());
        assert_eq!(decision, Decision::Unknown(vec![key(name)]));
        assert_eq!(verdict(&decide(&Mesh::default(), &to, &productpage())), "allow");
    }
    // What has arrived and cannot be read may say anything.
    let name = "bookinfo/converted_peer_authentication_w";
    let (mut store, reader) = Store::new();
    store.apply([MeshEvent::UnreadablePolicy(key(name), PolicyScope::WorkloadSelector)]);
    let decision = decide(&reader.load(), &workload(&[name]), &productpage());
    assert_eq!(decision, Decision::Unknown(vec![key(name)]));
}

#[test]
fn the_static_strict_policy_denies_plaintext_alone() {
    let name = "istio-system/istio_converted_static_strict";
    let strict = policy(
        name,
        PolicyScope::WorkloadSelector,
        Action::Deny,
        one(Match { not_principals: presence(), ..Match::default() }),
    );
    let mesh = mesh(vec![strict]);
    let decision = decide(&mesh, &workload(&[name]), &plaintext());
    assert_eq!(decision, Decision::Deny(Denial::Explicit(rule(name, 0))));
    assert_eq!(verdict(&decide(&mesh, &workload(&[name]), &productpage())), "allow");
}

#[test]
fn strict_with_port_exceptions_denies_plaintext_elsewhere() {
    let not_port = |port| Match { not_destination_ports: vec![port], ..Match::default() };
    let unauthenticated = Match { not_principals: presence(), ..Match::default() };
    let rules = vec![vec![unauthenticated], vec![not_port(9080)], vec![not_port(9090)]];
    let excepted = || vec![group(rules.clone())];
    let to = |port: u16| {
        let mut request = plaintext();
        request.destination.set_port(port);
        request
    };
    let mesh = mesh(vec![policy("a/p", PolicyScope::WorkloadSelector, Action::Deny, excepted())]);
    for (port, expected) in [(9080, "allow"), (9090, "allow"), (80, "deny")] {
        let decision = decide(&mesh, &workload(&["a/p"]), &to(port));
        assert_eq!(verdict(&decision), expected, "port {port}");
    }
}

#[test]
fn several_strict_ports_of_a_permissive_workload_each_deny_plaintext() {
    let strict_port = |port| {
        group(vec![vec![Match {
            not_principals: presence(),
            destination_ports: vec![port],
            ..Match::default()
        }]])
    };
    let groups = vec![strict_port(9080), strict_port(9090)];
    check(groups.clone(), &plaintext(), true);
    check(groups.clone(), &productpage(), false);
    let mut open = plaintext();
    open.destination.set_port(80);
    check(groups, &open, false);
}

#[test]
fn a_deny_policy_without_groups_is_a_no_op() {
    let nothing = policy("bookinfo/nothing", PolicyScope::Namespace, Action::Deny, vec![]);
    assert_eq!(verdict(&decide(&mesh(vec![nothing]), &workload(&[]), &plaintext())), "allow");
}

#[test]
fn an_allow_policy_of_any_scope_denies_what_none_allows_and_one_of_any_scope_allows() {
    let scoped = [
        ("istio-system/p", PolicyScope::Global),
        ("bookinfo/p", PolicyScope::Namespace),
        ("bookinfo/s", PolicyScope::WorkloadSelector),
    ];
    for (name, scope) in scoped {
        let nothing = policy(name, scope, Action::Allow, vec![]);
        let to = workload(&["bookinfo/s"]);
        let to = if scope == PolicyScope::WorkloadSelector { to } else { workload(&[]) };
        let decision = decide(&mesh(vec![nothing.clone()]), &to, &productpage());
        assert_eq!(decision, Decision::Deny(Denial::NotAllowed), "{name}");
        for (other, other_scope) in scoped.into_iter().filter(|(other, _)| *other != name) {
            let allow = policy(other, other_scope, Action::Allow, vec![group(vec![])]);
            let decision = decide(
                &mesh(vec![nothing.clone(), allow]),
                &workload(if [scope, other_scope].contains(&PolicyScope::WorkloadSelector) {
                    &["bookinfo/s"]
                } else {
                    &[]
                }),
                &productpage(),
            );
            assert_eq!(verdict(&decision), "allow", "{name} {other}");
        }
    }
}

#[test]
fn plaintext_is_let_in_unless_strict_and_mutual_tls_always() {
    let strict = "istio-system/istio_converted_static_strict";
    for (policies, plain, mutual) in [(&[][..], "allow", "allow"), (&[strict][..], "deny", "allow")]
    {
        let to = workload(policies);
        assert_eq!(verdict(&decide(&Mesh::default(), &to, &plaintext())), plain);
        assert_eq!(verdict(&decide(&Mesh::default(), &to, &productpage())), mutual);
    }
    let Decision::Deny(denial) = decide(&Mesh::default(), &workload(&[strict]), &plaintext())
    else {
        panic!("plaintext is let in");
    };
    assert_eq!(denial.to_string(), format!("explicitly denied by: {strict}"));
}

#[test]
fn a_policy_that_cannot_be_read_allows_nothing_in_its_scope() {
    let check = |name: &str, scope, expected: &str| {
        let (mut store, reader) = Store::new();
        store.apply([MeshEvent::UnreadablePolicy(key(name), scope)]);
        let decision = decide(&reader.load(), &workload(&[]), &productpage());
        assert_eq!(verdict(&decision), expected, "{name} {scope:?}");
    };
    check("bookinfo/p", PolicyScope::Namespace, "unknown");
    check("other/p", PolicyScope::Namespace, "allow");
    check("other/p", PolicyScope::Global, "unknown");
    // Only who names it is concerned, and finds it missing.
    check("bookinfo/p", PolicyScope::WorkloadSelector, "allow");
}
