use serde_json::{Value, json};

use super::*;
use crate::control_plane::cluster::report::Told;
use crate::control_plane::model::ObjectKey;

const ROOT: &str = "istio-system";

fn peer(spec: Value) -> Read<PeerAuthentication> {
    peer_authentication(&object(spec), ROOT)
}

fn access(spec: Value) -> Read<AuthorizationPolicy> {
    authorization_policy(&object(spec), ROOT)
}

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
    let read = peer(spec);
    let expected = PeerAuthentication {
        key: ObjectKey::new("n", "p"),
        created: 2000,
        selector: Selector::Labels([("app".to_owned(), "a".to_owned())].into()),
        mode: Mode::Strict,
        ports: [(8080, Mode::Permissive), (9090, Mode::Unset)].into(),
    };
    assert_eq!(read.record, Some(expected));
    assert!(read.told.warnings.is_empty());
}

#[test]
fn an_empty_spec_is_unset() {
    for spec in [json!({}), Value::Null, json!({ "mtls": {} }), json!({ "mtls": null })] {
        let record = peer(spec).record.unwrap();
        assert_eq!((record.mode, record.selector), (Mode::Unset, Selector::All));
    }
}

#[test]
fn disable_and_ports_without_selector_are_noted() {
    let notes = |spec| peer(spec).told.warnings.len();
    assert_eq!(notes(json!({ "mtls": { "mode": "DISABLE" } })), 1);
    assert_eq!(notes(json!({ "portLevelMtls": { "80": { "mode": "STRICT" } } })), 1);
    assert_eq!(notes(json!({ "portLevelMtls": { "80": { "mode": "DISABLE" } } })), 2);
}

#[test]
fn a_peer_authentication_that_cannot_be_read_is_strict_where_it_may_count() {
    let app = || Selector::Labels([("app".to_owned(), "a".to_owned())].into());
    let check = |spec: Value, selector: Selector, expected: &str| {
        let Read { record, told } = peer(spec.clone());
        let record = record.unwrap();
        assert_eq!((record.mode, &record.selector), (Mode::Strict, &selector), "{spec}");
        assert!(record.ports.is_empty(), "{spec}");
        let brief: Vec<&str> = told.conditions.iter().map(|c| c.reason).collect();
        assert_eq!(brief, ["Invalid", "FailsClosed"], "{spec}");
        let [warning] = told.warnings.as_slice() else { panic!("{spec}: {told:?}") };
        assert!(warning.note.starts_with(expected), "{spec}: {}", warning.note);
        let whom = match selector {
            Selector::Labels(_) => "of every connection to workloads of namespace n with app=a",
            _ => "of every connection to workloads of namespace n",
        };
        assert!(warning.note.ends_with(whom), "{spec}: {}", warning.note);
    };
    let (all, any) = (|| Selector::All, || Selector::Unreadable);
    let select = json!({ "matchLabels": { "app": "a" } });
    check(json!({ "mtls": { "mode": "STRIKT" } }), all(), "spec: unknown variant `STRIKT`");
    check(json!({ "mtls": { "mode": "strict" } }), all(), "spec: unknown variant `strict`");
    check(json!({ "mtls": { "mode": 3 } }), all(), "spec: ");
    check(json!({ "mtls": { "modus": "STRICT" } }), all(), "spec: unknown field `modus`");
    check(json!({ "mtls": ["PERMISSIVE"] }), all(), "spec.mtls: is no object");
    let port = |port: &str, mode: &str| json!({ "portLevelMtls": { port: { "mode": mode } } });
    check(port("80", "MUTUAL"), all(), "spec: unknown variant `MUTUAL`");
    check(port("http", "STRICT"), all(), "spec: ");
    check(port("70000", "STRICT"), all(), "spec: ");
    check(port("0", "STRICT"), all(), "spec.portLevelMtls: 0 is no port");
    check(json!({ "portLevelMtls": { "80": [] } }), all(), "spec.80: is no object");
    let selecting = json!({ "selector": select, "mtls": { "mode": "PERMISIVE" } });
    check(selecting, app(), "spec: unknown variant `PERMISIVE`");
    // Whichever workloads are meant.
    check(json!("STRICT"), any(), "spec: is no object");
    check(json!([]), any(), "spec: is no object");
    check(json!({ "selektor": select }), any(), "spec: unknown field `selektor`");
    for selector in [
        json!({ "matchLabels": { "app": "*" } }),
        json!({ "matchLabels": { "*": "a" } }),
        json!({ "matchLabels": { "": "a" } }),
    ] {
        let spec = json!({ "selector": selector, "mtls": { "mode": "PERMISSIVE" } });
        check(spec, any(), "spec.selector: labels are matched as they stand");
    }
    for selector in
        [json!("app"), json!({ "matchLabels": { "app": 1 } }), json!({ "matchExpressions": [] })]
    {
        check(json!({ "selector": selector }), any(), "spec: ");
    }
}

