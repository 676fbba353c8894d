//! What holds for any policies and any request.

use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::mesh::policy::{
    Action, Authorization, Group, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch,
};
use crate::mesh::{MatchedRule, Mesh, MeshEvent, PolicyKey, SpiffeId, Store, Workload};

use super::{
    Considered, Decision, Denial, Finding, Permit, Request, STATIC_STRICT, Subject, decide, explain,
};

mod reference;
mod walk;

// Few values, so that they meet.
const NAMESPACES: [&str; 3] = ["a", "b", "root"];
const ACCOUNTS: [&str; 2] = ["x", "y"];
const DOMAINS: [&str; 2] = ["cluster.local", "other"];
const PORTS: [u16; 3] = [80, 443, 9080];
const RANGES: [&str; 4] = ["10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "0.0.0.0/0"];
const ADDRESSES: [&str; 3] = ["10.0.0.1", "192.168.0.1", "fd00::1"];
const NAMES: [&str; 5] = ["p", "q", "r", STATIC_STRICT, CONVERTED];
const CONVERTED: &str = "converted_peer_authentication_p";

fn any_identity() -> impl Strategy<Value = SpiffeId> {
    (select(&DOMAINS[..]), select(&NAMESPACES[..]), select(&ACCOUNTS[..]))
        .prop_map(|(domain, namespace, account)| SpiffeId::new(domain, namespace, account).unwrap())
}

fn any_request() -> impl Strategy<Value = Request> {
    let address = || select(&ADDRESSES[..]).prop_map(|text| text.parse().unwrap());
    (address(), proptest::option::of(any_identity()), address(), select(&PORTS[..])).prop_map(
        |(source_ip, source, ip, port)| Request {
            source_ip,
            source,
            destination: std::net::SocketAddr::new(ip, port),
        },
    )
}

fn any_pattern() -> impl Strategy<Value = StringMatch> {
    let text = select(vec!["", "a", "b", "cluster.local", "/sa/x", "cluster.local/ns/a/sa/x"]);
    prop_oneof![
        text.clone().prop_map(|text| StringMatch::Exact(text.into())),
        text.clone().prop_map(|text| StringMatch::Prefix(text.into())),
        text.prop_map(|text| StringMatch::Suffix(text.into())),
        Just(StringMatch::Presence),
    ]
}

fn few<T: std::fmt::Debug + Clone>(
    element: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => Just(Vec::new()), 1 => vec(element, 1..=2)]
}

fn any_match() -> impl Strategy<Value = Match> {
    let range = || select(&RANGES[..]).prop_map(|text| text.parse::<IpNet>().unwrap());
    let account = || {
        (select(&NAMESPACES[..]), select(&ACCOUNTS[..])).prop_map(|(namespace, account)| {
            ServiceAccountMatch { namespace: namespace.into(), service_account: account.into() }
        })
    };
    let strings = (few(any_pattern()), few(any_pattern()), few(any_pattern()), few(any_pattern()));
    let ranges = (few(range()), few(range()), few(range()), few(range()));
    let ports = (few(select(&PORTS[..])), few(select(&PORTS[..])));
    let accounts = (few(account()), few(account()));
    (strings, ranges, ports, accounts).prop_map(|(strings, ranges, ports, accounts)| Match {
        namespaces: strings.0,
        not_namespaces: strings.1,
        principals: strings.2,
        not_principals: strings.3,
        source_ips: ranges.0,
        not_source_ips: ranges.1,
        destination_ips: ranges.2,
        not_destination_ips: ranges.3,
        destination_ports: ports.0,
        not_destination_ports: ports.1,
        service_accounts: accounts.0,
        not_service_accounts: accounts.1,
    })
}

