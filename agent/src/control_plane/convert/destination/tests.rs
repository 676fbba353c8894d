use serde_json::{Value, json};

use super::*;

#[track_caller]
fn check(spec: Value, expected: &[&str]) {
    let spec: DestinationRuleSpec = serde_json::from_value(spec).unwrap();
    let asked: Vec<String> = spec.asked().iter().map(Asked::to_string).collect();
    assert_eq!(asked, expected);
}

#[test]
fn every_mode_is_found_where_it_is() {
    check(json!({ "host": "a" }), &[]);
    check(json!({ "host": "a", "trafficPolicy": { "connectionPool": {} } }), &[]);
    let tls = |mode: &str| json!({ "mode": mode, "sni": "x" });
    let spec = json!({
        "host": "a",
        "trafficPolicy": {
            "tls": tls("DISABLE"),
            "portLevelSettings": [
                { "port": { "number": 80 }, "tls": tls("SIMPLE") },
                { "port": { "number": 81 } },
            ],
        },
        "subsets": [
            { "name": "v1", "labels": { "version": "v1" } },
            { "name": "v2", "trafficPolicy": { "tls": tls("MUTUAL") } },
            { "name": "v3", "trafficPolicy": {
                "portLevelSettings": [{ "port": { "number": 82 }, "tls": tls("ISTIO_MUTUAL") }] } },
        ],
    });
    check(
        spec,
        &[
            "trafficPolicy.tls.mode DISABLE",
            "trafficPolicy.portLevelSettings[80].tls.mode SIMPLE",
            "subsets[v2].trafficPolicy.tls.mode MUTUAL",
            "subsets[v3].trafficPolicy.portLevelSettings[82].tls.mode ISTIO_MUTUAL",
        ],
    );
}

#[test]
fn no_mode_is_disable() {
    let spec = json!({ "host": "a", "trafficPolicy": { "tls": {} } });
    check(spec, &["trafficPolicy.tls.mode DISABLE"]);
}

#[test]
fn an_unknown_mode_is_an_error() {
    let spec = json!({ "host": "a", "trafficPolicy": { "tls": { "mode": "simple" } } });
    let error = serde_json::from_value::<DestinationRuleSpec>(spec).unwrap_err().to_string();
    assert!(error.starts_with("unknown variant `simple`"), "{error}");
}

#[test]
fn hosts_are_in_namespaces() {
    let one = |namespace: &str| HostNamespace::One(namespace.to_owned());
    for (host, expected) in [
        ("reviews", one("own")),
        ("reviews.foo", one("foo")),
        ("reviews.foo.svc", one("foo")),
        ("reviews.foo.svc.cluster.local", one("foo")),
        ("*.foo.svc.cluster.local", one("foo")),
        ("*", HostNamespace::Any),
        ("*.local", HostNamespace::Any),
        ("*.svc.cluster.local", HostNamespace::Any),
        ("*.cluster.local", HostNamespace::Any),
    ] {
        assert_eq!(host_namespace(host, "own"), expected, "{host}");
    }
}
