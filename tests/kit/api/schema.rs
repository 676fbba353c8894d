//! Structural schemas of custom resources: validation, pruning and defaults.
//!
//! Patterns and CEL rules are [`super::rules`]'. Not evaluated: `format`.

use serde_json::{Map, Value};

use super::error::FieldError;

/// Removes fields that the schema does not know; returns their paths.
pub(super) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if schema.is_object() {
        prune_at(schema, object, "", true, &mut unknown);
    }
    unknown.sort();
    unknown
}

fn prune_at(schema: &Value, value: &mut Value, path: &str, root: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let known = schema["properties"].as_object();
            let additional = &schema["additionalProperties"];
            let keep = schema["x-kubernetes-preserve-unknown-fields"] == true
                || *additional == Value::Bool(true);
            map.retain(|key, value| {
                if root && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                    return true;
                }
                let path = join(path, key);
                if let Some(schema) = known.and_then(|known| known.get(key)) {
                    prune_at(schema, value, &path, false, unknown);
                } else if additional.is_object() {
                    prune_at(additional, value, &path, false, unknown);
                } else if !keep {
                    unknown.push(path);
                    return false;
                }
                true
            });
        }
        Value::Array(list) => {
            for (at, element) in list.iter_mut().enumerate() {
                prune_at(&schema["items"], element, &format!("{path}[{at}]"), false, unknown);
            }
        }
        _ => {}
    }
}

/// Fills in the `default`s of the schema.
pub(super) fn fill_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = schema.get("default")
                    && !map.contains_key(key)
                {
                    map.insert(key.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(key) {
                    fill_defaults(schema, value);
                }
            }
        }
        Value::Array(list) => {
            list.iter_mut().for_each(|value| fill_defaults(&schema["items"], value));
        }
        _ => {}
    }
}

/// What is wrong with an object.
pub(super) fn validate(schema: &Value, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(schema, object, "", &mut errors);
    errors
}

fn check(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(rules) = schema.as_object() else { return };
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if let Some(error) = type_error(rules, value, path) {
        errors.push(error);
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        errors.push(FieldError::unsupported(path, value, allowed));
    }
    let length = match value {
        Value::Object(map) => {
            check_object(schema, map, path, errors);
            bounds(schema, ["minProperties", "maxProperties"], map.len(), "properties")
        }
        Value::Array(list) => {
            for (at, element) in list.iter().enumerate() {
                check(&schema["items"], element, &format!("{path}[{at}]"), errors);
            }
            bounds(schema, ["minItems", "maxItems"], list.len(), "items")
        }
        Value::String(text) => {
            bounds(schema, ["minLength", "maxLength"], text.chars().count(), "chars long")
        }
        Value::Number(_) => {
            check_number(schema, value, path, errors);
            None
        }
        Value::Null | Value::Bool(_) => None,
    };
    if let Some(why) = length {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body {why}")));
    }
    check_combinations(schema, value, path, errors);
}

fn type_error(rules: &Map<String, Value>, value: &Value, path: &str) -> Option<FieldError> {
    let wanted = rules.get("type").and_then(Value::as_str)?;
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    if fits {
        return None;
    }
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Some(FieldError {
        field: path.to_owned(),
        reason: "FieldValueTypeInvalid",
        message: format!(
            "Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}"
        ),
    })
}

fn check_object(
    schema: &Value,
    map: &Map<String, Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(key) {
            errors.push(FieldError::required(join(path, key), ""));
        }
    }
    let additional = &schema["additionalProperties"];
    for (key, value) in map {
        let schema = schema["properties"].get(key).unwrap_or(additional);
        check(schema, value, &join(path, key), errors);
    }
}

fn check_number(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    let mut complain = |message: String| errors.push(FieldError::invalid(path, value, &message));
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < least || (exclusive && number <= least) {
            complain(format!("{path} in body should be greater than or equal to {least}"));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > most || (exclusive && number >= most) {
            complain(format!("{path} in body should be less than or equal to {most}"));
        }
    }
}

/// What is wrong with a length, if anything.
fn bounds(schema: &Value, [least, most]: [&str; 2], length: usize, unit: &str) -> Option<String> {
    let length = length as u64;
    if let Some(least) = schema[least].as_u64().filter(|least| length < *least) {
        return Some(format!("should have at least {least} {unit}"));
    }
    let most = schema[most].as_u64().filter(|most| length > *most);
    most.map(|most| format!("should have at most {most} {unit}"))
}

fn check_combinations(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let passing = |key: &str| {
        schema[key].as_array().map(|all| {
            (all.iter().filter(|schema| validate(schema, value).is_empty()).count(), all.len())
        })
    };
    let mut complain = |message: &str| {
        errors.push(FieldError::invalid(path, &Value::from("object"), message));
    };
    if let Some((passed, all)) = passing("allOf")
        && passed != all
    {
        complain(&format!("{path:?} must validate all the schemas (allOf)"));
    }
    if let Some((0, _)) = passing("anyOf") {
        complain(&format!("{path:?} must validate at least one schema (anyOf)"));
    }
    if let Some((passed, _)) = passing("oneOf")
        && passed != 1
    {
        let found = if passed == 0 { "Found none valid" } else { "Found more than one valid" };
        complain(&format!("{path:?} must validate one and only one schema (oneOf). {found}"));
    }
    if schema["not"].is_object() && validate(&schema["not"], value).is_empty() {
        complain(&format!("{path:?} must not validate the schema (not)"));
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object",
            "properties": {
                "mode": {"type": "string", "enum": ["STRICT", "PERMISSIVE"]},
                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "replicas": {"type": "integer", "default": 1},
            },
            "oneOf": [{"not": {"anyOf": [{"required": ["any"]}]}}, {"required": ["any"]}],
        }}})
    }

    fn check(object: Value, expected: &[&str]) {
        let errors: Vec<String> =
            validate(&schema(), &object).iter().map(FieldError::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn wrong_values_are_told_by_field() {
        check(json!({"spec": {"mode": "STRICT", "port": 80, "labels": {"a": "b"}}}), &[]);
        check(json!({}), &["spec: Required value"]);
        check(
            json!({"spec": {"mode": "STRIKT"}}),
            &[
                "spec.mode: Unsupported value: \"STRIKT\": supported values: \"STRICT\", \"PERMISSIVE\"",
            ],
        );
        check(
            json!({"spec": {"port": 70000}}),
            &[
                "spec.port: Invalid value: 70000: spec.port in body should be less than or equal to 65535",
            ],
        );
        check(
            json!({"spec": {"port": "http"}}),
            &[
                "spec.port: Invalid value: \"string\": spec.port in body must be of type integer: \"string\"",
            ],
        );
        check(
            json!({"spec": {"labels": {"a": "long"}}}),
            &[
                "spec.labels.a: Invalid value: \"long\": spec.labels.a in body should have at most 3 chars long",
            ],
        );
    }

    #[test]
    fn unknown_fields_are_pruned_and_told() {
        let mut object = json!({"kind": "X", "metadata": {"labels": {}}, "spec": {"mode": "STRICT", "mood": 1,
            "any": {"thing": 1}, "labels": {"free": "x"}}, "extra": 1});
        assert_eq!(prune(&schema(), &mut object), ["extra", "spec.mood"]);
        assert_eq!(
            object,
            json!({"kind": "X", "metadata": {"labels": {}}, "spec": {"mode": "STRICT", "any": {"thing": 1},
                "labels": {"free": "x"}}})
        );
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut object = json!({"spec": {}});
        fill_defaults(&schema(), &mut object);
        assert_eq!(object, json!({"spec": {"replicas": 1}}));
    }
}
