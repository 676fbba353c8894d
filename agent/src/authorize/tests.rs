//! The rows of the matching rules, one fact each.

use std::sync::Arc;

use crate::mesh::policy::{
    Action, Authorization, Group, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch,
};
use crate::mesh::{MatchedRule, Mesh, MeshEvent, PolicyKey, SpiffeId, Store, Workload};

use super::{Decision, Denial, DryRun, Finding, Request, decide, dry_run, explain};

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
fn a_policy_without_groups_matches_nothing() {
    check(vec![], &productpage(), false);
    check(vec![], &plaintext(), false);
}

#[test]
fn an_allow_policy_without_groups_denies_everything() {
    let nothing = policy("bookinfo/nothing", PolicyScope::Namespace, Action::Allow, vec![]);
    let decision = decide(&mesh(vec![nothing]), &workload(&[]), &productpage());
    assert_eq!(decision, Decision::Deny(Denial::NotAllowed));
}

#[test]
fn a_group_without_rules_matches_everything() {
    check(vec![group(vec![])], &plaintext(), true);
    check(vec![group(vec![])], &productpage(), true);
}

#[test]
fn a_rule_without_matches_holds() {
    check(vec![group(vec![vec![]])], &plaintext(), true);
    let wrong_port = Match { destination_ports: vec![1], ..Match::default() };
    check(vec![group(vec![vec![], vec![wrong_port]])], &plaintext(), false);
}

#[test]
fn a_match_without_fields_matches_nothing() {
    check_match(Match::default(), &productpage(), false);
    let port = Match { destination_ports: vec![9080], ..Match::default() };
    check(vec![group(vec![vec![Match::default(), port]])], &plaintext(), true);
}

#[test]
fn groups_are_ored_rules_anded_and_matches_ored() {
    let port = |port| Match { destination_ports: vec![port], ..Match::default() };
    let named = |name| Match { namespaces: exact(name), ..Match::default() };
    let hit = || vec![port(9080)];
    check(vec![group(vec![vec![port(1)]]), group(vec![hit()])], &productpage(), true);
    check(vec![group(vec![hit(), vec![named("other")]])], &productpage(), false);
    check(vec![group(vec![hit(), vec![named("bookinfo")]])], &productpage(), true);
    check(vec![group(vec![vec![port(1), port(9080)]])], &productpage(), true);
    check(vec![group(vec![vec![port(1), port(2)]])], &productpage(), false);
}

#[test]
fn the_fields_of_a_match_are_anded() {
    let both = |port| Match {
        namespaces: exact("bookinfo"),
        destination_ports: vec![port],
        ..Match::default()
    };
    check_match(both(9080), &productpage(), true);
    check_match(both(9081), &productpage(), false);
    check_match(both(9080), &plaintext(), false);
}

#[test]
fn principals_are_compared_without_the_scheme() {
    let principals = |text: &str| Match { principals: exact(text), ..Match::default() };
    check_match(principals("cluster.local/ns/bookinfo/sa/productpage"), &productpage(), true);
    check_match(
        principals("spiffe://cluster.local/ns/bookinfo/sa/productpage"),
        &productpage(),
        false,
    );
}

#[test]
fn strings_match_exactly_by_prefix_by_suffix_or_by_presence() {
    let principals = |pattern| Match { principals: vec![pattern], ..Match::default() };
    check_match(principals(StringMatch::Prefix("cluster.local/".into())), &productpage(), true);
    check_match(principals(StringMatch::Prefix("other/".into())), &productpage(), false);
    check_match(principals(StringMatch::Suffix("/sa/productpage".into())), &productpage(), true);
    check_match(principals(StringMatch::Suffix("/sa/product".into())), &productpage(), false);
    check_match(principals(StringMatch::Presence), &productpage(), true);
    check_match(principals(StringMatch::Exact("cluster.local".into())), &productpage(), false);
}

#[test]
fn plaintext_has_no_principal_whatever_the_pattern() {
    for pattern in [
        StringMatch::Presence,
        StringMatch::Prefix("".into()),
        StringMatch::Suffix("".into()),
        StringMatch::Exact("".into()),
    ] {
        let positive = Match { principals: vec![pattern.clone()], ..Match::default() };
        check_match(positive, &plaintext(), false);
        let negative = Match { not_principals: vec![pattern], ..Match::default() };
        check_match(negative, &plaintext(), true);
    }
}

#[test]
fn not_principals_present_means_plaintext() {
    let unauthenticated = || Match { not_principals: presence(), ..Match::default() };
    check_match(unauthenticated(), &plaintext(), true);
    check_match(unauthenticated(), &productpage(), false);
}