fn any_policy() -> impl Strategy<Value = Authorization> {
    let rule = vec(any_match(), 0..3).prop_map(|matches| Rule { matches });
    let group = vec(rule, 0..3).prop_map(|rules| Group { rules });
    let scope =
        select(vec![PolicyScope::Global, PolicyScope::Namespace, PolicyScope::WorkloadSelector]);
    let action = select(vec![Action::Allow, Action::Deny]);
    (any_key(), scope, action, vec(group, 0..3), proptest::bool::weighted(0.2)).prop_map(
        |(key, scope, action, groups, dry_run)| Authorization {
            key,
            scope,
            action,
            groups,
            dry_run,
        },
    )
}

fn any_key() -> impl Strategy<Value = PolicyKey> {
    (select(&NAMESPACES[..]), select(&NAMES[..]))
        .prop_map(|(namespace, name)| PolicyKey { namespace: namespace.into(), name: name.into() })
}

/// Policies with distinct keys.
fn any_policies() -> impl Strategy<Value = Vec<Authorization>> {
    vec(any_policy(), 0..6).prop_map(|mut policies| {
        policies.sort_by(|a, b| a.key.cmp(&b.key));
        policies.dedup_by(|a, b| a.key == b.key);
        policies
    })
}

fn any_workload() -> impl Strategy<Value = Workload> {
    (select(&NAMESPACES[..]), vec(any_key(), 0..4)).prop_map(|(namespace, policies)| {
        let ip = "10.0.0.2".parse().unwrap();
        let mut workload = Workload::pod("c", namespace, "pod", "sa", ip).unwrap();
        workload.authorization_policies = policies.into();
        workload
    })
}

fn mesh(policies: &[Authorization]) -> Arc<Mesh> {
    let (mut store, reader) = Store::new();
    store.apply(policies.iter().map(|policy| MeshEvent::Policy(Arc::new(policy.clone()))));
    reader.load()
}

/// The same policies at the end of a history: `before` was in force, and part of it was replaced.
fn mesh_after(before: &[Authorization], policies: &[Authorization]) -> Arc<Mesh> {
    let (mut store, reader) = Store::new();
    let event = |policy: &Authorization| MeshEvent::Policy(Arc::new(policy.clone()));
    store.apply(before.iter().map(event));
    store.apply(policies.iter().map(event));
    let stays = |key: &PolicyKey| policies.iter().any(|policy| policy.key == *key);
    let gone = before.iter().map(|policy| policy.key.clone()).filter(|key| !stays(key));
    store.apply(gone.map(MeshEvent::RemovePolicy));
    reader.load()
}

/// Policies that ask for little, so that many of them match.
fn any_plain_policy() -> impl Strategy<Value = Authorization> {
    let scope = prop_oneof![
        2 => Just(PolicyScope::Namespace),
        1 => Just(PolicyScope::Global),
        1 => Just(PolicyScope::WorkloadSelector),
    ];
    let action = select(vec![Action::Allow, Action::Deny]);
    let group = vec(any_plain_match(), 1..=2).prop_map(|matches| {
        let rules = matches.into_iter().map(|condition| Rule { matches: vec![condition] });
        Group { rules: rules.collect() }
    });
    let name = (0..8_u8).prop_map(|name| arcstr::format!("p{name:02}"));
    (select(&NAMESPACES[..]), name, scope, action, vec(group, 1..=2)).prop_map(
        |(namespace, name, scope, action, groups)| Authorization {
            key: PolicyKey { namespace: namespace.into(), name },
            scope,
            action,
            groups,
            dry_run: false,
        },
    )
}

