use serde_json::{Value, json};

use super::*;

fn object(name: &str, host: &str, mode: Option<&str>) -> DynamicObject {
    let mut spec = json!({ "host": host });
    if let Some(mode) = mode {
        spec["trafficPolicy"] = json!({ "tls": { "mode": mode } });
    }
    serde_json::from_value(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": name, "namespace": "client", "uid": "u", "generation": 1 },
        "spec": spec,
    }))
    .unwrap()
}

fn apply(name: &str, host: &str, mode: Option<&str>) -> Seen {
    Seen::Rule(Change::Apply(rule(&object(name, host, mode)).record.unwrap()))
}

fn namespace(name: &str, label: Option<&str>) -> Seen {
    let labels = label.map_or(Value::Null, |label| json!({ "istio.io/dataplane-mode": label }));
    let object = json!({ "metadata": { "name": name, "labels": labels } });
    let object: KubeNamespace = serde_json::from_value(object).unwrap();
    Seen::Namespace(Change::Apply(enrolment(object).unwrap()))
}

/// Names of the rules that are warned about.
fn names(told: Vec<(ObjectReference, Warning)>) -> Vec<String> {
    told.into_iter().filter_map(|(about, _)| about.name).collect()
}

#[test]
fn modes_that_differ_are_warned_about_in_enrolled_namespaces() {
    let mut rules = Rules::default();
    assert_eq!(names(rules.see(namespace("foo", Some("ambient")))), [""; 0]);
    for (mode, warned) in [
        (Some("DISABLE"), true),
        (Some("SIMPLE"), true),
        (Some("MUTUAL"), true),
        (Some("ISTIO_MUTUAL"), false),
        (None, false),
    ] {
        let told = rules.see(apply(mode.unwrap_or("none"), "a.foo.svc.cluster.local", mode));
        assert_eq!(told.len(), usize::from(warned), "{mode:?}");
        for (about, warning) in told {
            assert_eq!(about.api_version.as_deref(), Some("networking.istio.io/v1"));
            assert_eq!(warning.reason, "NoEffectInAmbient");
            assert!(warning.note.starts_with("namespace foo is in the ambient mesh"));
            assert!(warning.note.ends_with(&format!("trafficPolicy.tls.mode {}", mode.unwrap())));
        }
        assert!(rules.see(apply("elsewhere", "a.bar", mode)).is_empty());
        assert!(rules.see(apply("own", "a", mode)).is_empty());
    }
}

#[test]
fn a_namespace_that_is_enrolled_later_warns_once() {
    let mut rules = Rules::default();
    for (name, host) in [("a", "a.foo"), ("b", "*.foo.svc"), ("c", "*"), ("d", "d.bar")] {
        assert!(rules.see(apply(name, host, Some("DISABLE"))).is_empty());
    }
    assert!(rules.see(namespace("foo", Some("none"))).is_empty());
    assert_eq!(names(rules.see(namespace("foo", Some("ambient")))), ["a", "b", "c"]);
    assert!(rules.see(namespace("foo", Some("ambient"))).is_empty());
    assert!(rules.see(apply("a", "a.foo", Some("DISABLE"))).is_empty());
    let mut changed = object("a", "a.foo", Some("SIMPLE"));
    changed.metadata.generation = Some(2);
    let changed = Change::Apply(rule(&changed).record.unwrap());
    assert_eq!(names(rules.see(Seen::Rule(changed))), ["a"]);
    assert_eq!(names(rules.see(namespace("bar", Some("ambient")))), ["d"]);
}

#[test]
fn a_deleted_rule_is_forgotten() {
    let mut rules = Rules::default();
    rules.see(apply("a", "a.foo", Some("DISABLE")));
    rules.see(Seen::Rule(Change::Delete(ObjectKey::new("client", "a"))));
    assert!(rules.see(namespace("foo", Some("ambient"))).is_empty());
    assert_eq!(names(rules.see(apply("a", "a.foo", Some("DISABLE")))), ["a"]);
    rules.see(Seen::Rule(Change::Replace(Vec::new())));
    assert_eq!(names(rules.see(apply("a", "a.foo", Some("DISABLE")))), ["a"]);
}

#[test]
fn each_mode_at_each_level_is_told_and_warned_about() {
    let at = |level: &str, mode: &str| {
        let tls = json!({ "mode": mode });
        let port = json!({ "portLevelSettings": [{ "port": { "number": 80 }, "tls": tls }] });
        match level {
            "trafficPolicy.tls" => json!({ "trafficPolicy": { "tls": tls } }),
            "trafficPolicy.portLevelSettings[80].tls" => json!({ "trafficPolicy": port }),
            "subsets[v1].trafficPolicy.tls" => {
                json!({ "subsets": [{ "name": "v1", "trafficPolicy": { "tls": tls } }] })
            }
            _ => json!({ "subsets": [{ "name": "v1", "trafficPolicy": port }] }),
        }
    };
    for level in [
        "trafficPolicy.tls",
        "trafficPolicy.portLevelSettings[80].tls",
        "subsets[v1].trafficPolicy.tls",
        "subsets[v1].trafficPolicy.portLevelSettings[80].tls",
    ] {
        for mode in ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] {
            let mut object = object("a", "a.foo", None);
            object.data["spec"] = at(level, mode);
            object.data["spec"]["host"] = json!("a.foo");
            let Read { record, told } = rule(&object);
            let record = record.unwrap();
            let [accepted, enforced] = told.conditions.as_slice() else { panic!("{told:?}") };
            assert_eq!((accepted.kind, accepted.holds), ("Accepted", true));
            assert_eq!(
                (enforced.kind, enforced.holds, enforced.reason),
                ("Enforced", false, "NoEffect")
            );
            let agrees = mode == "ISTIO_MUTUAL";
            let said = format!("({level}.mode {mode})");
            assert_eq!(enforced.message.contains(&said), !agrees, "{}", enforced.message);
            let mut rules = Rules::default();
            rules.see(namespace("foo", Some("ambient")));
            let warned = rules.see(Seen::Rule(Change::Apply(record)));
            assert_eq!(warned.is_empty(), agrees, "{level} {mode}");
            for (_, warning) in warned {
                assert!(warning.note.ends_with(&format!("no effect of {level}.mode {mode}")));
            }
        }
    }
}

fn with_external(name: &str, ips: Value) -> Option<Rule> {
    let object = json!({ "metadata": { "name": name, "namespace": "foo", "uid": "u" },
                         "spec": { "externalIPs": ips } });
    service(serde_json::from_value(object).unwrap())
}

#[test]
fn an_external_address_of_a_service_in_the_mesh_is_warned_about_once() {
    let mut rules = Rules::default();
    let seen = |ips| Seen::Service(Change::Apply(with_external("db", ips).unwrap()));
    assert!(rules.see(seen(json!(["192.0.2.1"]))).is_empty());
    let told = rules.see(namespace("foo", Some("ambient")));
    let [(about, warning)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Service"), Some("db")));
    assert_eq!(warning.reason, "OutsideMesh");
    assert!(warning.note.contains("externalIPs (192.0.2.1)"), "{}", warning.note);
    assert!(rules.see(seen(json!(["192.0.2.1"]))).is_empty());
    assert_eq!(rules.see(seen(json!(["192.0.2.2"]))).len(), 1, "others are news");
    assert_eq!(with_external("none", json!([])), None);
}
