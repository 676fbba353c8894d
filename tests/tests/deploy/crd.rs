//! The definitions of Istio's kinds: structural, and they take what the tutorials apply.

use serde_json::{Value, json};

use crate::render::{documents, items, name, of_kind};

/// The definition of a kind.
fn definition(plural: &str) -> Value {
    let all = documents("crds");
    let found = of_kind(&all, "CustomResourceDefinition")
        .into_iter()
        .find(|crd| crd["spec"]["names"]["plural"] == plural);
    found.expect("the definition is there").clone()
}

#[test]
fn definitions_are_structural() {
    let all = documents("crds");
    let definitions = of_kind(&all, "CustomResourceDefinition");
    assert_eq!(definitions.len(), 3);
    for crd in definitions {
        let spec = &crd["spec"];
        let expected = format!(
            "{}.{}",
            spec["names"]["plural"].as_str().expect("a name"),
            spec["group"].as_str().expect("a name")
        );
        assert_eq!(name(&crd["metadata"]), expected);
        let stored = items(&spec["versions"]).iter().filter(|version| version["storage"] == true);
        assert_eq!(stored.count(), 1, "{expected}: one version is stored");
        for version in items(&spec["versions"]) {
            let schema = &version["schema"]["openAPIV3Schema"];
            let mut faults = Vec::new();
            structural(schema, name(version), &mut faults);
            assert!(faults.is_empty(), "{expected}: {faults:#?}");
            columns_exist(version, schema, &expected);
            assert_eq!(version["subresources"]["status"], json!({}), "{expected}");
        }
    }
}

/// The rules of structural schemas, as far as these definitions could break them.
fn structural(schema: &Value, path: &str, faults: &mut Vec<String>) {
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{path}: {what}"));
        }
    };
    expect(schema["type"].is_string(), "has no type");
    expect(schema.get("$ref").is_none(), "refers elsewhere");
    let (properties, additional) = (schema.get("properties"), schema.get("additionalProperties"));
    expect(properties.is_none() || additional.is_none(), "has properties and additional ones");
    expect((schema["type"] == "array") == schema.get("items").is_some(), "items go with arrays");
    for required in items(&schema["required"]) {
        let known =
            properties.is_some_and(|known| known.get(required.as_str().expect("a name")).is_some());
        expect(known, "requires an unknown property");
    }
    for rule in items(&schema["x-kubernetes-validations"]) {
        expect(rule["rule"].is_string() && rule["message"].is_string(), "a rule says what it asks");
    }
    for (key, property) in properties.and_then(Value::as_object).into_iter().flatten() {
        structural(property, &format!("{path}.{key}"), faults);
    }
    for (key, inner) in [("items", schema.get("items")), ("additionalProperties", additional)] {
        if let Some(inner) = inner {
            structural(inner, &format!("{path}.{key}"), faults);
        }
    }
}

fn columns_exist(version: &Value, schema: &Value, crd: &str) {
    for column in items(&version["additionalPrinterColumns"]) {
        let path = column["jsonPath"].as_str().expect("a path");
        if path.starts_with(".metadata.") {
            continue;
        }
        let found =
            path.split('.').skip(1).fold(schema, |schema, part| &schema["properties"][part]);
        assert!(found.is_object(), "{crd}: column {path}");
    }
}

#[test]
fn short_names_are_those_that_people_type() {
    for (plural, short) in
        [("peerauthentications", "pa"), ("destinationrules", "dr"), ("authorizationpolicies", "ap")]
    {
        assert_eq!(definition(plural)["spec"]["names"]["shortNames"], json!([short]));
    }
}

#[test]
fn all_versions_of_a_kind_have_one_schema() {
    for plural in ["peerauthentications", "destinationrules", "authorizationpolicies"] {
        let crd = definition(plural);
        let versions = items(&crd["spec"]["versions"]);
        assert!(
            versions.iter().all(|version| version["schema"] == versions[0]["schema"]),
            "{plural}"
        );
        assert!(versions.iter().any(|version| name(version) == "v1beta1"), "{plural}");
    }
}

/// What a schema has against a spec.
fn faults(plural: &str, spec: &Value) -> Vec<String> {
    let crd = definition(plural);
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut faults = Vec::new();
    validate(schema, spec, "spec", &mut faults);
    faults
}