/// One field, of those an index may use and one that it may not.
fn any_plain_match() -> impl Strategy<Value = Match> {
    let parts = (0..6_u8, select(&NAMESPACES[..]), select(&ACCOUNTS[..]), select(&PORTS[..]));
    parts.prop_map(|(kind, namespace, account, port)| {
        let exact = |text: arcstr::ArcStr| vec![StringMatch::Exact(text)];
        let mut condition = Match::default();
        match kind {
            0 => condition.namespaces = exact(namespace.into()),
            1 => {
                let principal = arcstr::format!("cluster.local/ns/{namespace}/sa/{account}");
                condition.principals = exact(principal);
            }
            2 => condition.service_accounts.push(ServiceAccountMatch {
                namespace: namespace.into(),
                service_account: account.into(),
            }),
            3 => condition.destination_ports = vec![port],
            4 => condition.source_ips = vec!["10.0.0.1/32".parse().unwrap()],
            _ => condition.not_destination_ports = vec![port],
        }
        condition
    })
}

fn many_plain_policies() -> impl Strategy<Value = Vec<Authorization>> {
    vec(any_plain_policy(), 0..10).prop_map(|mut policies| {
        policies.sort_by(|a, b| a.key.cmp(&b.key));
        policies.dedup_by(|a, b| a.key == b.key);
        policies
    })
}

