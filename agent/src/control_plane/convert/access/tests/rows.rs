//! Every field and condition by itself: what layer 4 sees, and what becomes of the rest.

use super::*;
use crate::control_plane::conditions::authorization_policy;

fn prefix(text: &str) -> StringMatch {
    matching(MatchType::Prefix(text.to_owned()))
}

fn suffix(text: &str) -> StringMatch {
    matching(MatchType::Suffix(text.to_owned()))
}

fn presence() -> StringMatch {
    matching(MatchType::Presence(Presence {}))
}

fn ip4(last: u8) -> Vec<Address> {
    vec![Address { address: vec![10, 0, 0, last], length: 32 }]
}

fn account(namespace: &str, name: &str) -> Vec<ServiceAccountMatch> {
    let (namespace, service_account) = (namespace.to_owned(), name.to_owned());
    vec![ServiceAccountMatch { namespace, service_account }]
}

fn of_source(field: &str, value: &str) -> Value {
    json!({ "from": [{ "source": { field: [value] } }] })
}

fn of_operation(field: &str, value: &str) -> Value {
    json!({ "to": [{ "operation": { field: [value] } }] })
}

fn when(key: &str, field: &str, value: &str) -> Value {
    json!({ "when": [{ "key": key, field: [value] }] })
}

#[test]
fn each_layer_4_field_and_condition_is_one_field_of_the_match() {
    let none = Match::default;
    let rows = [
        (of_source("principals", "a"), Match { principals: vec![exact("a")], ..none() }),
        (of_source("notPrincipals", "a"), Match { not_principals: vec![exact("a")], ..none() }),
        (of_source("namespaces", "a"), Match { namespaces: vec![exact("a")], ..none() }),
        (of_source("notNamespaces", "a"), Match { not_namespaces: vec![exact("a")], ..none() }),
        (
            of_source("serviceAccounts", "a"),
            Match { service_accounts: account("foo", "a"), ..none() },
        ),
        (
            of_source("notServiceAccounts", "b/a"),
            Match { not_service_accounts: account("b", "a"), ..none() },
        ),
        (of_source("ipBlocks", "10.0.0.1"), Match { source_ips: ip4(1), ..none() }),
        (of_source("notIpBlocks", "10.0.0.1"), Match { not_source_ips: ip4(1), ..none() }),
        (of_operation("ports", "80"), Match { destination_ports: vec![80], ..none() }),
        (of_operation("notPorts", "80"), Match { not_destination_ports: vec![80], ..none() }),
        (when("source.ip", "values", "10.0.0.1"), Match { source_ips: ip4(1), ..none() }),
        (when("source.ip", "notValues", "10.0.0.1"), Match { not_source_ips: ip4(1), ..none() }),
        (when("destination.ip", "values", "10.0.0.1"), Match { destination_ips: ip4(1), ..none() }),
        (
            when("destination.ip", "notValues", "10.0.0.1"),
            Match { not_destination_ips: ip4(1), ..none() },
        ),
        (when("destination.port", "values", "80"), Match { destination_ports: vec![80], ..none() }),
        (
            when("destination.port", "notValues", "80"),
            Match { not_destination_ports: vec![80], ..none() },
        ),
        (when("source.namespace", "values", "a"), Match { namespaces: vec![exact("a")], ..none() }),
        (
            when("source.namespace", "notValues", "a"),
            Match { not_namespaces: vec![exact("a")], ..none() },
        ),
        (when("source.principal", "values", "a"), Match { principals: vec![exact("a")], ..none() }),
        (
            when("source.principal", "notValues", "a"),
            Match { not_principals: vec![exact("a")], ..none() },
        ),
    ];
    for (rule, expected) in rows {
        for action in ["ALLOW", "DENY"] {
            let converted = convert_json(json!({ "action": action, "rules": [rule] }));
            assert_eq!(converted.notes, [], "{action} {rule}");
            assert_eq!(
                converted.rules.unwrap().groups,
                [group([vec![expected.clone()]])],
                "{rule}"
            );
        }
    }
}