#[test]
fn namespaces_are_those_of_the_identity_and_empty_for_plaintext() {
    let namespaces = |patterns| Match { namespaces: patterns, ..Match::default() };
    let not = |patterns| Match { not_namespaces: patterns, ..Match::default() };
    check_match(namespaces(exact("bookinfo")), &productpage(), true);
    check_match(namespaces(exact("other")), &productpage(), false);
    check_match(namespaces(exact("bookinfo")), &plaintext(), false);
    check_match(namespaces(presence()), &plaintext(), false);
    check_match(namespaces(exact("")), &plaintext(), true);
    check_match(not(exact("bookinfo")), &productpage(), false);
    check_match(not(exact("bookinfo")), &plaintext(), true);
    check_match(not(presence()), &plaintext(), true);
}

#[test]
fn service_accounts_ignore_the_trust_domain_and_need_an_identity() {
    let account = |namespace: &str, account: &str| {
        vec![ServiceAccountMatch { namespace: namespace.into(), service_account: account.into() }]
    };
    let any = |list| Match { service_accounts: list, ..Match::default() };
    let none = |list| Match { not_service_accounts: list, ..Match::default() };
    let elsewhere = from("spiffe://other.domain/ns/bookinfo/sa/productpage");
    check_match(any(account("bookinfo", "productpage")), &productpage(), true);
    check_match(any(account("bookinfo", "productpage")), &elsewhere, true);
    check_match(any(account("other", "productpage")), &productpage(), false);
    check_match(any(account("bookinfo", "other")), &productpage(), false);
    check_match(any(account("", "")), &plaintext(), false);
    check_match(none(account("bookinfo", "productpage")), &productpage(), false);
    check_match(none(account("bookinfo", "productpage")), &plaintext(), true);
}

#[test]
fn ports_are_those_of_the_app() {
    check_match(
        Match { destination_ports: vec![80, 9080], ..Match::default() },
        &plaintext(),
        true,
    );
    check_match(Match { destination_ports: vec![80], ..Match::default() }, &plaintext(), false);
    let not = |port| Match { not_destination_ports: vec![port], ..Match::default() };
    check_match(not(9080), &plaintext(), false);
    check_match(not(80), &plaintext(), true);
}

