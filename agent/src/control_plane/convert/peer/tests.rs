use super::*;

const ROOT: &str = "istio-system";
use Mode::{Disable, Permissive, Strict, Unset};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn policy(namespace: &str, name: &str, mode: Mode) -> PeerAuthentication {
    PeerAuthentication {
        key: ObjectKey::new(namespace, name),
        created: 0,
        selector: Selector::All,
        mode,
        ports: BTreeMap::new(),
    }
}

/// For `app: a`.
fn selecting(namespace: &str, name: &str, mode: Mode, ports: &[(u16, Mode)]) -> PeerAuthentication {
    PeerAuthentication {
        selector: Selector::Labels(labels(&[("app", "a")])),
        ports: ports.iter().copied().collect(),
        ..policy(namespace, name, mode)
    }
}

fn aged(created: i64, policy: PeerAuthentication) -> PeerAuthentication {
    PeerAuthentication { created, ..policy }
}

fn all(policies: &[PeerAuthentication]) -> Policies {
    policies.iter().map(|policy| (policy.key.clone(), policy.clone())).collect()
}

const STATIC: Option<&str> = Some("istio-system/istio_converted_static_strict");
const NONE: Option<&str> = None;

/// What a pod of namespace `foo` with `app: a` refers to.
#[track_caller]
fn check(policies: &[PeerAuthentication], expected: Option<&str>) {
    check_in("foo", policies, expected);
}

#[track_caller]
fn check_in(namespace: &str, policies: &[PeerAuthentication], expected: Option<&str>) {
    let found = references(&all(policies), ROOT, namespace, &labels(&[("app", "a"), ("v", "1")]));
    assert_eq!(found.map(|key| key.to_string()).as_deref(), expected);
}

/// Name and groups of every policy made, a match written as `!id`, `!id 80` or `not 80`.
fn made(policies: &[PeerAuthentication]) -> Vec<String> {
    let matched = |m: &Match| {
        let identity = if m.not_principals.is_empty() { "" } else { "!id" };
        let ports = m.destination_ports.iter().map(|port| format!(" {port}"));
        let not = m.not_destination_ports.iter().map(|port| format!("not {port}"));
        identity.to_owned() + &ports.chain(not).collect::<String>()
    };
    let group = |group: &Group| {
        let rules = group.rules.iter().map(|rule| {
            assert_eq!(rule.matches.len(), 1, "one match a rule");
            matched(&rule.matches[0])
        });
        rules.collect::<Vec<_>>().join(" & ")
    };
    let written = |policy: &Authorization| {
        assert_eq!(policy.scope(), Scope::WorkloadSelector);
        assert_eq!(policy.action(), Action::Deny);
        let groups: Vec<_> = policy.groups.iter().map(group).collect();
        format!("{}/{}: {}", policy.namespace, policy.name, groups.join(" | "))
    };
    authorizations(&all(policies), ROOT).iter().map(written).collect()
}

const STATIC_MADE: &str = "istio-system/istio_converted_static_strict: !id";

#[test]
fn nothing_means_permissive() {
    check(&[], NONE);
}

#[test]
fn mesh_strict_is_strict_everywhere() {
    check(&[policy(ROOT, "default", Strict)], STATIC);
    check_in(ROOT, &[policy(ROOT, "default", Strict)], STATIC);
}

#[test]
fn mesh_unset_permissive_and_disable_are_permissive() {
    for mode in [Unset, Permissive, Disable] {
        check(&[policy(ROOT, "default", mode)], NONE);
    }
}

#[test]
fn any_name_is_mesh_level_in_the_root_namespace() {
    check(&[policy(ROOT, "mesh-strict-policy", Strict)], STATIC);
}

#[test]
fn namespace_wins_over_mesh() {
    for (mode, expected) in [(Strict, STATIC), (Permissive, NONE), (Disable, NONE)] {
        check(&[policy(ROOT, "m", Strict), policy("foo", "n", mode)], expected);
        check(&[policy(ROOT, "m", Permissive), policy("foo", "n", mode)], expected);
    }
}

