use serde_json::{Value, json};

use super::*;
use crate::control_plane::model::ObjectKey;

fn object(spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": { "name": "p", "namespace": "n", "creationTimestamp": "1970-01-01T00:00:02Z" },
        "spec": spec,
    }))
    .unwrap()
}

#[test]
fn peer_authentication_is_parsed() {
    let spec = json!({
        "selector": { "matchLabels": { "app": "a" } },
        "mtls": { "mode": "STRICT" },
        "portLevelMtls": { "8080": { "mode": "PERMISSIVE" }, "9090": {} },
    });
    let parsed = peer_authentication(&object(spec)).unwrap();
    let expected = PeerAuthentication {
        key: ObjectKey::new("n", "p"),
        created: 2000,
        selector: Some([("app".to_owned(), "a".to_owned())].into()),
        mode: Mode::Strict,
        ports: [(8080, Mode::Permissive), (9090, Mode::Unset)].into(),
    };
    assert_eq!(parsed.record, expected);
    assert!(parsed.told.warnings.is_empty());
}

#[test]
fn an_empty_spec_is_unset() {
    for spec in [json!({}), Value::Null, json!({ "mtls": {} }), json!({ "mtls": null })] {
        let record = peer_authentication(&object(spec)).unwrap().record;
        assert_eq!((record.mode, record.selector), (Mode::Unset, None));
    }
}

#[test]
fn disable_and_ports_without_selector_are_noted() {
    let notes = |spec| peer_authentication(&object(spec)).unwrap().told.warnings.len();
    assert_eq!(notes(json!({ "mtls": { "mode": "DISABLE" } })), 1);
    assert_eq!(notes(json!({ "portLevelMtls": { "80": { "mode": "STRICT" } } })), 1);
    assert_eq!(notes(json!({ "portLevelMtls": { "80": { "mode": "DISABLE" } } })), 2);
}

