//! JSON patch (RFC 6902) and JSON merge patch (RFC 7396).

use serde_json::Value;

use super::json::as_object_mut;

/// Applies a merge patch: objects merge, null removes, anything else replaces.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = as_object_mut(target);
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a JSON patch.
///
/// # Errors
/// What is wrong with the patch, or does not fit the document.
pub(super) fn json_patch(target: &mut Value, patch: &Value) -> Result<(), String> {
    let Some(operations) = patch.as_array() else {
        return Err("a JSON patch is a list of operations".to_owned());
    };
    operations.iter().try_for_each(|operation| apply(target, operation))
}

fn apply(target: &mut Value, operation: &Value) -> Result<(), String> {
    let path = operation["path"].as_str().ok_or("an operation needs a path")?;
    let value = || operation.get("value").cloned().ok_or("the operation needs a value");
    let from = || operation["from"].as_str().ok_or("the operation needs \"from\"");
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(|_removed| ()),
        "replace" => {
            let slot = target.pointer_mut(path).ok_or_else(|| missing(path))?;
            *slot = value()?;
            Ok(())
        }
        "move" => {
            let value = remove(target, from()?)?;
            add(target, path, value)
        }
        "copy" => {
            let from = from()?;
            let value = target.pointer(from).cloned().ok_or_else(|| missing(from))?;
            add(target, path, value)
        }
        "test" => {
            let wanted = value()?;
            match target.pointer(path) {
                Some(found) if *found == wanted => Ok(()),
                _ => Err(format!("testing path {path} value failed")),
            }
        }
        other => Err(format!("unknown operation {other:?}")),
    }
}

fn missing(path: &str) -> String {
    format!("path {path:?} does not exist")
}

/// Splits a pointer into its parent and its unescaped last part.
fn split(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| format!("invalid path {path:?}"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(last, value);
            Ok(())
        }
        Some(Value::Array(list)) => {
            let at = if last == "-" { Some(list.len()) } else { last.parse().ok() };
            match at {
                Some(at) if at <= list.len() => {
                    list.insert(at, value);
                    Ok(())
                }
                _ => Err(missing(path)),
            }
        }
        _ => Err(missing(parent)),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = split(path)?;
    let removed = match target.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&last),
        Some(Value::Array(list)) => {
            last.parse().ok().filter(|at| *at < list.len()).map(|at: usize| list.remove(at))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_removes_with_null() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "list": [1, 2]});
        merge(&mut target, &json!({"a": {"b": null, "d": 3}, "list": [3], "new": {"x": null}}));
        assert_eq!(target, json!({"a": {"c": 2, "d": 3}, "list": [3], "new": {}}));
    }

    #[test]
    fn a_json_patch_does_all_six_operations() {
        let mut target = json!({"a": [1, 2], "b/c": {"x": 1}});
        let patch = json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "add", "path": "/a/1", "value": 9},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
            {"op": "replace", "path": "/b~1c/x", "value": 2},
            {"op": "copy", "from": "/b~1c", "path": "/d"},
            {"op": "move", "from": "/b~1c/x", "path": "/e"},
        ]);
        json_patch(&mut target, &patch).unwrap();
        assert_eq!(target, json!({"a": [9, 2, 3], "b/c": {}, "d": {"x": 2}, "e": 2}));
    }

    #[test]
    fn a_json_patch_that_does_not_fit_is_refused() {
        let refused = |patch: Value| json_patch(&mut json!({"a": []}), &patch).is_err();
        assert!(refused(json!({"op": "add"})));
        assert!(refused(json!([{"op": "remove", "path": "/x"}])));
        assert!(refused(json!([{"op": "add", "path": "/a/7", "value": 1}])));
        assert!(refused(json!([{"op": "test", "path": "/a", "value": 1}])));
    }
}
