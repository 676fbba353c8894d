use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::control_plane::convert::access;
use crate::control_plane::convert::spec::AuthorizationPolicySpec;

/// Conditions as `Type=Status/Reason`.
fn brief(conditions: &[Condition]) -> Vec<String> {
    let brief = |c: &Condition| {
        format!("{}={}/{}", c.kind, if c.holds { "True" } else { "False" }, c.reason)
    };
    conditions.iter().map(brief).collect()
}

#[track_caller]
fn check_access(spec: Value, dry_run: bool, expected: [&str; 2], says: &str) {
    let spec: AuthorizationPolicySpec = serde_json::from_value(spec).unwrap();
    let conditions = authorization_policy(&access::convert(&spec, "foo", dry_run).unwrap());
    assert_eq!(brief(&conditions), expected);
    assert!(conditions.iter().any(|c| c.message.contains(says)), "{conditions:#?}");
}

#[test]
fn authorization_policies_have_the_conditions_of_what_they_say() {
    let get = json!({ "to": [{ "operation": { "methods": ["GET"], "ports": ["80"] } }] });
    let path = json!({ "to": [{ "operation": { "paths": ["/x"] } }] });
    let all = ["ZtunnelAccepted=True/Accepted", "Enforced=True/Enforced"];
    let part = ["ZtunnelAccepted=True/UnsupportedValue", "Enforced=False/NotAsWritten"];
    let no_action = ["ZtunnelAccepted=False/UnsupportedValue", "Enforced=False/NotAccepted"];
    let no_target = ["ZtunnelAccepted=False/UnsupportedTarget", "Enforced=False/NotAccepted"];
    let dry = ["ZtunnelAccepted=True/Accepted", "Enforced=False/DryRun"];
    let dry_part = ["ZtunnelAccepted=True/UnsupportedValue", "Enforced=False/DryRun"];
    let target = json!({ "kind": "Gateway", "name": "w" });
    check_access(json!({}), false, all, "every rule is enforced");
    check_access(json!({ "rules": [{}] }), false, all, "");
    check_access(json!({ "action": "DENY", "rules": [{}] }), false, all, "");
    check_access(json!({ "action": "AUDIT", "rules": [{}] }), false, no_action, "action AUDIT is");
    check_access(json!({ "action": "CUSTOM" }), true, no_action, "action CUSTOM is not supported");
    check_access(json!({ "targetRef": target, "rules": [{}] }), false, no_target, "waypoints");
    check_access(json!({ "targetRefs": [target] }), false, no_target, "nodes do not enforce it");
    check_access(json!({ "rules": [{}, get] }), false, part, "rules[1] asks for what layer 4 does");
    check_access(json!({ "rules": [get] }), false, part, "(methods): the rule is left out");
    let deny = json!({ "action": "DENY", "rules": [get, path] });
    check_access(
        deny.clone(),
        false,
        part,
        "rules[0] asks for what layer 4 does not see (methods): it denies",
    );
    check_access(deny, false, part, "(paths) and for nothing else: it denies nothing");
    check_access(json!({ "rules": [{}] }), true, dry, "logged and counted, never enforced");
    check_access(json!({ "rules": [get] }), true, dry_part, "methods");
    let nothing = ["ZtunnelAccepted=True/Accepted", "Enforced=False/NotAsWritten"];
    check_access(json!({ "action": "DENY" }), false, nothing, "DENY without rules");
}

#[test]
fn peer_authentications_have_the_conditions_of_what_they_say() {
    let check = |notes: &[PeerNote], enforced: &str, says: &str| {
        let conditions = peer_authentication(notes);
        assert_eq!(brief(&conditions), ["Accepted=True/Accepted", enforced]);
        assert!(conditions[1].message.contains(says), "{conditions:#?}");
    };
    check(&[], "Enforced=True/Enforced", "all of the policy");
    check(&[PeerNote::Disable], "Enforced=False/DisableIsPermissive", "same as PERMISSIVE");
    let ports = PeerNote::PortsWithoutSelector;
    check(&[ports], "Enforced=False/PortLevelMtlsIgnored", "without a selector");
    let both = "clients of the mesh still use mutual TLS; portLevelMtls has no effect";
    check(&[PeerNote::Disable, ports], "Enforced=False/NotAsWritten", both);
}

#[test]
fn destination_rules_are_told_that_they_have_no_effect() {
    let check = |modes: &[TlsMode], says: &str| {
        let asked = |mode: &TlsMode| Asked { path: "trafficPolicy.tls".to_owned(), mode: *mode };
        let conditions = destination_rule(&modes.iter().map(asked).collect::<Vec<_>>());
        assert_eq!(brief(&conditions), ["Accepted=True/Accepted", "Enforced=False/NoEffect"]);
        assert!(conditions[1].message.contains(says), "{conditions:#?}");
    };
    check(&[], "no effect at layer 4: node agents");
    check(&[TlsMode::IstioMutual], "which is what ISTIO_MUTUAL asks for");
    check(&[TlsMode::Disable], "(trafficPolicy.tls.mode DISABLE)");
    check(
        &[TlsMode::Simple, TlsMode::IstioMutual],
        "mode SIMPLE, trafficPolicy.tls.mode ISTIO_MUTUAL",
    );
    check(&[TlsMode::Mutual], "MUTUAL");
}