/// The part of schema validation that these definitions use; their CEL rules need an API server.
fn validate(schema: &Value, value: &Value, path: &str, faults: &mut Vec<String>) {
    let is_kind = match schema["type"].as_str().unwrap_or("") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        other => panic!("{path}: the validator does not know {other}"),
    };
    if !is_kind {
        faults.push(format!("{path}: not of type {}", schema["type"]));
    }
    if schema.get("enum").is_some_and(|known| !items(known).contains(value)) {
        faults.push(format!("{path}: {value} is not supported"));
    }
    let least = |bound: &str, length: Option<usize>| {
        schema[bound].as_u64().zip(length).is_some_and(|(least, length)| (length as u64) < least)
    };
    if least("minItems", value.as_array().map(Vec::len))
        || least("minLength", value.as_str().map(str::len))
        || least("minProperties", value.as_object().map(serde_json::Map::len))
    {
        faults.push(format!("{path}: says too little"));
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str()) {
        let pattern = regex::Regex::new(pattern).expect("a pattern");
        if !pattern.is_match(text) {
            faults.push(format!("{path}: {text:?} is of another form"));
        }
    }
    for (bound, exceeds) in [("minimum", i64::lt as fn(&i64, &i64) -> bool), ("maximum", i64::gt)] {
        if let (Some(bound), Some(number)) = (schema[bound].as_i64(), value.as_i64())
            && exceeds(&number, &bound)
        {
            faults.push(format!("{path}: {number} is out of range"));
        }
    }
    let most = schema["maxItems"].as_u64().zip(value.as_array());
    if most.is_some_and(|(most, list)| list.len() as u64 > most) {
        faults.push(format!("{path}: has too many items"));
    }
    for required in items(&schema["required"]).iter().filter_map(Value::as_str) {
        if value.get(required).is_none() {
            faults.push(format!("{path}.{required}: is required"));
        }
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
        match schema["properties"].get(key).or_else(|| schema.get("additionalProperties")) {
            Some(property) => validate(property, inner, &path, faults),
            None if open => {}
            None => faults.push(format!("{path}: unknown field")),
        }
    }
    for (index, inner) in items(value).iter().enumerate() {
        validate(&schema["items"], inner, &format!("{path}[{index}]"), faults);
    }
}

