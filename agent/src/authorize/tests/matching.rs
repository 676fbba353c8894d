//! What a policy matches: groups, rules, and each field of a match.

use super::*;

#[test]
fn a_policy_without_groups_matches_nothing() {
    check(vec![], &productpage(), false);
    check(vec![], &plaintext(), false);
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