#[test]
fn an_authorization_policy_that_cannot_be_read_denies_whatever_its_action() {
    let check = |spec: Value, selector: Selector, whom: &str| {
        for action in [json!("ALLOW"), json!("DENY"), json!("PERMIT"), Value::Null] {
            let mut spec = spec.clone();
            spec["action"] = action;
            let Read { record, told } = access(spec.clone());
            let record = record.unwrap();
            assert_eq!(
                (record.rules, &record.selector),
                (Some(Rules::closed()), &selector),
                "{spec}"
            );
            let ends = format!("every connection to {whom} is denied");
            assert!(told.conditions[0].message.ends_with(&ends), "{spec}: {told:?}");
            assert_eq!(told.conditions[1].message, ends);
            assert_eq!(told.warnings.len(), 1, "{spec}");
        }
    };
    let select = json!({ "matchLabels": { "app": "a" } });
    let app = || Selector::Labels([("app".to_owned(), "a".to_owned())].into());
    let bad = json!([{ "from": [{ "source": { "ipBlocks": ["10.0.0.300"] } }] }]);
    check(json!({ "rules": bad }), Selector::All, "workloads of namespace n");
    let (some, whom) =
        (json!({ "selector": select, "rules": bad }), "workloads of namespace n with app=a");
    check(some, app(), whom);
    // A list for an object is not read as one, with its fields in some order.
    for rules in
        [json!([[]]), json!([{ "from": [[]] }]), json!([{ "from": [{ "source": [["a"]] }] }])]
    {
        check(json!({ "selector": select, "rules": rules }), app(), whom);
    }
    let target = json!([{ "kind": "Gateway", "name": "w" }]);
    check(json!({ "selector": select, "targetRefs": target }), app(), whom);
    let star = json!({ "matchLabels": { "app": "*" } });
    check(
        json!({ "selector": star, "rules": [{}] }),
        Selector::Unreadable,
        "workloads of namespace n",
    );
}

#[test]
fn what_no_node_would_enforce_closes_nothing() {
    let bad = json!([{ "form": [] }]);
    let target = json!({ "kind": "Gateway", "name": "w" });
    for spec in [
        json!({ "action": "AUDIT", "rules": bad }),
        json!({ "action": "CUSTOM", "rules": bad }),
        json!({ "targetRef": target, "rules": bad }),
        json!({ "targetRefs": [target], "rules": bad }),
    ] {
        let Read { record, told } = access(spec.clone());
        assert_eq!(record.unwrap().rules, None, "{spec}");
        assert_eq!(told.conditions[1].reason, "NotAccepted", "{spec}");
    }
    let mut dry = object(json!({ "action": "DENY", "rules": bad }));
    dry.metadata.annotations = Some([(DRY_RUN.to_owned(), "true".to_owned())].into());
    assert_eq!(authorization_policy(&dry, ROOT).record.unwrap().rules, None);
}

#[test]
fn in_the_root_namespace_the_mesh_is_closed() {
    let mut policy = object(json!({ "mtls": { "mode": "STRIKT" } }));
    policy.metadata.namespace = Some(ROOT.to_owned());
    let told = peer_authentication(&policy, ROOT).told;
    assert!(told.warnings[0].note.ends_with("to workloads of the mesh"), "{told:?}");
}

#[test]
fn a_sentence_names_a_few_labels() {
    let labels = (0..5).map(|at| (format!("l{at}"), "v".to_owned())).collect();
    let said = scope::sentence("n", &Selector::Labels(labels), ROOT);
    assert_eq!(said, "workloads of namespace n with l0=v, l1=v, l2=v and 2 more labels");
}

#[test]
fn authorization_policy_is_parsed() {
    let mut policy = object(json!({ "action": "DENY", "rules": [{}] }));
    policy.metadata.annotations = Some([(DRY_RUN.to_owned(), "true".to_owned())].into());
    let rules = authorization_policy(&policy, ROOT).record.unwrap().rules.unwrap();
    assert!(rules.dry_run);
    let bad = object(json!({ "rules": [{ "from": [{ "source": { "ipBlocks": ["x"] } }] }] }));
    let told = authorization_policy(&bad, ROOT).told.conditions[0].message.clone();
    assert!(
        told.starts_with(r#"spec.rules[0].from[0].ipBlocks: "x" is no address or CIDR range;"#)
    );
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
    let (conditions, said) = told(access(spec.clone()).told);
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
    let zero = json!({ "to": [{ "operation": { "ports": ["0"] } }] });
    let (taken, part) = ("True/Accepted", "True/UnsupportedValue");
    let (as_is, not_as_is) = ("True/Enforced", "False/NotAsWritten");
    let target = json!({ "kind": "Gateway", "name": "w" });
    check_access(json!({ "rules": [{}] }), taken, as_is, &[]);
    check_access(json!({}), taken, as_is, &[]);
    check_access(json!({ "rules": [zero] }), taken, not_as_is, &["no connection has port 0"]);
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
        let (conditions, said) = told(peer(spec.clone()).told);
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
        let read = authorization_policy(&policy, ROOT);
        assert_eq!(read.record.unwrap().rules.unwrap().dry_run, dry_run, "{value:?}");
        let (conditions, events) = told(read.told);
        let enforced = if dry_run { "Enforced=False/DryRun" } else { "Enforced=True/Enforced" };
        assert_eq!((conditions[1].as_str(), events), (enforced, vec![]));
    }
}