#[test]
fn peer_authentications_of_the_tutorials_are_taken() {
    let good = [
        json!({}),
        json!({"mtls": {"mode": "STRICT"}}),
        json!({"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "UNSET"}, "portLevelMtls": {"8080": {"mode": "DISABLE"}}}),
    ];
    for spec in good {
        assert_eq!(faults("peerauthentications", &spec), [""; 0]);
    }
    let bad = [
        (json!({"mtls": {"mode": "Strict"}}), "spec.mtls.mode: \"Strict\" is not supported"),
        (json!({"mtls": {"modes": "STRICT"}}), "spec.mtls.modes: unknown field"),
        (json!({"mtls": "STRICT"}), "spec.mtls: not of type \"object\""),
        (json!({"selector": {"app": "a"}}), "spec.selector.app: unknown field"),
    ];
    for (spec, expected) in bad {
        assert_eq!(faults("peerauthentications", &spec), [expected]);
    }
}

#[test]
fn authorization_policies_are_taken_with_every_field() {
    let spec = json!({
        "selector": {"matchLabels": {"app": "a"}},
        "action": "DENY",
        "rules": [{
            "from": [{"source": {"principals": ["*"], "notNamespaces": ["b"], "ipBlocks": ["10.0.0.0/8"], "serviceAccounts": ["c/d"]}}],
            "to": [{"operation": {"ports": ["80"], "methods": ["GET"]}}],
            "when": [{"key": "source.ip", "values": ["10.1.0.0/16"], "notValues": ["10.1.2.3"]}],
        }],
    });
    assert_eq!(faults("authorizationpolicies", &spec), [""; 0]);
    let spec = json!({"targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "w"}]});
    assert_eq!(faults("authorizationpolicies", &spec), [""; 0]);
    let spec =
        json!({"action": "BLOCK", "rules": [{"from": [{"principals": ["a"]}], "when": [{}]}]});
    let expected = [
        "spec.action: \"BLOCK\" is not supported",
        "spec.rules[0].from[0].source: is required",
        "spec.rules[0].from[0].principals: unknown field",
        "spec.rules[0].when[0].key: is required",
    ];
    assert_eq!(faults("authorizationpolicies", &spec), expected);
}

#[test]
fn destination_rules_keep_what_is_not_read_here() {
    let spec = json!({"host": "a.b.svc", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}, "connectionPool": {"tcp": {}}}, "subsets": []});
    assert_eq!(faults("destinationrules", &spec), [""; 0]);
    assert_eq!(faults("destinationrules", &json!({})), ["spec.host: is required"]);
}

#[test]
fn ports_and_addresses_are_checked_when_applied() {
    let addresses = |field: &str, value: &str| {
        let spec = json!({"rules": [{"from": [{"source": {field: [value]}}]}]});
        faults("authorizationpolicies", &spec)
    };
    let ports = |value: &str| {
        let spec = json!({"rules": [{"to": [{"operation": {"notPorts": [value]}}]}]});
        faults("authorizationpolicies", &spec)
    };
    for good in ["10.0.0.0/8", "10.1.2.3", "::1", "fd00:10::/64", "::ffff:10.0.0.1", "fe80::1%eth0"]
    {
        assert_eq!(addresses("ipBlocks", good), [""; 0]);
    }
    for bad in [
        "",
        "*",
        "localhost",
        "10.0.0.1-10.0.0.9",
        "10.0.0.0/",
        "10.0.0.0 /8",
        "10.0.0.300",
        "10.0.0.0/99",
        "::/129",
        "fe80::1%eth0/64",
    ] {
        for field in ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"] {
            let expected =
                format!("spec.rules[0].from[0].source.{field}[0]: {bad:?} is of another form");
            assert_eq!(addresses(field, bad), [expected]);
        }
    }
    for good in
        ["0", "1", "80", "080", "9999", "10000", "59999", "64999", "65499", "65529", "65535"]
    {
        assert_eq!(ports(good), [""; 0], "{good}");
    }
    for bad in
        ["", "http", "-1", "65536", "65540", "65600", "66000", "70000", "100000", "80-90", "8 0"]
    {
        assert_eq!(ports(bad).len(), 1, "{bad}");
    }
}

#[test]
fn what_asks_for_nothing_is_refused() {
    for (rule, path) in [
        (json!({"from": []}), "from"),
        (json!({"to": []}), "to"),
        (json!({"from": [{"source": {}}]}), "from[0].source"),
        (json!({"to": [{"operation": {}}]}), "to[0].operation"),
        (json!({"from": [{"source": {"namespaces": [""]}}]}), "from[0].source.namespaces[0]"),
    ] {
        let found = faults("authorizationpolicies", &json!({"rules": [rule]}));
        assert_eq!(found, [format!("spec.rules[0].{path}: says too little")]);
    }
}

/// What an API server counts for rules, as it documents: a rule may run as often as the lists around
/// it are long, and costs what it reads. Its limit for one is 10 million.
#[test]
fn rules_are_within_the_budget_of_an_api_server() {
    const LIMIT: u64 = 10_000_000;
    // A name and a field of it count for two; `self.all` runs over what is short.
    let cost = |rule: &str| 2 * rule.split_whitespace().count() as u64;
    fn visit(schema: &Value, times: u64, path: &str, cost: &dyn Fn(&str) -> u64) {
        for rule in items(&schema["x-kubernetes-validations"]) {
            let rule = rule["rule"].as_str().expect("a rule");
            let all = times.saturating_mul(cost(rule));
            assert!(all < LIMIT, "{path}: {all} for {rule}");
        }
        let bound = |key: &str| schema[key].as_u64().unwrap_or(u64::MAX);
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            visit(schema, times, &format!("{path}.{name}"), cost);
        }
        visit_inner(schema, "items", times.saturating_mul(bound("maxItems")), path, cost);
        let many = times.saturating_mul(bound("maxProperties"));
        visit_inner(schema, "additionalProperties", many, path, cost);
    }
    fn visit_inner(schema: &Value, key: &str, times: u64, path: &str, cost: &dyn Fn(&str) -> u64) {
        if schema[key].is_object() {
            visit(&schema[key], times, &format!("{path}[]"), cost);
        }
    }
    for plural in ["authorizationpolicies", "peerauthentications"] {
        let crd = definition(plural);
        for version in items(&crd["spec"]["versions"]) {
            visit(&version["schema"]["openAPIV3Schema"], 1, plural, &cost);
        }
    }
}

#[test]
fn no_list_is_shorter_than_a_policy_may_need() {
    let many = vec![json!({"operation": {"ports": ["80"]}}); 1000];
    let when = vec![json!({"key": "source.ip", "values": ["10.0.0.1"]}); 1000];
    let spec = json!({"rules": [{"to": many, "when": when}]});
    assert_eq!(faults("authorizationpolicies", &spec), [""; 0]);
    let ports = (1..=2000).map(|port: u16| (port.to_string(), json!({"mode": "STRICT"})));
    let ports: serde_json::Map<String, Value> = ports.collect();
    let spec = json!({"selector": {"matchLabels": {"app": "a"}}, "portLevelMtls": ports});
    assert_eq!(faults("peerauthentications", &spec), [""; 0]);
}

#[test]
fn modes_of_destination_rules_are_checked_wherever_they_are() {
    let rule = |mode: &str| {
        let policy = json!({
            "tls": {"mode": mode, "sni": "a"},
            "portLevelSettings": [{"port": {"number": 443}, "tls": {"mode": mode}}],
        });
        let spec = json!({"host": "a", "trafficPolicy": policy,
            "subsets": [{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": policy}]});
        faults("destinationrules", &spec)
    };
    for good in ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] {
        assert_eq!(rule(good), [""; 0]);
    }
    assert_eq!(rule("STRICT").len(), 4);
    let unnamed = json!({"host": "a", "subsets": [{"labels": {}}]});
    assert_eq!(faults("destinationrules", &unnamed), ["spec.subsets[0].name: is required"]);
}