#[test]
fn a_star_is_any_a_prefix_or_a_suffix() {
    for (text, expected) in [
        ("a", exact("a")),
        ("*", presence()),
        ("a*", prefix("a")),
        ("*a", suffix("a")),
        ("a*b", exact("a*b")),
        ("cluster.local/ns/x/*", prefix("cluster.local/ns/x/")),
        ("*/ns/x/sa/y", suffix("/ns/x/sa/y")),
    ] {
        for (field, wanted) in [
            ("principals", Match { principals: vec![expected.clone()], ..Match::default() }),
            ("notNamespaces", Match { not_namespaces: vec![expected.clone()], ..Match::default() }),
        ] {
            let made = groups(json!({ "rules": [of_source(field, text)] }));
            assert_eq!(made, [group([vec![wanted]])], "{field} {text}");
        }
    }
}

#[test]
fn an_address_is_a_range_of_one_and_others_are_as_they_are_written() {
    let check = |text: &str, address: &[u8], length| {
        let wanted = vec![Address { address: address.to_vec(), length }];
        let wanted = Match { source_ips: wanted, ..Match::default() };
        let made = groups(json!({ "rules": [of_source("ipBlocks", text)] }));
        assert_eq!(made, [group([vec![wanted]])], "{text}");
    };
    let ip6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    check("10.0.0.0/8", &[10, 0, 0, 0], 8);
    check("10.1.2.3/8", &[10, 1, 2, 3], 8);
    check("0.0.0.0/0", &[0; 4], 0);
    check("fd00::/8", &ip6("fd00::"), 8);
    check("FD00:0::1", &ip6("fd00::1"), 128);
    check("::ffff:10.0.0.1", &ip6("::ffff:10.0.0.1"), 128);
    // The zone is the node's own.
    check("fe80::1%eth0", &ip6("fe80::1"), 128);
    check("::ffff:10.0.0.0/104", &ip6("::ffff:10.0.0.0"), 104);
    for bad in [
        "10.0.0.0/33",
        "fd00::/129",
        "10.0.0",
        "fe80::1%",
        "10.0.0.1%eth0",
        "fe80::%eth0/64",
        "::ffff:10.0.0.0/95",
        "10.0.0.1-10.0.0.9",
        "",
    ] {
        let said = error(json!({ "rules": [of_source("ipBlocks", bad)] }));
        assert!(said.ends_with("is no address or CIDR range"), "{bad}: {said}");
    }
}

/// Every field and some conditions that only an HTTP proxy sees, and their names.
fn unseen() -> Vec<(Value, &'static str)> {
    let sources = [
        "requestPrincipals",
        "notRequestPrincipals",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
        "trustDomains",
        "notTrustDomains",
    ];
    let operations = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];
    let keys = [
        "request.headers[x]",
        "request.auth.claims[iss]",
        "request.auth.principal",
        "remote.ip",
        "source.trustDomain",
        "connection.sni",
        "experimental.envoy.filters.a[b]",
    ];
    let of_sources = sources.map(|name| (of_source(name, "10.0.0.1"), name));
    let of_operations = operations.map(|name| (of_operation(name, "a"), name));
    let of_keys = keys.map(|name| (when(name, "values", "a"), name));
    let not_of_keys = keys.map(|name| (when(name, "notValues", "a"), name));
    [of_sources.to_vec(), of_operations.to_vec(), of_keys.to_vec(), not_of_keys.to_vec()].concat()
}

