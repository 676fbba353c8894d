//! How many policies a look-up asks, and that what it skips could not have matched.

use std::sync::Arc;

use ipnet::IpNet;

use super::*;
use crate::mesh::SpiffeId;
use crate::mesh::policy::{Group, Match, Rule, ServiceAccountMatch, StringMatch};

const MANY: usize = 1000;

fn key(name: usize) -> PolicyKey {
    PolicyKey { namespace: "ns".into(), name: arcstr::format!("p{name:04}") }
}

/// A policy of rules that must all hold, one match each.
fn policy(name: usize, rules: Vec<Match>) -> Arc<Authorization> {
    let rules = rules.into_iter().map(|condition| Rule { matches: vec![condition] }).collect();
    Arc::new(Authorization {
        key: key(name),
        scope: PolicyScope::Namespace,
        action: Action::Allow,
        groups: vec![Group { rules }],
        dry_run: false,
    })
}

fn index(of: impl Fn(usize) -> Vec<Match>) -> PolicyIndex<PolicyKey> {
    let mut index = PolicyIndex::default();
    for name in 0..MANY {
        index.insert(key(name), policy(name, of(name)));
    }
    index
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/ns7/sa/sa7".parse().unwrap()
}

/// How many policies are asked when none says yes.
fn asked(index: &PolicyIndex<PolicyKey>, identity: Option<&SpiffeId>) -> usize {
    let probe = Probe::new([10, 0, 0, 7].into(), identity, 1007);
    let mut asked = 0;
    let found = index.first(&probe, |_| {
        asked += 1;
        None::<()>
    });
    assert!(found.is_none());
    asked
}

fn exact(text: String) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

fn principal(of: usize) -> Match {
    let principals = exact(format!("cluster.local/ns/ns{of}/sa/sa{of}"));
    Match { principals, ..Match::default() }
}

fn port(of: usize) -> Match {
    Match { destination_ports: vec![1000 + u16::try_from(of).unwrap()], ..Match::default() }
}

/// Of many policies that differ in one way, one is asked; and none if nobody proved who it is.
fn check(of: impl Fn(usize) -> Vec<Match>, by_identity: usize, plaintext: usize) {
    let index = index(of);
    assert_eq!((asked(&index, Some(&identity())), asked(&index, None)), (by_identity, plaintext));
}

#[test]
fn of_a_thousand_policies_only_those_that_may_match_are_asked() {
    let account = |of| ServiceAccountMatch {
        namespace: arcstr::format!("ns{of}"),
        service_account: arcstr::format!("sa{of}"),
    };
    let accounts = |of| Match { service_accounts: vec![account(of)], ..Match::default() };
    let namespaces = |of| Match { namespaces: exact(format!("ns{of}")), ..Match::default() };
    let range = |of: usize| {
        let [.., high, low] = u32::try_from(of).unwrap().to_be_bytes();
        IpNet::from(std::net::IpAddr::from([10, 0, high, low]))
    };
    let addresses = |of| Match { source_ips: vec![range(of)], ..Match::default() };
    check(|of| vec![principal(of)], 1, 0);
    check(|of| vec![accounts(of)], 1, 0);
    check(|of| vec![namespaces(of)], 1, 0);
    check(|of| vec![port(of)], 1, 1);
    check(|of| vec![addresses(of)], 1, 1);
    // One port and many callers, one caller and many ports.
    check(|of| vec![port(7), principal(of)], 1, 0);
    check(|of| vec![port(of), principal(7)], 1, 0);
    check(|of| vec![Match { namespaces: exact("ns7".into()), ..port(of) }], 1, 0);
    // What can never match is never asked.
    check(|_| vec![Match::default()], 0, 0);
    check(|of| vec![Match { principals: exact(format!("sa{of}")), ..Match::default() }], 0, 0);
}

#[test]
fn what_cannot_be_looked_up_is_asked_every_time() {
    let pattern = |pattern| Match { principals: vec![pattern], ..Match::default() };
    for open in [
        pattern(StringMatch::Presence),
        pattern(StringMatch::Prefix("other/".into())),
        Match { not_principals: vec![StringMatch::Presence], ..Match::default() },
        Match { not_destination_ports: vec![1007], ..Match::default() },
        Match { source_ips: vec!["10.0.0.0/8".parse().unwrap()], ..Match::default() },
    ] {
        check(|_| vec![open.clone()], MANY, MANY);
        // Beside something that can be, it costs nothing.
        check(|of| vec![open.clone(), port(of)], 1, 1);
    }
}

#[test]
fn a_rule_that_may_be_met_otherwise_is_no_key() {
    let either = |of: usize| {
        let mut policy = Authorization::clone(&policy(of, vec![port(of)]));
        let anyone = Match { not_destination_ports: vec![1], ..Match::default() };
        policy.groups[0].rules[0].matches.push(anyone);
        Arc::new(policy)
    };
    let mut index = PolicyIndex::default();
    index.insert(key(0), either(0));
    assert_eq!(asked(&index, None), 1);
}

#[test]
fn the_first_in_order_is_found_whatever_key_leads_to_it() {
    let mut index = PolicyIndex::default();
    index.insert(key(2), policy(2, vec![principal(7)]));
    index.insert(key(3), policy(3, vec![]));
    index.insert(key(1), policy(1, vec![port(7)]));
    let (identity, mut order) = (identity(), Vec::new());
    while !index.is_empty() {
        let probe = Probe::new([10, 0, 0, 7].into(), Some(&identity), 1007);
        let (first, ()) = index.first(&probe, |_| Some(())).unwrap();
        let first = first.key.clone();
        index.remove(&first);
        order.push(first);
    }
    assert_eq!(order, [key(1), key(2), key(3)]);
}

#[test]
fn a_long_list_of_callers_and_ports_is_filed_by_the_shorter() {
    let callers =
        (0..200).map(|of| StringMatch::Exact(arcstr::format!("d/ns/n{of}/sa/s"))).collect();
    let long =
        Match { principals: callers, destination_ports: (0..300).collect(), ..Match::default() };
    assert_eq!(keys::keys(&policy(0, vec![long.clone()])).len(), 200);
    let ports = Match { principals: vec![], ..long };
    check(|_| vec![ports.clone()], MANY, MANY);
}

#[test]
fn names_are_looked_up_once_until_a_policy_changes() {
    let mut policies = Policies::default();
    let list = PolicyList::from(vec![key(1), key(2)]);
    policies.insert(policy(1, vec![]));
    let first = policies.select(&list).unwrap();
    assert_eq!((first.known().count(), first.unknown()), (1, &[key(2)][..]));
    assert!(Arc::ptr_eq(&first, &policies.clone().select(&list).unwrap()));
    let before = policies.clone();
    policies.insert(policy(2, vec![]));
    let second = policies.select(&list).unwrap();
    assert_eq!((second.known().count(), second.unknown()), (2, &[][..]));
    // Neither an older snapshot nor other policies take it for theirs.
    assert_eq!(before.select(&list).unwrap().unknown(), [key(2)]);
    assert_eq!(Policies::default().select(&list).unwrap().unknown().len(), 2);
    assert!(policies.select(&PolicyList::default()).is_none());
}