#[test]
fn namespace_unset_does_not_reset_the_mesh() {
    check(&[policy(ROOT, "m", Strict), policy("foo", "n", Unset)], STATIC);
}

#[test]
fn another_namespace_s_policy_does_not_matter() {
    check(&[policy("bar", "n", Strict)], NONE);
    check(&[policy("fo", "n", Strict), policy("foo2", "n", Strict)], NONE);
    check(&[selecting("bar", "w", Strict, &[])], NONE);
}

#[test]
fn workload_wins_over_namespace_and_mesh() {
    let parents = [policy(ROOT, "m", Strict), policy("foo", "n", Strict)];
    for (mode, expected) in [(Strict, STATIC), (Permissive, NONE), (Disable, NONE), (Unset, STATIC)]
    {
        let mut policies = parents.to_vec();
        policies.push(selecting("foo", "w", mode, &[]));
        check(&policies, expected);
    }
}

#[test]
fn workload_unset_inherits() {
    check(&[selecting("foo", "w", Unset, &[])], NONE);
    check(&[policy("foo", "n", Strict), selecting("foo", "w", Unset, &[])], STATIC);
    check(&[policy(ROOT, "m", Strict), selecting("foo", "w", Unset, &[])], STATIC);
}

#[test]
fn selector_must_match_every_label() {
    let mut other = selecting("foo", "w", Strict, &[]);
    other.selector = Selector::Labels(labels(&[("app", "a"), ("v", "2")]));
    check(&[other.clone()], NONE);
    other.selector = Selector::Labels(labels(&[("app", "a"), ("v", "1")]));
    check(&[other], STATIC);
}

#[test]
fn empty_selector_is_none() {
    let mut wide = selecting("foo", "n", Strict, &[(8080, Permissive)]);
    wide.selector = Selector::All;
    check(&[wide.clone()], STATIC);
    assert_eq!(made(&[wide]), [STATIC_MADE]);
    let mut wide = selecting(ROOT, "m", Strict, &[]);
    wide.selector = Selector::All;
    check(&[wide], STATIC);
}

#[test]
fn ports_without_a_selector_are_ignored() {
    let mut wide = policy("foo", "n", Permissive);
    wide.ports = BTreeMap::from([(8080, Strict)]);
    check(&[wide.clone()], NONE);
    assert_eq!(made(&[wide]), [STATIC_MADE]);
}

#[test]
fn oldest_wins_at_each_level() {
    check(&[aged(1, policy("foo", "z", Strict)), aged(2, policy("foo", "a", Permissive))], STATIC);
    check(&[aged(2, policy(ROOT, "a", Permissive)), aged(1, policy(ROOT, "z", Strict))], STATIC);
    check(
        &[
            aged(2, selecting("foo", "a", Permissive, &[])),
            aged(1, selecting("foo", "z", Strict, &[])),
        ],
        STATIC,
    );
}

#[test]
fn equal_ages_are_decided_by_name() {
    check(&[policy("foo", "a", Strict), policy("foo", "b", Permissive)], STATIC);
    check(&[policy("foo", "a", Permissive), policy("foo", "b", Strict)], NONE);
}

#[test]
fn root_selector_policy_applies_in_every_namespace() {
    check(&[selecting(ROOT, "w", Strict, &[])], STATIC);
    check_in(ROOT, &[selecting(ROOT, "w", Strict, &[])], STATIC);
    check(&[policy("foo", "n", Strict), selecting(ROOT, "w", Permissive, &[])], NONE);
}

#[test]
fn root_selector_policy_yields_to_the_namespace_s_own() {
    let own = selecting("foo", "own", Permissive, &[]);
    check(&[aged(5, own), aged(1, selecting(ROOT, "w", Strict, &[]))], NONE);
}

