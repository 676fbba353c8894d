//! Strategic merge patch: lists of objects merge by a key that depends on the field.
//!
//! Directives: `$patch: delete|replace|merge`, `$retainKeys`, `$deleteFromPrimitiveList/FIELD`,
//! `$setElementOrder/FIELD`.

use serde_json::{Map, Value};

use super::json::as_object_mut;

/// Applies a strategic merge patch.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = as_object_mut(target);
    if patch.get("$patch").is_some_and(|p| p == "replace") {
        target.clear();
    }
    retain_keys(target, patch);
    for (key, value) in patch {
        if key == "$patch" || key == "$retainKeys" || key.starts_with("$setElementOrder/") {
            continue;
        }
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            delete_from_list(target, field, value);
            continue;
        }
        merge_field(target, key, value);
    }
    for (key, order) in patch {
        if let (Some(field), Some(order)) =
            (key.strip_prefix("$setElementOrder/"), order.as_array())
        {
            set_order(target, field, order);
        }
    }
}

fn merge_field(target: &mut Map<String, Value>, key: &str, value: &Value) {
    match value {
        Value::Null => {
            target.remove(key);
        }
        Value::Object(map) if map.get("$patch").is_some_and(|p| p == "delete") => {
            target.remove(key);
        }
        Value::Object(_) => merge(target.entry(key).or_insert(Value::Null), value),
        Value::Array(patch) => merge_list(target, key, patch),
        _ => {
            target.insert(key.to_owned(), value.clone());
        }
    }
}

fn merge_list(target: &mut Map<String, Value>, field: &str, patch: &[Value]) {
    let slot = target.entry(field).or_insert(Value::Null);
    let found = slot.as_array().map_or(&[][..], Vec::as_slice);
    if field == "finalizers" {
        let mut list = found.to_vec();
        list.extend(patch.iter().filter(|v| !found.contains(v)).cloned());
        *slot = Value::Array(list);
        return;
    }
    let Some(merge_key) = merge_key(field, patch, found) else {
        *slot = Value::Array(patch.to_vec());
        return;
    };
    let replaces = patch.iter().any(|p| p["$patch"] == "replace");
    let mut list = if replaces { Vec::new() } else { found.to_vec() };
    for element in patch {
        if element["$patch"] == "replace" {
            continue;
        }
        let at = list.iter().position(|e| e[merge_key] == element[merge_key]);
        match (at, element["$patch"] == "delete") {
            (Some(at), true) => {
                list.remove(at);
            }
            (None, true) => {}
            (Some(at), false) => merge(&mut list[at], element),
            (None, false) => {
                let mut fresh = Value::Null;
                merge(&mut fresh, element);
                list.push(fresh);
            }
        }
    }
    *slot = Value::Array(list);
}

/// The key by which a list merges; none means the list is replaced. Some fields (`ports`) have another key in
/// another type: the first candidate that the elements have decides.
fn merge_key(field: &str, patch: &[Value], found: &[Value]) -> Option<&'static str> {
    let candidates: &[&'static str] = match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims" => &["name"],
        // On a ServiceAccount; elsewhere (projected volumes) there is no list of this name.
        "secrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "ports" => &["containerPort", "port"],
        "conditions" => &["type"],
        "addresses" => &["type"],
        "ownerReferences" => &["uid"],
        "hostAliases" => &["ip"],
        "podIPs" | "hostIPs" => &["ip"],
        "topologySpreadConstraints" => &["topologyKey"],
        _ => return None,
    };
    let mut elements: Vec<&Value> = patch.iter().chain(found).collect();
    elements.retain(|e| e.get("$patch").is_none_or(|p| p != "replace"));
    candidates.iter().copied().find(|key| elements.iter().all(|e| e.get(key).is_some()))
}

fn retain_keys(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    if let Some(keys) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|key, _| keys.iter().any(|k| k == key));
    }
}

fn delete_from_list(target: &mut Map<String, Value>, field: &str, values: &Value) {
    if let (Some(Value::Array(list)), Some(values)) = (target.get_mut(field), values.as_array()) {
        list.retain(|v| !values.contains(v));
    }
}

/// Puts the elements that the order names in that order, before the others.
fn set_order(target: &mut Map<String, Value>, field: &str, order: &[Value]) {
    let Some(Value::Array(list)) = target.get_mut(field) else { return };
    let place = |element: &Value| {
        order.iter().position(|wanted| match wanted {
            Value::Object(keys) => keys.iter().all(|(k, v)| element.get(k) == Some(v)),
            plain => element == plain,
        })
    };
    list.sort_by_key(|element| place(element).unwrap_or(usize::MAX));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(mut target: Value, patch: Value, expected: Value) {
        merge(&mut target, &patch);
        assert_eq!(target, expected);
    }

    #[test]
    fn containers_merge_by_name() {
        check(
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}]}),
            json!({"containers": [
                {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b"}
            ]}),
        );
    }

    #[test]
    fn elements_are_deleted_and_ordered_by_directive() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({
                "containers": [{"name": "a", "$patch": "delete"}, {"name": "c"}],
                "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}],
            }),
            json!({"containers": [{"name": "c"}, {"name": "b"}]}),
        );
    }

    #[test]
    fn service_and_container_ports_have_their_own_keys() {
        check(
            json!({"ports": [{"port": 80, "targetPort": 1}]}),
            json!({"ports": [{"port": 80, "targetPort": 2}, {"port": 81}]}),
            json!({"ports": [{"port": 80, "targetPort": 2}, {"port": 81}]}),
        );
        check(
            json!({"ports": [{"containerPort": 80}]}),
            json!({"ports": [{"containerPort": 80, "name": "web"}]}),
            json!({"ports": [{"containerPort": 80, "name": "web"}]}),
        );
    }

    #[test]
    fn atomic_lists_are_replaced_and_null_removes() {
        check(
            json!({"args": ["a", "b"], "x": 1}),
            json!({"args": ["c"], "x": null}),
            json!({"args": ["c"]}),
        );
    }

    #[test]
    fn retain_keys_clears_the_others() {
        check(
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}),
            json!({"strategy": {"type": "Recreate", "$retainKeys": ["type"]}}),
            json!({"strategy": {"type": "Recreate"}}),
        );
    }
}
