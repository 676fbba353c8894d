//! What is made of PeerAuthentications, field by field and byte by byte, as istiod sends it.

use prost::Message as _;
use sotto_proto::security::StringMatch;

use super::*;

/// `not_principals: [presence]`, the condition of every one of these policies.
fn unauthenticated() -> Match {
    let presence = StringMatch { match_type: Some(MatchType::Presence(Presence {})) };
    Match {
        namespaces: vec![],
        not_namespaces: vec![],
        principals: vec![],
        not_principals: vec![presence],
        source_ips: vec![],
        not_source_ips: vec![],
        destination_ips: vec![],
        not_destination_ips: vec![],
        destination_ports: vec![],
        not_destination_ports: vec![],
        service_accounts: vec![],
        not_service_accounts: vec![],
        extensions: vec![],
    }
}

fn on(port: u32) -> Match {
    Match { destination_ports: vec![port], ..unauthenticated() }
}

fn except(port: u32) -> Match {
    Match { not_principals: vec![], not_destination_ports: vec![port], ..unauthenticated() }
}

/// A DENY of groups of rules, each of one match.
fn denies(namespace: &str, name: &str, groups: &[&[Match]]) -> Authorization {
    let rule = |only: &Match| Rules { matches: vec![only.clone()] };
    let group = |rules: &&[Match]| Group { rules: rules.iter().map(rule).collect() };
    Authorization {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scope: 2,
        action: 1,
        groups: groups.iter().map(group).collect(),
        dry_run: false,
        extensions: vec![],
    }
}

/// A fact, the policies, and what they make beside the static policy.
type Row = (&'static str, Vec<PeerAuthentication>, Vec<Authorization>);

fn rows() -> Vec<Row> {
    let of_w = |groups: &[&[Match]]| denies("foo", "converted_peer_authentication_w", groups);
    let w = |mode, ports: &[(u16, Mode)]| selecting("foo", "w", mode, ports);
    let (strict, unset_under) = (policy("foo", "n", Strict), policy(ROOT, "m", Strict));
    let (not_80, not_90) = (except(80), except(90));
    let none = unauthenticated();
    vec![
        ("a mode without ports is the static policy's", vec![w(Strict, &[])], vec![]),
        ("mesh and namespace modes make none", vec![strict.clone(), unset_under.clone()], vec![]),
        (
            "STRICT but for a port is one group of two rules",
            vec![w(Strict, &[(80, Permissive)])],
            vec![of_w(&[&[none.clone(), not_80.clone()]])],
        ),
        (
            "STRICT but for ports is one group of a rule each",
            vec![w(Strict, &[(90, Disable), (80, Permissive), (70, Strict)])],
            vec![of_w(&[&[none.clone(), not_80.clone(), not_90]])],
        ),
        (
            "PERMISSIVE but for ports is a group for each",
            vec![w(Permissive, &[(80, Strict), (90, Strict), (70, Disable)])],
            vec![of_w(&[&[on(80)], &[on(90)]])],
        ),
        (
            "DISABLE but for a port is as PERMISSIVE",
            vec![w(Disable, &[(80, Strict)])],
            vec![of_w(&[&[on(80)]])],
        ),
        (
            "UNSET under a STRICT namespace is as STRICT, for PERMISSIVE",
            vec![w(Unset, &[(80, Permissive)]), strict.clone()],
            vec![of_w(&[&[none.clone(), not_80.clone()]])],
        ),
        (
            "UNSET under a STRICT namespace is as STRICT, for DISABLE too",
            vec![w(Unset, &[(80, Disable)]), strict.clone()],
            vec![of_w(&[&[none.clone(), not_80.clone()]])],
        ),
        (
            "UNSET under a STRICT mesh is as STRICT",
            vec![w(Unset, &[(80, Disable)]), unset_under],
            vec![of_w(&[&[none.clone(), not_80.clone()]])],
        ),
        (
            "UNSET under nothing is as PERMISSIVE",
            vec![w(Unset, &[(80, Strict)])],
            vec![of_w(&[&[on(80)]])],
        ),
        ("all ports STRICT is the static policy's", vec![w(Strict, &[(80, Strict)])], vec![]),
        ("all ports PERMISSIVE is nothing", vec![w(Permissive, &[(80, Disable)])], vec![]),
        (
            "a selector of the root namespace makes it there",
            vec![selecting(ROOT, "w", Strict, &[(80, Disable)])],
            vec![denies(ROOT, "converted_peer_authentication_w", &[&[none, not_80]])],
        ),
    ]
}

#[test]
fn every_shape_of_policy_is_made_field_by_field() {
    let fixed = denies(ROOT, "istio_converted_static_strict", &[&[unauthenticated()]]);
    for (fact, policies, mut expected) in rows() {
        expected.push(fixed.clone());
        expected.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        assert_eq!(authorizations(&all(&policies), ROOT), expected, "{fact}");
    }
}

/// A field of wire type 2.
fn sized(number: u8, body: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(body.len()).unwrap()], body].concat()
}

/// Name, namespace, scope WORKLOAD_SELECTOR, action DENY, and the rest.
fn policy_bytes(namespace: &str, name: &str, groups: &[Vec<u8>]) -> Vec<u8> {
    let head = [sized(1, name.as_bytes()), sized(2, namespace.as_bytes())].concat();
    [head, vec![3 << 3, 2, 4 << 3, 1], groups.concat()].concat()
}

#[test]
fn every_shape_of_policy_is_istiods_byte_by_byte() {
    // StringMatch.presence = 4, Match.not_principals = 4, .destination_ports = 9,
    // .not_destination_ports = 10, Rules.matches = 2, Group.rules = 1, Authorization.groups = 5.
    let presence = sized(4, &sized(4, &[]));
    let rule = |only: &[u8]| sized(1, &sized(2, only));
    let fixed = static_strict(ROOT).encode_to_vec();
    let name = "istio_converted_static_strict";
    assert_eq!(fixed, policy_bytes(ROOT, name, &[sized(5, &rule(&presence))]));

    let made = |mode, port| {
        let policies = all(&[selecting("foo", "w", mode, &[(80, port), (90, port)])]);
        authorizations(&policies, ROOT)[0].encode_to_vec()
    };
    let name = "converted_peer_authentication_w";
    let but = [rule(&presence), rule(&sized(10, &[80])), rule(&sized(10, &[90]))].concat();
    assert_eq!(made(Strict, Disable), policy_bytes("foo", name, &[sized(5, &but)]));
    let only = |port| sized(5, &rule(&[presence.clone(), sized(9, &[port])].concat()));
    assert_eq!(made(Permissive, Strict), policy_bytes("foo", name, &[only(80), only(90)]));
}