#[test]
fn root_selector_policy_must_match() {
    let mut other = selecting(ROOT, "w", Strict, &[]);
    other.selector = Selector::Labels(labels(&[("app", "b")]));
    check(&[other], NONE);
}

#[test]
fn static_strict_is_made_iff_there_is_any_policy() {
    assert_eq!(made(&[]), Vec::<String>::new());
    assert_eq!(made(&[policy("foo", "n", Permissive)]), [STATIC_MADE]);
}

#[test]
fn static_strict_denies_whoever_has_no_identity() {
    let rule = Rules {
        matches: vec![Match {
            not_principals: vec![matching(MatchType::Presence(Presence {}))],
            ..Match::default()
        }],
    };
    assert_eq!(
        static_strict(ROOT),
        Authorization {
            name: "istio_converted_static_strict".to_owned(),
            namespace: ROOT.to_owned(),
            scope: Scope::WorkloadSelector.into(),
            action: Action::Deny.into(),
            groups: vec![Group { rules: vec![rule] }],
            dry_run: false,
            extensions: Vec::new(),
        }
    );
}

const CONVERTED: Option<&str> = Some("foo/converted_peer_authentication_w");

/// A workload policy, whether its parents are STRICT, what it refers to and what is made of it.
#[track_caller]
fn check_ports(
    mode: Mode,
    parent: Option<Mode>,
    ports: &[(u16, Mode)],
    expected: Option<&str>,
    groups: Option<&str>,
) {
    let mut policies = vec![selecting("foo", "w", mode, ports)];
    policies.extend(parent.map(|mode| policy("foo", "n", mode)));
    check(&policies, expected);
    let made = made(&policies);
    let mut wanted: Vec<String> =
        groups.map(|groups| format!("{}: {groups}", CONVERTED.unwrap())).into_iter().collect();
    wanted.push(STATIC_MADE.to_owned());
    assert_eq!(made, wanted);
}

#[test]
fn strict_with_a_permissive_or_disabled_port_is_one_group() {
    for exception in [Permissive, Disable] {
        check_ports(Strict, None, &[(80, exception)], CONVERTED, Some("!id & not 80"));
    }
    let ports = [(90, Disable), (80, Permissive), (100, Strict)];
    check_ports(Strict, None, &ports, CONVERTED, Some("!id & not 80 & not 90"));
}

#[test]
fn strict_with_strict_ports_is_the_static_policy() {
    check_ports(Strict, None, &[(80, Strict)], STATIC, None);
    check_ports(Strict, None, &[(80, Unset)], STATIC, None);
}

#[test]
fn permissive_with_strict_ports_is_one_group_a_port() {
    for mode in [Permissive, Disable] {
        check_ports(mode, Some(Strict), &[(80, Strict)], CONVERTED, Some("!id 80"));
        let ports = [(90, Strict), (80, Strict), (70, Permissive)];
        check_ports(mode, None, &ports, CONVERTED, Some("!id 80 | !id 90"));
    }
}

#[test]
fn permissive_with_permissive_ports_is_nothing() {
    check_ports(Permissive, Some(Strict), &[(80, Permissive), (90, Disable)], NONE, None);
}

#[test]
fn unset_under_strict_with_a_permissive_port_is_an_exception() {
    check_ports(Unset, Some(Strict), &[(80, Permissive)], CONVERTED, Some("!id & not 80"));
}

#[test]
fn unset_under_strict_with_a_disabled_port_is_an_exception_too() {
    check_ports(Unset, Some(Strict), &[(8080, Disable)], CONVERTED, Some("!id & not 8080"));
}

#[test]
fn unset_under_strict_with_strict_ports_is_the_static_policy() {
    check_ports(Unset, Some(Strict), &[(80, Strict)], STATIC, None);
}