#[test]
fn each_layer_7_field_makes_an_allow_stricter_and_is_stripped_from_a_deny() {
    for (rule, name) in unseen() {
        let named = || dropped(&[name]);
        let converted = convert_json(json!({ "action": "ALLOW", "rules": [rule] }));
        assert_eq!(converted.notes, [Note::RuleLeftOut(named())], "{rule}");
        assert_eq!(converted.rules.unwrap().groups, [], "{rule} allows nothing");

        check_deny(rule.clone(), &[], Note::DeniesNothing(named()));

        let mut more = rule.clone();
        let on_port = json!({ "key": "destination.port", "values": ["80"] });
        match more.get_mut("when").and_then(Value::as_array_mut) {
            Some(when) => when.push(on_port),
            None => more["when"] = json!([on_port]),
        }
        let rest = group([vec![ports(&[80])]]);
        check_deny(more.clone(), &[rest], Note::DeniesMore(named()));
        let converted = convert_json(json!({ "rules": [more] }));
        assert_eq!(converted.rules.unwrap().groups, [], "{rule} and a port allow nothing");
    }
}

#[test]
fn what_is_empty_asks_for_nothing() {
    for rule in [json!({}), json!({ "when": [] })] {
        for action in ["ALLOW", "DENY"] {
            let spec = json!({ "action": action, "rules": [rule] });
            assert_eq!(groups(spec), [group([])], "{action} {rule} matches everything");
        }
    }
    for spec in [json!({}), json!({ "rules": [] }), json!({ "action": "ALLOW" })] {
        let converted = convert_json(spec);
        assert_eq!((converted.rules.unwrap().groups, converted.notes), (vec![], vec![]));
    }
}

#[test]
fn cluster_local_is_the_mesh_s_own_trust_domain() {
    let all =
        ["cluster.local/ns/a/sa/b", "cluster.local/*", "old/ns/a/sa/b", "*/sa/b", "cluster.local"];
    let source =
        json!({ "source": { "principals": all, "notPrincipals": all, "namespaces": all } });
    let spec: AuthorizationPolicySpec =
        serde_json::from_value(json!({ "rules": [{ "from": [source] }] })).unwrap();
    let rules = convert(&spec, "foo", false).unwrap().rules;
    let policy =
        AuthorizationPolicy { key: ObjectKey::new("foo", "p"), selector: Selector::All, rules };
    let matched = |trust_domain: &str| {
        let mut made = authorization(&policy, ROOT, trust_domain).unwrap();
        made.groups.remove(0).rules.remove(0).matches.remove(0)
    };
    let written = vec![
        exact("cluster.local/ns/a/sa/b"),
        prefix("cluster.local/"),
        exact("old/ns/a/sa/b"),
        suffix("/sa/b"),
        exact("cluster.local"),
    ];
    let mut own = written.clone();
    (own[0], own[1]) = (exact("td1/ns/a/sa/b"), prefix("td1/"));
    let expected = |principals: &Vec<StringMatch>| Match {
        principals: principals.clone(),
        not_principals: principals.clone(),
        namespaces: written.clone(),
        ..Match::default()
    };
    assert_eq!(matched("td1"), expected(&own));
    assert_eq!(matched("cluster.local"), expected(&written));
}

#[test]
fn a_principal_with_the_scheme_is_told_as_one_that_matches_nobody() {
    let uri = "spiffe://td/ns/a/sa/b";
    for rule in [
        of_source("principals", uri),
        of_source("notPrincipals", uri),
        when("source.principal", "values", uri),
        when("source.principal", "notValues", uri),
    ] {
        for action in ["ALLOW", "DENY"] {
            let rules = json!([of_source("principals", "td/ns/a/sa/b"), rule]);
            let converted = convert_json(json!({ "action": action, "rules": rules }));
            let note = Note::Schemes(Dropped { rule: 1, names: vec![uri.to_owned()] });
            let told = format!(
                "rules[1] has principals that match nobody ({uri}): they are written without \
                 spiffe://"
            );
            assert_eq!(note.to_string(), told);
            assert_eq!(converted.notes, [note], "{action} {rule}");
            let conditions = authorization_policy(&converted);
            let said: Vec<_> = conditions.iter().map(|said| (said.holds, said.reason)).collect();
            assert_eq!(said, [(true, "Accepted"), (false, "NotAsWritten")]);
        }
    }
}
