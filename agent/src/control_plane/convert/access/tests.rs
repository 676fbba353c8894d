use serde_json::{Value, json};
use sotto_proto::security::string_match::MatchType;
use sotto_proto::security::{Address, Presence, ServiceAccountMatch, StringMatch};

use super::*;
use crate::control_plane::convert::matching;

const ROOT: &str = "istio-system";

fn convert_json(spec: Value) -> Converted {
    let spec: AuthorizationPolicySpec = serde_json::from_value(spec).unwrap();
    convert(&spec, "foo", false).unwrap()
}

fn groups(spec: Value) -> Vec<Group> {
    convert_json(spec).rules.unwrap().groups
}

fn error(spec: Value) -> String {
    match serde_json::from_value::<AuthorizationPolicySpec>(spec) {
        Ok(spec) => convert(&spec, "foo", false).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

fn exact(text: &str) -> StringMatch {
    matching(MatchType::Exact(text.to_owned()))
}

fn ports(ports: &[u32]) -> Match {
    Match { destination_ports: ports.to_vec(), ..Match::default() }
}

fn from(principal: &str) -> Match {
    Match { principals: vec![exact(principal)], ..Match::default() }
}

fn group<const N: usize>(clauses: [Vec<Match>; N]) -> Group {
    Group { rules: clauses.into_iter().map(|matches| Clause { matches }).collect() }
}

fn source(principal: &str) -> Value {
    json!({ "source": { "principals": [principal] } })
}

#[test]
fn no_rules_allow_nothing() {
    assert_eq!(groups(json!({})), []);
    assert_eq!(convert_json(json!({})).rules.unwrap().action, Action::Allow);
}

#[test]
fn an_empty_rule_matches_everything() {
    assert_eq!(groups(json!({ "rules": [{}] })), [group([])]);
    assert_eq!(groups(json!({ "action": "DENY", "rules": [{}] })), [group([])]);
}

#[test]
fn rules_are_groups_and_parts_are_clauses() {
    let spec = json!({ "action": "DENY", "rules": [
        {
            "from": [source("a"), source("b")],
            "to": [{ "operation": { "ports": ["80", "443"] } }],
            "when": [{ "key": "destination.port", "notValues": ["81"] }],
        },
        { "from": [source("c")] },
    ]});
    let not = Match { not_destination_ports: vec![81], ..Match::default() };
    assert_eq!(
        groups(spec),
        [
            group([vec![ports(&[80, 443])], vec![from("a"), from("b")], vec![not]]),
            group([vec![from("c")]])
        ]
    );
}

#[test]
fn every_layer_4_field_is_carried() {
    let spec = json!({ "rules": [{
        "from": [{ "source": {
            "principals": ["*"], "notPrincipals": ["cluster.local/ns/x/*"],
            "namespaces": ["*-test"], "notNamespaces": ["y"],
            "serviceAccounts": ["sa", "bar/sb"], "notServiceAccounts": ["sc"],
            "ipBlocks": ["10.0.0.0/8", "fd00::1"], "notIpBlocks": ["10.1.2.3"],
        }}],
        "to": [{ "operation": { "ports": ["80"], "notPorts": ["81"] } }],
    }]});
    let account = |namespace: &str, name: &str| ServiceAccountMatch {
        namespace: namespace.to_owned(),
        service_account: name.to_owned(),
    };
    let mut v6 = vec![0; 16];
    (v6[0], v6[15]) = (0xfd, 1);
    let source = Match {
        principals: vec![matching(MatchType::Presence(Presence {}))],
        not_principals: vec![matching(MatchType::Prefix("cluster.local/ns/x/".to_owned()))],
        namespaces: vec![matching(MatchType::Suffix("-test".to_owned()))],
        not_namespaces: vec![exact("y")],
        service_accounts: vec![account("foo", "sa"), account("bar", "sb")],
        not_service_accounts: vec![account("foo", "sc")],
        source_ips: vec![
            Address { address: vec![10, 0, 0, 0], length: 8 },
            Address { address: v6, length: 128 },
        ],
        not_source_ips: vec![Address { address: vec![10, 1, 2, 3], length: 32 }],
        ..Match::default()
    };
    let operation = Match { not_destination_ports: vec![81], ..ports(&[80]) };
    assert_eq!(groups(spec), [group([vec![operation], vec![source]])]);
}

#[test]
fn every_layer_4_condition_is_carried() {
    let when = |key: &str, value: &str| json!({ "key": key, "values": [value] });
    let spec = json!({ "rules": [{ "when": [
        when("source.ip", "10.0.0.1"),
        when("source.namespace", "n"),
        when("source.principal", "p"),
        when("destination.ip", "10.0.0.2"),
        when("destination.port", "80"),
    ]}]});
    let ip = |last| vec![Address { address: vec![10, 0, 0, last], length: 32 }];
    assert_eq!(
        groups(spec),
        [group([
            vec![Match { source_ips: ip(1), ..Match::default() }],
            vec![Match { namespaces: vec![exact("n")], ..Match::default() }],
            vec![from("p")],
            vec![Match { destination_ips: ip(2), ..Match::default() }],
            vec![ports(&[80])],
        ])]
    );
}

#[test]
fn an_allow_rule_with_http_attributes_is_left_out() {
    for (http, name) in [
        (json!({ "to": [{ "operation": { "methods": ["GET"], "ports": ["80"] } }] }), "methods"),
        (json!({ "to": [{ "operation": { "notHosts": ["a"] } }] }), "notHosts"),
        (json!({ "from": [{ "source": { "requestPrincipals": ["*"] } }] }), "requestPrincipals"),
        (json!({ "from": [{ "source": { "remoteIpBlocks": ["10.0.0.1"] } }] }), "remoteIpBlocks"),
        (json!({ "from": [{ "source": { "trustDomains": ["td"] } }] }), "trustDomains"),
        (
            json!({ "when": [{ "key": "request.headers[x]", "values": ["y"] }] }),
            "request.headers[x]",
        ),
        (json!({ "when": [{ "key": "connection.sni", "values": ["y"] }] }), "connection.sni"),
    ] {
        let converted = convert_json(json!({ "rules": [http, { "from": [source("a")] }] }));
        assert_eq!(converted.rules.unwrap().groups, [group([vec![from("a")]])]);
        assert_eq!(converted.notes, [Note::RuleLeftOut(dropped(&[name]))]);
    }
}

/// What is dropped from the first rule.
fn dropped(names: &[&str]) -> Dropped {
    Dropped { rule: 0, names: names.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn what_is_dropped_is_named_once() {
    let rule = json!({
        "to": [{ "operation": { "paths": ["/a"], "methods": ["GET"] } },
               { "operation": { "paths": ["/b"] } }],
        "when": [{ "key": "request.headers[x]", "values": ["y"] }],
    });
    let notes = convert_json(json!({ "rules": [{}, rule] })).notes;
    let expected = "rules[1] asks for what layer 4 does not see (methods, paths, \
                    request.headers[x]): the rule is left out, it allows nothing";
    assert_eq!(notes.iter().map(Note::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_deny_policy_without_rules_is_noted() {
    for spec in [json!({ "action": "DENY" }), json!({ "action": "DENY", "rules": [] })] {
        let converted = convert_json(spec);
        assert_eq!(converted.notes, [Note::NothingToDeny]);
        assert_eq!(converted.rules.unwrap().groups, []);
    }
}

/// A DENY policy of one rule.
#[track_caller]
fn check_deny(rule: Value, expected: &[Group], note: Note) {
    let converted = convert_json(json!({ "action": "DENY", "rules": [rule] }));
    assert_eq!(converted.rules.unwrap().groups, expected);
    assert_eq!(converted.notes, [note]);
}

#[test]
fn a_deny_rule_is_stripped_of_http_attributes_and_the_rest_is_enforced() {
    let get = json!({ "operation": { "methods": ["GET"] } });
    let port = json!({ "operation": { "ports": ["80"] } });
    let both = json!({ "operation": { "ports": ["80"], "paths": ["/x"] } });
    let jwt = json!({ "source": { "requestPrincipals": ["*"] } });
    let header = json!({ "key": "request.headers[x]", "values": ["y"] });
    let on_port = json!({ "key": "destination.port", "values": ["81"] });
    let (t, f, w) = (vec![ports(&[80])], vec![from("a")], vec![ports(&[81])]);
    let more = |names: &[&str]| Note::DeniesMore(dropped(names));
    let (methods, paths) = (["methods"], ["paths"]);
    check_deny(json!({ "to": [both] }), &[group([t.clone()])], more(&paths));
    check_deny(
        json!({ "to": [get], "from": [source("a")] }),
        &[group([f.clone()])],
        more(&methods),
    );
    check_deny(
        json!({ "to": [get, port], "from": [source("a")] }),
        &[group([f.clone()])],
        more(&methods),
    );
    check_deny(
        json!({ "to": [port], "from": [jwt] }),
        &[group([t.clone()])],
        more(&["requestPrincipals"]),
    );
    check_deny(json!({ "to": [get, port] }), &[group([t.clone()])], more(&methods));
    check_deny(
        json!({ "to": [get, port], "from": [jwt, source("a")] }),
        &[group([t.clone()]), group([f.clone()])],
        more(&["requestPrincipals", "methods"]),
    );
    check_deny(
        json!({ "to": [get], "from": [jwt], "when": [on_port] }),
        &[group([w.clone()])],
        more(&["requestPrincipals", "methods"]),
    );
    check_deny(
        json!({ "to": [port], "from": [source("a")], "when": [header] }),
        &[group([t, f])],
        more(&["request.headers[x]"]),
    );
}

#[test]
fn a_deny_rule_of_http_attributes_alone_denies_nothing() {
    let nothing = |names: &[&str]| Note::DeniesNothing(dropped(names));
    check_deny(
        json!({ "to": [{ "operation": { "methods": ["GET"] } }] }),
        &[],
        nothing(&["methods"]),
    );
    check_deny(
        json!({ "when": [{ "key": "request.headers[x]", "values": ["y"] }] }),
        &[],
        nothing(&["request.headers[x]"]),
    );
    check_deny(
        json!({ "to": [{ "operation": { "paths": ["/"] } }],
                "from": [{ "source": { "requestPrincipals": ["*"] } }] }),
        &[],
        nothing(&["requestPrincipals", "paths"]),
    );
}

#[test]
fn audit_custom_and_targeted_policies_are_not_sent() {
    for (action, name) in [("AUDIT", ActionName::Audit), ("CUSTOM", ActionName::Custom)] {
        let converted = convert_json(json!({ "action": action, "rules": [{}] }));
        let notes = vec![Note::UnsupportedAction(name)];
        assert_eq!(converted, Converted { rules: None, notes });
    }
    let target = json!({ "kind": "Gateway", "name": "waypoint" });
    let none = Converted { rules: None, notes: vec![Note::Targeted] };
    assert_eq!(convert_json(json!({ "targetRefs": [target], "rules": [{}] })), none);
    assert_eq!(convert_json(json!({ "targetRef": target, "rules": [{}] })), none);
}

#[test]
fn what_is_malformed_is_named() {
    let from_ip = |ip: &str| json!({ "from": [{ "source": { "ipBlocks": [ip] } }] });
    let to_port = |port: &str| json!({ "to": [{ "operation": { "ports": [port] } }] });
    let check = |spec: Value, expected: &str| {
        let found = error(spec);
        assert!(found.starts_with(expected), "{found}");
    };
    check(
        json!({ "rules": [{}, from_ip("10.0.0.300")] }),
        r#"rules[1].from[0].ipBlocks: "10.0.0.300" is no address or CIDR range"#,
    );
    check(json!({ "rules": [to_port("65536")] }), r#"rules[0].to[0].ports: "65536" is no port"#);
    check(json!({ "rules": [to_port("+80")] }), r#"rules[0].to[0].ports: "+80" is no port"#);
    check(json!({ "rules": [to_port("")] }), r#"rules[0].to[0].ports: "" is no port"#);
    check(json!({ "rules": [{ "from": [] }] }), "rules[0].from: is empty");
    check(json!({ "rules": [{ "to": [] }] }), "rules[0].to: is empty");
    let nobody = json!({ "from": [{ "source": { "namespaces": ["a", ""] } }] });
    check(json!({ "rules": [nobody] }), "rules[0].from[0].namespaces: a value is empty");
    check(json!({ "rules": [to_port("http")] }), r#"rules[0].to[0].ports: "http" is no port"#);
    check(
        json!({ "rules": [{ "from": [{ "source": { "serviceAccounts": ["a/b/c"] } }] }] }),
        r#"rules[0].from[0].serviceAccounts: "a/b/c" is no service account"#,
    );
    check(json!({ "rules": [{ "from": [{}] }] }), "rules[0].from[0].source: is empty");
    check(
        json!({ "rules": [{ "to": [{ "operation": {} }] }] }),
        "rules[0].to[0].operation: is empty",
    );
    check(
        json!({ "rules": [{ "when": [{ "key": "source.ip" }] }] }),
        "rules[0].when[0].values: is empty",
    );
    check(json!({ "action": "PERMIT" }), "unknown variant `PERMIT`");
    check(json!({ "rules": [{ "form": [] }] }), "unknown field `form`");
}

#[test]
fn a_condition_on_what_there_is_not_allows_nothing_and_cannot_deny() {
    let rule = json!({ "when": [{ "key": "source.ipp", "values": ["10.0.0.1"] }] });
    assert_eq!(groups(json!({ "rules": [rule] })), []);
    let said = error(json!({ "action": "DENY", "rules": [rule] }));
    assert_eq!(said, r#"rules[0].when[0].key: "source.ipp" is no attribute"#);
}

#[test]
fn port_zero_is_a_port_that_no_connection_has() {
    let rule = json!({ "to": [{ "operation": { "ports": ["0", "080"] } }] });
    let converted = convert_json(json!({ "rules": [rule] }));
    assert_eq!(converted.rules.unwrap().groups, [group([vec![ports(&[0, 80])]])]);
    assert_eq!(converted.notes, [Note::PortZero]);
}

#[test]
fn scope_follows_selector_and_namespace() {
    let rules = Rules { action: Action::Allow, groups: Vec::new(), dry_run: true };
    let scope = |namespace: &str, selector: Selector| {
        let key = ObjectKey::new(namespace, "p");
        let policy = AuthorizationPolicy { key, selector, rules: Some(rules.clone()) };
        let made = authorization(&policy, ROOT, "cluster.local").unwrap();
        assert!(made.dry_run);
        made.scope()
    };
    let app = || Selector::Labels([("app".to_owned(), "a".to_owned())].into());
    assert_eq!(scope("foo", Selector::All), Scope::Namespace);
    assert_eq!(scope("foo", Selector::Unreadable), Scope::Namespace);
    assert_eq!(scope(ROOT, Selector::All), Scope::Global);
    assert_eq!(scope(ROOT, Selector::Unreadable), Scope::Global);
    assert_eq!(scope("foo", app()), Scope::WorkloadSelector);
    assert_eq!(scope(ROOT, app()), Scope::WorkloadSelector);
}

mod rows;