#[test]
fn what_cannot_be_read_is_not_accepted_and_says_what_is_closed() {
    let conditions = closed(ZTUNNEL_ACCEPTED, "spec: x", "all is denied");
    assert_eq!(brief(&conditions), ["ZtunnelAccepted=False/Invalid", "Enforced=False/FailsClosed"]);
    assert_eq!(conditions[0].message, "spec: x; until that is mended, all is denied");
    assert_eq!(conditions[1].message, "all is denied");
    let conditions = invalid(ACCEPTED, "spec: x");
    assert_eq!(brief(&conditions), ["Accepted=False/Invalid", "Enforced=False/NotAccepted"]);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    assert_eq!(clipped("abc", 3), "abc");
    assert_eq!(clipped("abcdef", 5), "ab…");
    assert_eq!(clipped("ääää", 6), "ä…");
    let conditions = invalid(ACCEPTED, &"ä".repeat(5000));
    assert!(conditions[0].message.len() <= MESSAGE && conditions[0].message.ends_with("ä…"));
}

fn condition(holds: bool, message: &str) -> Condition {
    Condition { kind: ENFORCED, holds, reason: "R", message: message.to_owned() }
}

fn shown(status: &str, message: &str, generation: Value, since: &str) -> Value {
    json!({ "type": ENFORCED, "status": status, "reason": "R", "message": message,
            "lastTransitionTime": since, "observedGeneration": generation })
}

#[test]
fn a_status_that_says_so_already_is_not_written() {
    let same = json!([shown("True", "m", json!(3), "t0")]);
    assert_eq!(updated(&same, Some(3), &[condition(true, "m")], "t1"), None);
    let text = json!([shown("True", "m", json!("3"), "t0")]);
    assert_eq!(updated(&text, Some(3), &[condition(true, "m")], "t1"), None);
    let first = updated(&Value::Null, Some(3), &[condition(true, "m")], "t0").unwrap();
    assert_eq!(first, same);
    assert_eq!(updated(&first, Some(3), &[condition(true, "m")], "t1"), None);
}

#[test]
fn the_time_changes_only_with_the_status() {
    let before = json!([shown("True", "m", json!(3), "t0")]);
    let message = updated(&before, Some(3), &[condition(true, "n")], "t1").unwrap();
    assert_eq!(message, json!([shown("True", "n", json!(3), "t0")]));
    let generation = updated(&before, Some(4), &[condition(true, "m")], "t1").unwrap();
    assert_eq!(generation, json!([shown("True", "m", json!(4), "t0")]));
    let status = updated(&before, Some(4), &[condition(false, "m")], "t1").unwrap();
    assert_eq!(status, json!([shown("False", "m", json!(4), "t1")]));
}

#[test]
fn conditions_of_others_stay_where_they_are() {
    let other = json!({ "type": "WaypointAccepted", "status": "True", "extra": 1 });
    let ours = shown("True", "m", json!(1), "t0");
    let doubled = json!([ours, other, ours]);
    let made = updated(&doubled, Some(1), &[condition(true, "m")], "t1").unwrap();
    assert_eq!(made, json!([ours, other]));
    assert_eq!(updated(&made, Some(1), &[condition(true, "m")], "t1"), None);
    let made = updated(&json!([other]), Some(1), &[condition(true, "m")], "t0").unwrap();
    assert_eq!(made, json!([other, ours]));
}

fn any_condition() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![ENFORCED, ACCEPTED, "WaypointAccepted", ""]);
    let word = || prop::sample::select(vec![json!("True"), json!("m"), json!("t0"), Value::Null]);
    let generation = prop::sample::select(vec![json!(3), json!("3"), json!("x"), Value::Null]);
    (kind, word(), word(), word(), generation).prop_map(
        |(kind, status, message, since, generation)| {
            json!({ "type": kind, "status": status, "reason": "R", "message": message,
                    "lastTransitionTime": since, "observedGeneration": generation })
        },
    )
}

proptest! {
    /// Whatever is there: one write makes it right, and leaves what is not ours alone.
    #[test]
    fn one_write_is_enough(present in prop::collection::vec(any_condition(), 0..6)) {
        let ours = [condition(true, "m"), Condition { kind: ACCEPTED, ..condition(false, "m") }];
        let others = |list: &Value| -> Vec<Value> {
            let ours = |c: &&Value| c["type"] == ENFORCED || c["type"] == ACCEPTED;
            list.as_array().unwrap().iter().filter(|c| !ours(c)).cloned().collect()
        };
        let present = Value::Array(present);
        let made = updated(&present, Some(3), &ours, "t1").unwrap_or_else(|| present.clone());
        prop_assert_eq!(updated(&made, Some(3), &ours, "t2"), None);
        prop_assert_eq!(others(&made), others(&present));
        prop_assert_eq!(made.as_array().unwrap().len(), others(&present).len() + 2);
    }
}
