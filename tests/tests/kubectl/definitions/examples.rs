//! What each pattern and rule takes, and what it refuses.

use serde_json::{Value, json};

/// Of each pattern, by how it begins: what fits, and what does not.
const PATTERNS: [(&str, &[&str], &[&str]); 4] = [
    (
        "^(((25[0-5]",
        &[
            "10.0.0.1",
            "10.0.0.0/8",
            "255.255.255.255/32",
            "0.0.0.0/0",
            "::",
            "::1",
            "::/0",
            "1:2:3:4:5:6:7:8",
            "fd00:10::/64",
            "1::8/128",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "fe80::1%eth0",
        ],
        &[
            "",
            "*",
            "localhost",
            "10.0.0.1-10.0.0.9",
            "10.0.0.0/",
            "10.0.0.0 /8",
            "10.0.0.300",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/99",
            "::/129",
            "1:2:3:4:5:6:7",
            "1::2::3",
            "1:2:3:4:5:6:7:8:9",
            "12345::",
            "::ffff:10.0.0.300",
            "fe80::1%eth0/64",
            "fe80::1%",
            "10.0.0.1%eth0",
        ],
    ),
    ("^([^/*]+/)?", &["a", "a/b"], &["", "*", "a/*", "a/", "/b", "a/b/c"]),
    (
        "^(source",
        &[
            "source.ip",
            "source.namespace",
            "source.principal",
            "remote.ip",
            "destination.ip",
            "destination.port",
            "request.headers[User-Agent]",
            "request.auth.claims[a][b]",
            "connection.sni",
            "experimental.envoy.filters.network.mysql_proxy[db.table]",
        ],
        &["", "source.ipp", "source", "Source.ip", "request.headers", "request.headers[]", "a[b]"],
    ),
    (
        "^0*([0-9]{1,4}",
        &["1", "80", "080", "9999", "59999", "64999", "65499", "65529", "65535"],
        &["", "http", "-1", "65536", "65540", "65600", "66000", "70000", "100000", "80-90"],
    ),
];

/// Of each rule, by its message: what it takes, and what it refuses.
pub(super) fn rules() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let label = |name: &str| json!({ name: "a" });
    let source = |fields: &[&str]| {
        fields.iter().map(|field| ((*field).to_owned(), json!(["a"]))).collect::<Value>()
    };
    let target = json!({ "kind": "Gateway", "name": "waypoint" });
    let ports = |port: &str| json!({ port: { "mode": "STRICT" } });
    let (one, select) = (ports("80"), json!({ "matchLabels": { "app": "a" } }));
    vec![
        (
            "a label is matched as it stands",
            vec![json!("a"), json!("")],
            vec![json!("*"), json!("a*")],
        ),
        ("a label has a name", vec![label("app"), json!({})], vec![label("")]),
        (
            "a label's name is matched as it stands",
            vec![label("app")],
            vec![label("*"), label("app*")],
        ),
        (
            "a port is a number from 1 to 65535",
            vec![ports("1"), ports("65535")],
            vec![ports("0"), ports("65536"), ports("-1"), ports("http"), ports("")],
        ),
        (
            "portLevelMtls needs a selector with labels",
            vec![json!({}), json!({ "selector": select, "portLevelMtls": one })],
            vec![
                json!({ "portLevelMtls": one }),
                json!({ "portLevelMtls": one, "selector": {} }),
                json!({ "portLevelMtls": one, "selector": { "matchLabels": {} } }),
            ],
        ),
        condition(),
        (
            "service accounts do not go with principals or namespaces",
            vec![
                source(&["serviceAccounts", "notServiceAccounts"]),
                source(&["principals", "notPrincipals", "namespaces", "notNamespaces"]),
                json!({ "serviceAccounts": ["a"], "ipBlocks": ["10.0.0.1"] }),
            ],
            vec![
                source(&["serviceAccounts", "principals"]),
                source(&["serviceAccounts", "notPrincipals"]),
                source(&["serviceAccounts", "namespaces"]),
                source(&["notServiceAccounts", "notNamespaces"]),
            ],
        ),
        (
            "a policy is for a selector or for targets, not for both",
            vec![
                json!({}),
                json!({ "selector": select }),
                json!({ "targetRef": target }),
                json!({ "targetRefs": [target] }),
            ],
            vec![
                json!({ "selector": select, "targetRef": target }),
                json!({ "selector": select, "targetRefs": [target] }),
                json!({ "targetRef": target, "targetRefs": [target] }),
            ],
        ),
    ]
}

/// Of the rule about conditions.
fn condition() -> (&'static str, Vec<Value>, Vec<Value>) {
    (
        "a condition needs values or notValues",
        vec![
            json!({ "key": "source.ip", "values": ["10.0.0.1"] }),
            json!({ "key": "source.ip", "notValues": ["10.0.0.1"] }),
        ],
        vec![json!({ "key": "source.ip" })],
    )
}

/// The examples of a pattern.
pub(super) fn of_pattern(
    pattern: &str,
) -> &'static (&'static str, &'static [&'static str], &'static [&'static str]) {
    let found = PATTERNS.iter().find(|(start, ..)| pattern.starts_with(start));
    found.unwrap_or_else(|| panic!("no example of the pattern {pattern}"))
}