fn outcome(decision: &Decision) -> Outcome {
    match decision {
        Decision::Allow(_) => Outcome::Allow,
        Decision::Deny(_) => Outcome::Deny,
        Decision::Unknown(_) => Outcome::Unknown,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Allow,
    Deny,
    Unknown,
}

/// The verdict that follows from the policies an explanation lists, and from nothing else.
fn follows_from(considered: &[Considered]) -> Outcome {
    let enforced = || considered.iter().filter(|policy| !policy.dry_run);
    let of = |action| enforced().filter(move |policy| policy.action == Some(action));
    let matches = |policy: &Considered| matches!(policy.finding, Finding::Match(_));
    if of(Action::Deny).any(matches) {
        Outcome::Deny
    } else if enforced().any(|policy| policy.finding == Finding::Missing) {
        Outcome::Unknown
    } else if of(Action::Allow).next().is_none() || of(Action::Allow).any(matches) {
        Outcome::Allow
    } else {
        Outcome::Deny
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_decision_is_that_of_the_plain_rules(
        policies in any_policies(), workload in any_workload(), request in any_request(),
    ) {
        let decision = decide(&mesh(&policies), &workload, &request);
        prop_assert_eq!(outcome(&decision), reference::decide(&policies, &workload, &request));
        prop_assert_eq!(decision, walk::decide(&policies, &workload, &request));
    }

    #[test]
    fn among_many_policies_the_same_one_is_named_as_by_asking_each(
        before in many_plain_policies(), policies in many_plain_policies(),
        namespace in select(&NAMESPACES[..]), listed in 0..10_usize, request in any_request(),
    ) {
        let ip = "10.0.0.2".parse().unwrap();
        let mut workload = Workload::pod("c", namespace, "pod", "sa", ip).unwrap();
        // In no order of keys, so that the order of the list counts.
        workload.authorization_policies =
            policies.iter().rev().take(listed).map(|policy| policy.key.clone()).collect();
        let decision = decide(&mesh_after(&before, &policies), &workload, &request);
        prop_assert_eq!(decision, walk::decide(&policies, &workload, &request));
    }

    #[test]
    fn without_one_allow_policy_no_more_is_denied_by_others(
        policies in any_policies(), workload in any_workload(), request in any_request(),
    ) {
        // Taking an ALLOW away may allow what others did not (when it was the last one), but it
        // never turns a DENY into anything else, and never adds one.
        let Some(at) = policies.iter().position(|policy| policy.action == Action::Allow) else {
            return Ok(());
        };
        let explicit = |decision: &Decision| matches!(decision, Decision::Deny(Denial::Explicit(_)));
        let mut fewer = policies.clone();
        let removed = fewer.remove(at);
        let mut unnamed = workload.clone();
        let kept = workload.authorization_policies.iter().filter(|key| **key != removed.key);
        unnamed.authorization_policies = kept.cloned().collect();
        let with = decide(&mesh(&policies), &workload, &request);
        let without = decide(&mesh(&fewer), &unnamed, &request);
        prop_assert_eq!(explicit(&with), explicit(&without));
    }

    #[test]
    fn a_policy_that_cannot_be_read_allows_nothing_it_may_govern(
        policies in any_policies(), workload in any_workload(), request in any_request(),
        scope in select(vec![PolicyScope::Global, PolicyScope::Namespace]),
    ) {
        let (mut store, reader) = Store::new();
        store.apply(policies.iter().map(|policy| MeshEvent::Policy(Arc::new(policy.clone()))));
        let before = decide(&reader.load(), &workload, &request);
        let key = PolicyKey { namespace: workload.namespace.clone(), name: "zz".into() };
        store.apply([MeshEvent::UnreadablePolicy(key.clone(), scope)]);
        let during = decide(&reader.load(), &workload, &request);
        let explicit = matches!(before, Decision::Deny(Denial::Explicit(_)));
        prop_assert!(outcome(&during) == Outcome::Unknown || explicit && during == before);
        store.apply([MeshEvent::RemovePolicy(key)]);
        prop_assert_eq!(decide(&reader.load(), &workload, &request), before);
    }

    #[test]
    fn an_explanation_accounts_for_the_decision(
        policies in any_policies(), workload in any_workload(), request in any_request(),
    ) {
        let mesh = mesh(&policies);
        let (decision, explained) =
            (decide(&mesh, &workload, &request), explain(&mesh, &workload, &request));
        prop_assert_eq!(&explained.decision, &decision);
        prop_assert_eq!(follows_from(&explained.considered), outcome(&decision));
        let by = match &decision {
            Decision::Allow(permit) => permit.by().cloned(),
            Decision::Deny(denial) => denial.by(),
            Decision::Unknown(_) => None,
        };
        if let Some(by) = by {
            let finding = Finding::Match(by.rule);
            let found = |p: &Considered| p.policy == by.policy && p.finding == finding;
            prop_assert!(explained.considered.iter().any(found), "{:?}", by);
        }
        for considered in &explained.considered {
            if let Finding::Differ(why) = &considered.finding {
                let told = |line: &String| !line.ends_with(":  differ");
                prop_assert!(!why.is_empty() && why.iter().all(told), "{:?}", why);
            }
        }
    }

    #[test]
    fn a_deny_that_matches_everything_wins(
        policies in any_policies(), workload in any_workload(), request in any_request(),
    ) {
        let key = PolicyKey { namespace: "root".into(), name: "zz-deny".into() };
        let deny = Authorization {
            key,
            scope: PolicyScope::Global,
            action: Action::Deny,
            groups: vec![Group::default()],
            dry_run: false,
        };
        let all: Vec<_> = policies.into_iter().chain([deny]).collect();
        let decision = decide(&mesh(&all), &workload, &request);
        prop_assert!(matches!(decision, Decision::Deny(Denial::Explicit(_))), "{:?}", decision);
    }

    #[test]
    fn one_more_deny_never_allows_more(
        policies in any_policies(), more in any_policy(), workload in any_workload(),
        request in any_request(),
    ) {
        let name = PolicyKey { name: "zz-more".into(), ..more.key.clone() };
        let more = Authorization { key: name, action: Action::Deny, ..more };
        let before = outcome(&decide(&mesh(&policies), &workload, &request));
        let all: Vec<_> = policies.into_iter().chain([more]).collect();
        let after = outcome(&decide(&mesh(&all), &workload, &request));
        prop_assert!(after == before || after == Outcome::Deny, "{:?} -> {:?}", before, after);
    }

    #[test]
    fn the_order_of_policies_never_matters(
        (policies, shuffled) in any_policies()
            .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        workload in any_workload(), request in any_request(),
    ) {
        let first = decide(&mesh(&policies), &workload, &request);
        let second = decide(&mesh(&shuffled), &workload, &request);
        prop_assert_eq!(first, second);
    }
}
