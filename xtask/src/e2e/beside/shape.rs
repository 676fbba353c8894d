//! The form of what two programs say: which fields a JSON has, which labels a metric has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The paths of all fields, with `*` for what is a name of something and not of a field, and `[]` for lists.
pub(super) fn paths(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    walk(value, "", &mut all);
    all
}

fn walk(value: &Value, at: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if is_field(key) { key } else { "*" };
                let at = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
                all.insert(at.clone());
                walk(value, &at, all);
            }
        }
        Value::Array(items) => {
            for item in items {
                walk(item, &format!("{at}[]"), all);
            }
        }
        _ => (),
    }
}

/// What theirs has and ours has not, without how either is built and set up, which is each one's own and read by no tool.
pub(super) fn missing(theirs: &Value, ours: &Value) -> Vec<String> {
    let own =
        |path: &str| ["config", "version"].contains(&path.split('.').next().unwrap_or_default());
    let ours = paths(ours);
    paths(theirs).into_iter().filter(|path| !own(path) && !ours.contains(path)).collect()
}

/// Names of objects have dots, slashes or dashes; those of fields have none.
fn is_field(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Each metric of a page, and the labels that its series have, all together.
pub(super) fn metrics(page: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.iter().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        all.entry(name.to_owned()).or_default().extend(labels(rest));
    }
    all
}

/// The names of labels of `{a="1",b="2"} 3`. A value may have anything in it, quotes and backslashes escaped.
fn labels(series: &str) -> Vec<String> {
    let Some(mut rest) = series.strip_prefix('{') else { return Vec::new() };
    let mut names = Vec::new();
    while let Some((name, value)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(',').to_owned());
        let mut escaped = false;
        let end = value.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { break };
        rest = value.get(end + 1..).unwrap_or_default();
        if rest.starts_with('}') {
            break;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{metrics, missing, paths};

    #[test]
    fn fields_are_found_and_names_are_not_told_apart() {
        let value = json!({ "workloads": [{ "uid": "a//Pod/b", "services": { "b/c.d": { "port": 1 } } }, { "name": "x" }],
            "2e1-4f": null });
        let seen: Vec<String> = paths(&value).into_iter().collect();
        let expected = [
            "*",
            "workloads",
            "workloads[].name",
            "workloads[].services",
            "workloads[].services.*",
            "workloads[].services.*.port",
            "workloads[].uid",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_missing_is_told_but_how_they_are_built() {
        let theirs = json!({ "config": { "a": 1 }, "version": { "b": 1 }, "services": [{ "x": 1, "y": 2 }] });
        assert_eq!(
            missing(&theirs, &json!({ "services": [{ "y": 3, "z": 1 }] })),
            ["services[].x"]
        );
    }

    #[test]
    fn labels_of_all_series_are_put_together() {
        let page = "# TYPE a counter\na{x=\"1,y=\\\"2\\\"\",z=\"\"} 1\na{w=\"}\"} 2\n\nb 3";
        let page: Vec<String> = page.lines().map(str::to_owned).collect();
        let seen = metrics(&page);
        assert_eq!(seen["a"].iter().map(String::as_str).collect::<Vec<_>>(), ["w", "x", "z"]);
        assert!(seen["b"].is_empty());
    }
}