#[test]
fn an_unknown_mode_is_named() {
    let check = |spec: Value, expected: &str| {
        let error = peer_authentication(&object(spec)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check(json!({ "mtls": { "mode": "STRIKT" } }), "spec: unknown variant `STRIKT`");
    check(json!({ "mtls": { "mode": "strict" } }), "spec: unknown variant `strict`");
    check(json!({ "mtls": { "mode": 3 } }), "spec: ");
    check(json!({ "mtls": { "modus": "STRICT" } }), "spec: unknown field `modus`");
    check(
        json!({ "portLevelMtls": { "80": { "mode": "MUTUAL" } } }),
        "spec: unknown variant `MUTUAL`",
    );
    check(json!({ "portLevelMtls": { "http": {} } }), "spec: ");
    check(json!({ "portLevelMtls": { "70000": {} } }), "spec: ");
    check(json!({ "portLevelMtls": { "0": {} } }), "spec.portLevelMtls: 0 is no port");
    check(json!("STRICT"), "spec: ");
}

#[test]
fn authorization_policy_is_parsed() {
    let mut policy = object(json!({ "action": "DENY", "rules": [{}] }));
    policy.metadata.annotations = Some([(DRY_RUN.to_owned(), "true".to_owned())].into());
    let rules = authorization_policy(&policy).unwrap().record.rules.unwrap();
    assert!(rules.dry_run);
    let bad = object(json!({ "rules": [{ "from": [{ "source": { "ipBlocks": ["x"] } }] }] }));
    let error = authorization_policy(&bad).unwrap_err().to_string();
    assert_eq!(error, r#"spec.rules[0].from[0].ipBlocks: "x" is no address or CIDR range"#);
}

/// Conditions as `Type=Status/Reason`, and what Events say.
fn told(told: Told) -> (Vec<String>, Vec<String>) {
    let brief = |c: &conditions::Condition| {
        format!("{}={}/{}", c.kind, if c.holds { "True" } else { "False" }, c.reason)
    };
    let event = |warning: crate::control_plane::cluster::report::Warning| {
        assert!(["NotFullyEnforced", "Invalid"].contains(&warning.reason), "{}", warning.reason);
        warning.note
    };
    (told.conditions.iter().map(brief).collect(), told.warnings.into_iter().map(event).collect())
}

/// What is told of an AuthorizationPolicy: `Enforced`'s reason, and in how many Events of what words.
#[track_caller]
fn check_access(spec: Value, accepted: &str, enforced: &str, events: &[&str]) {
    let (conditions, said) = told(authorization_policy(&object(spec.clone())).unwrap().told);
    assert_eq!(conditions, [format!("ZtunnelAccepted={accepted}"), format!("Enforced={enforced}")]);
    assert_eq!(said.len(), events.len(), "{spec}: {said:?}");
    for (said, expected) in said.iter().zip(events) {
        assert!(said.contains(expected), "{spec}: {said}");
    }
}

#[test]
fn whatever_an_authorization_policy_does_not_do_is_a_condition_and_an_event() {
    let get = json!({ "to": [{ "operation": { "methods": ["GET"], "ports": ["80"] } }] });
    let path = json!({ "to": [{ "operation": { "paths": ["/x"] } }] });
    let key = json!({ "when": [{ "key": "no.such", "values": ["a"] }] });
    let (taken, part) = ("True/Accepted", "True/UnsupportedValue");
    let (as_is, not_as_is) = ("True/Enforced", "False/NotAsWritten");
    let target = json!({ "kind": "Gateway", "name": "w" });
    check_access(json!({ "rules": [{}] }), taken, as_is, &[]);
    check_access(json!({}), taken, as_is, &[]);
    check_access(json!({ "rules": [get] }), part, not_as_is, &["(methods): the rule is left out"]);
    check_access(json!({ "rules": [key] }), part, not_as_is, &["(no.such): the rule is left out"]);
    let deny = |rules: &[&Value]| json!({ "action": "DENY", "rules": rules });
    check_access(deny(&[&get]), part, not_as_is, &["it denies without asking for them"]);
    check_access(deny(&[&path]), part, not_as_is, &["it denies nothing"]);
    check_access(
        deny(&[&get, &path]),
        part,
        not_as_is,
        &["rules[0] asks for what layer 4 does not see (methods)", "rules[1] asks"],
    );
    check_access(deny(&[]), taken, not_as_is, &["action DENY without rules denies nothing"]);
    for action in ["AUDIT", "CUSTOM"] {
        let spec = json!({ "action": action, "rules": [{}] });
        let event = format!("action {action} is not supported at layer 4");
        check_access(spec, "False/UnsupportedValue", "False/NotAccepted", &[&event]);
    }
    for spec in [json!({ "targetRef": target }), json!({ "targetRefs": [target] })] {
        check_access(spec, "False/UnsupportedTarget", "False/NotAccepted", &["are for waypoints"]);
    }
}

#[test]
fn whatever_a_peer_authentication_does_not_do_is_a_condition_and_an_event() {
    let select = json!({ "matchLabels": { "app": "a" } });
    let check = |spec: Value, enforced: &str, events: &[&str]| {
        let (conditions, said) = told(peer_authentication(&object(spec.clone())).unwrap().told);
        assert_eq!(
            conditions,
            ["Accepted=True/Accepted".to_owned(), format!("Enforced={enforced}")]
        );
        assert_eq!(said.len(), events.len(), "{spec}");
        assert!(said.iter().zip(events).all(|(said, event)| said.contains(event)), "{said:?}");
    };
    for mode in ["UNSET", "PERMISSIVE", "STRICT"] {
        check(json!({ "mtls": { "mode": mode } }), "True/Enforced", &[]);
    }
    let disable = "False/DisableIsPermissive";
    check(json!({ "mtls": { "mode": "DISABLE" } }), disable, &["the same as PERMISSIVE"]);
    let port = json!({ "80": { "mode": "DISABLE" } });
    let one = json!({ "selector": select, "portLevelMtls": port });
    check(one, disable, &["the same as PERMISSIVE"]);
    let strict = json!({ "80": { "mode": "STRICT" } });
    let alone = json!({ "portLevelMtls": strict });
    check(alone, "False/PortLevelMtlsIgnored", &["no effect without a selector"]);
    let both = ["the same as PERMISSIVE", "no effect without a selector"];
    check(json!({ "portLevelMtls": port }), "False/NotAsWritten", &both);
}

#[test]
fn only_the_word_true_makes_a_dry_run() {
    for (value, dry_run) in
        [("true", true), ("True", false), ("1", false), ("false", false), ("", false)]
    {
        let mut policy = object(json!({ "action": "DENY", "rules": [{}] }));
        policy.metadata.annotations = Some([(DRY_RUN.to_owned(), value.to_owned())].into());
        let parsed = authorization_policy(&policy).unwrap();
        assert_eq!(parsed.record.rules.unwrap().dry_run, dry_run, "{value:?}");
        let (conditions, events) = told(parsed.told);
        let enforced = if dry_run { "Enforced=False/DryRun" } else { "Enforced=True/Enforced" };
        assert_eq!((conditions[1].as_str(), events), (enforced, vec![]));
    }
}
