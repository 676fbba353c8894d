//! The part of JSONPath that printer columns use: fields, indices, `[*]` and `[?(@.type=="Ready")]`.

use serde_json::Value;

/// All values a path like `.status.conditions[?(@.type=="Ready")].status` leads to.
pub(super) fn find<'a>(root: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![root];
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = step(rest);
        rest = after;
        found = found.into_iter().flat_map(|value| follow(value, &step)).collect();
    }
    found.retain(|value| !value.is_null());
    found
}

enum Step<'p> {
    Field(String),
    Index(usize),
    All,
    Where(Vec<&'p str>, &'p str),
    Nowhere,
}

fn step(path: &str) -> (Step<'_>, &str) {
    if let Some(inner) = path.strip_prefix('[') {
        let end = if inner.starts_with("?(") {
            inner.find(")]").map(|at| at + 1)
        } else {
            inner.find(']')
        };
        return match end {
            Some(end) => (bracket(&inner[..end]), &inner[end + 1..]),
            None => (Step::Nowhere, ""),
        };
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    // A dot of the name itself is written `\.`, as in annotations.
    let mut name = String::new();
    let mut chars = path.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (Step::Field(name), &path[at..]),
            c => name.push(c),
        }
    }
    (Step::Field(name), "")
}

fn bracket(inner: &str) -> Step<'_> {
    if inner == "*" {
        return Step::All;
    }
    if let Ok(index) = inner.parse() {
        return Step::Index(index);
    }
    if let Some(name) = inner.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Step::Field(name.to_owned());
    }
    let condition = inner.strip_prefix("?(@.").and_then(|rest| rest.strip_suffix(')'));
    match condition.and_then(|condition| condition.split_once("==")) {
        Some((field, value)) => {
            let value = value.trim().trim_matches(['"', '\'']);
            Step::Where(field.trim().split('.').collect(), value)
        }
        None => Step::Nowhere,
    }
}

fn follow<'a>(value: &'a Value, step: &Step<'_>) -> Vec<&'a Value> {
    let elements = || value.as_array().into_iter().flatten();
    match step {
        Step::Field(name) if name.is_empty() => vec![value],
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => value.get(index).into_iter().collect(),
        Step::All => elements().collect(),
        Step::Where(path, wanted) => {
            elements().filter(|e| super::json::string_at(e, path) == *wanted).collect()
        }
        Step::Nowhere => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn printer_column_paths() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "note"}},
            "spec": {"mtls": {"mode": "STRICT"}, "hosts": ["x", "y"]},
            "status": {"conditions": [{"type": "A", "status": "1"}, {"type": "Ready", "status": "2"}]},
        });
        let check = |path: &str, expected: Value| {
            assert_eq!(json!(find(&object, path)), expected, "{path}");
        };
        check(".spec.mtls.mode", json!(["STRICT"]));
        check(".spec.missing.mode", json!([]));
        check(".spec.hosts[1]", json!(["y"]));
        check(".spec.hosts[*]", json!(["x", "y"]));
        check(r#".status.conditions[?(@.type=="Ready")].status"#, json!(["2"]));
        check(r".metadata.annotations.a\.b/c", json!(["note"]));
        check(".metadata.annotations['a.b/c']", json!(["note"]));
    }
}
