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