#[test]
fn addresses_match_by_containment_and_family() {
    let source =
        |range: &str| Match { source_ips: vec![range.parse().unwrap()], ..Match::default() };
    check_match(source("10.0.0.0/24"), &plaintext(), true);
    check_match(source("10.0.0.1/32"), &plaintext(), true);
    check_match(source("10.0.1.0/24"), &plaintext(), false);
    check_match(source("::/0"), &plaintext(), false);
    check_match(source("0.0.0.0/0"), &plaintext(), true);
    let not =
        |range: &str| Match { not_source_ips: vec![range.parse().unwrap()], ..Match::default() };
    check_match(not("10.0.0.0/8"), &plaintext(), false);
    check_match(not("192.168.0.0/16"), &plaintext(), true);
    let to =
        |range: &str| Match { destination_ips: vec![range.parse().unwrap()], ..Match::default() };
    check_match(to("10.0.0.2/32"), &plaintext(), true);
    check_match(to("10.0.0.1/32"), &plaintext(), false);
    let v6 = Request { source_ip: "fd00::1".parse().unwrap(), ..plaintext() };
    check_match(source("fd00::/64"), &v6, true);
    check_match(source("0.0.0.0/0"), &v6, false);
    let mapped = Request { source_ip: "::ffff:10.0.0.1".parse().unwrap(), ..plaintext() };
    check_match(source("10.0.0.0/24"), &mapped, true);
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
fn what_no_allow_policy_allows_is_denied() {
    let only = Match { namespaces: exact("other"), ..Match::default() };
    let allow = policy("bookinfo/allow", PolicyScope::Namespace, Action::Allow, one(only));
    let decision = decide(&mesh(vec![allow]), &workload(&[]), &productpage());
    assert_eq!(decision, Decision::Deny(Denial::NotAllowed));
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
fn identities_of_other_trust_domains_have_other_principals() {
    let id: SpiffeId = "spiffe://other/ns/bookinfo/sa/productpage".parse().unwrap();
    let request = Request { source: Some(id), ..plaintext() };
    let here =
        Match { principals: exact("cluster.local/ns/bookinfo/sa/productpage"), ..Match::default() };
    check_match(here, &request, false);
}

#[test]
fn a_destination_range_and_its_opposite_are_about_the_pods_address() {
    let to =
        |range: &str| Match { destination_ips: vec![range.parse().unwrap()], ..Match::default() };
    let not = |range: &str| Match {
        not_destination_ips: vec![range.parse().unwrap()],
        ..Match::default()
    };
    for (range, holds) in
        [("10.0.0.0/24", true), ("10.0.0.2/32", true), ("10.0.0.1/32", false), ("::/0", false)]
    {
        check_match(to(range), &plaintext(), holds);
        check_match(not(range), &plaintext(), !holds);
    }
    let v6 = Request { destination: "[fd00::2]:9080".parse().unwrap(), ..plaintext() };
    check_match(to("fd00::/64"), &v6, true);
    check_match(to("0.0.0.0/0"), &v6, false);
    let mapped = Request { destination: "[::ffff:10.0.0.2]:9080".parse().unwrap(), ..plaintext() };
    check_match(to("10.0.0.2/32"), &mapped, true);
}

#[test]
fn of_a_positive_list_one_is_enough_and_of_a_negative_list_none_may_match() {
    let strings = |texts: [&str; 2]| texts.map(|text| StringMatch::Exact(text.into())).to_vec();
    let ranges = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let account = |namespace: &str| ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: "productpage".into(),
    };
    let accounts = |of: [&str; 2]| of.map(account).to_vec();
    let me = "cluster.local/ns/bookinfo/sa/productpage";
    let any = Match::default;
    for (positive, negative) in [
        (
            Match { namespaces: strings(["other", "bookinfo"]), ..any() },
            Match { not_namespaces: strings(["other", "bookinfo"]), ..any() },
        ),
        (
            Match { principals: strings(["other", me]), ..any() },
            Match { not_principals: strings(["other", me]), ..any() },
        ),
        (
            Match { service_accounts: accounts(["other", "bookinfo"]), ..any() },
            Match { not_service_accounts: accounts(["other", "bookinfo"]), ..any() },
        ),
        (
            Match { source_ips: ranges(["1.1.1.1/32", "10.0.0.1/32"]), ..any() },
            Match { not_source_ips: ranges(["1.1.1.1/32", "10.0.0.1/32"]), ..any() },
        ),
        (
            Match { destination_ips: ranges(["1.1.1.1/32", "10.0.0.2/32"]), ..any() },
            Match { not_destination_ips: ranges(["1.1.1.1/32", "10.0.0.2/32"]), ..any() },
        ),
        (
            Match { destination_ports: vec![80, 9080], ..any() },
            Match { not_destination_ports: vec![80, 9080], ..any() },
        ),
    ] {
        check_match(positive, &productpage(), true);
        check_match(negative, &productpage(), false);
    }
}

#[test]
fn a_positive_and_a_negative_list_of_one_field_must_both_hold() {
    let except = |not: &str| Match {
        namespaces: presence(),
        not_namespaces: exact(not),
        ..Match::default()
    };
    check_match(except("other"), &productpage(), true);
    check_match(except("bookinfo"), &productpage(), false);
    check_match(except("other"), &plaintext(), false);
}

#[test]
fn patterns_mean_the_same_for_namespaces_and_where_they_are_negated() {
    let me = "cluster.local/ns/bookinfo/sa/productpage";
    for (pattern, text, holds) in [
        (StringMatch::Prefix as fn(_) -> _, "book", true),
        (StringMatch::Prefix, "info", false),
        (StringMatch::Suffix, "info", true),
        (StringMatch::Suffix, "book", false),
        (StringMatch::Exact, "bookinfo", true),
        (StringMatch::Exact, "Bookinfo", false),
    ] {
        let namespaces = vec![pattern(text.into())];
        let condition = Match { namespaces: namespaces.clone(), ..Match::default() };
        check_match(condition, &productpage(), holds);
        let condition = Match { not_namespaces: namespaces, ..Match::default() };
        check_match(condition, &productpage(), !holds);
    }
    for (pattern, holds) in [
        (StringMatch::Prefix("cluster.local/ns/bookinfo/".into()), true),
        (StringMatch::Suffix("/sa/productpage".into()), true),
        (StringMatch::Exact(me.into()), true),
        (StringMatch::Suffix("/sa/details".into()), false),
    ] {
        let condition = Match { not_principals: vec![pattern], ..Match::default() };
        check_match(condition, &productpage(), !holds);
    }
}

#[test]
fn a_rule_of_empty_matches_alone_never_holds() {
    check(vec![group(vec![vec![Match::default(), Match::default()]])], &productpage(), false);
    let hit = Match { destination_ports: vec![9080], ..Match::default() };
    check(vec![group(vec![vec![hit], vec![Match::default()]])], &productpage(), false);
}

#[test]
fn to_from_and_when_must_all_hold() {
    let to = Match { destination_ports: vec![9080], ..Match::default() };
    let from =
        Match { principals: exact("cluster.local/ns/bookinfo/sa/productpage"), ..Match::default() };
    let when = |range: &str| Match { source_ips: vec![range.parse().unwrap()], ..Match::default() };
    let all = |range| vec![group(vec![vec![to.clone()], vec![from.clone()], vec![when(range)]])];
    check(all("10.0.0.0/8"), &productpage(), true);
    check(all("192.168.0.0/16"), &productpage(), false);
    check(all("10.0.0.0/8"), &plaintext(), false);
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