#[test]
fn unset_without_strict_parent_with_a_strict_port() {
    check_ports(Unset, Some(Permissive), &[(80, Strict)], CONVERTED, Some("!id 80"));
    check_ports(Unset, None, &[(80, Strict)], CONVERTED, Some("!id 80"));
}

#[test]
fn root_policy_with_ports_is_made_once_in_the_root_namespace() {
    let policies = [selecting(ROOT, "w", Strict, &[(80, Permissive)])];
    check(&policies, Some("istio-system/converted_peer_authentication_w"));
    let made = made(&policies);
    assert_eq!(made, ["istio-system/converted_peer_authentication_w: !id & not 80", STATIC_MADE]);
}

#[test]
fn root_policy_of_mode_unset_inherits_by_namespace() {
    let ports = [(80, Permissive), (90, Strict)];
    let policies = [selecting(ROOT, "w", Unset, &ports), policy("foo", "n", Strict)];
    check(&policies, Some("istio-system/converted_peer_authentication_w_strict"));
    check_in("bar", &policies, Some("istio-system/converted_peer_authentication_w"));
    assert_eq!(
        made(&policies),
        [
            "istio-system/converted_peer_authentication_w: !id 90",
            "istio-system/converted_peer_authentication_w_strict: !id & not 80",
            STATIC_MADE,
        ]
    );
}

#[test]
fn every_reference_is_made() {
    let modes = [Unset, Disable, Permissive, Strict];
    for mesh in modes {
        for namespace in modes {
            for (at, workload) in modes.into_iter().enumerate() {
                for port in modes {
                    let home = if at % 2 == 0 { "foo" } else { ROOT };
                    let policies = [
                        policy(ROOT, "m", mesh),
                        policy("foo", "n", namespace),
                        selecting(home, "w", workload, &[(80, port)]),
                    ];
                    let policies = all(&policies);
                    let names: Vec<_> = authorizations(&policies, ROOT)
                        .iter()
                        .map(|made| format!("{}/{}", made.namespace, made.name))
                        .collect();
                    for place in ["foo", "bar", ROOT] {
                        let labels = labels(&[("app", "a")]);
                        if let Some(named) = references(&policies, ROOT, place, &labels) {
                            assert!(names.contains(&named.to_string()), "{named} of {policies:?}");
                        }
                    }
                }
            }
        }
    }
}

mod wire;

fn unreadable(namespace: &str, created: i64) -> PeerAuthentication {
    let selector = Selector::Unreadable;
    aged(created, PeerAuthentication { selector, ..policy(namespace, "unreadable", Strict) })
}

#[test]
fn a_selector_that_cannot_be_read_counts_wherever_it_may_belong() {
    for namespace in ["foo", ROOT] {
        check(&[unreadable(namespace, 5)], STATIC);
        // A younger one of either level does not take its place.
        check(&[unreadable("foo", 5), aged(9, policy("foo", "p", Permissive))], STATIC);
        let younger = aged(9, selecting("foo", "p", Permissive, &[]));
        check(&[unreadable("foo", 5), younger], STATIC);
        // An older one would be in force whatever it says.
        let older = aged(1, selecting("foo", "p", Permissive, &[]));
        check(&[unreadable("foo", 5), older], NONE);
        // One that inherits does so from a namespace that may be STRICT.
        let inherits = aged(1, selecting("foo", "p", Unset, &[]));
        check(&[unreadable("foo", 5), inherits], STATIC);
    }
    // That of the root namespace may be the mesh's, or one that selects workloads of every namespace.
    let inherits = aged(1, policy("foo", "p", Unset));
    check(&[unreadable(ROOT, 5), inherits], STATIC);
    check(&[unreadable(ROOT, 5), aged(1, policy("foo", "p", Permissive))], STATIC);
    check_in("bar", &[unreadable("foo", 5)], NONE);
    assert_eq!(made(&[unreadable("foo", 5)]), [STATIC_MADE]);
}
