//! Label and field selectors, as in the query of a list or a watch.

use serde_json::Value;

use super::error::ApiError;
use super::json::{at, string_at};
use super::resource::Resource;

/// Which objects a list or a watch is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    /// Empty: all namespaces.
    pub namespace: String,
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Everything in a namespace, or everywhere if it is empty.
    pub(super) fn namespace(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..Self::default() }
    }

    /// Also asks for labels, as `app=web,tier in (a,b),!old`.
    ///
    /// # Errors
    /// `BadRequest` for a selector that does not parse.
    pub(super) fn labels(mut self, text: &str) -> Result<Self, ApiError> {
        for part in split_outside_parens(text) {
            self.labels.push(requirement(part)?);
        }
        Ok(self)
    }

    /// Also asks for fields, as `spec.nodeName=node1,status.phase!=Failed`.
    ///
    /// # Errors
    /// `BadRequest` for fields that a real API server does not index for this resource.
    pub(super) fn fields(mut self, resource: &Resource, text: &str) -> Result<Self, ApiError> {
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, wanted, value) = if let Some((key, value)) = part.split_once("!=") {
                (key, false, value)
            } else if let Some((key, value)) = part.split_once("==") {
                (key, true, value)
            } else if let Some((key, value)) = part.split_once('=') {
                (key, true, value)
            } else {
                return Err(ApiError::bad_request(format!("invalid field selector {part:?}")));
            };
            if !indexed(resource, key) {
                let message = format!("field label not supported: {key}");
                return Err(ApiError::bad_request(message));
            }
            self.fields.push((key.to_owned(), wanted, value.to_owned()));
        }
        Ok(self)
    }

    /// Is the object one of those asked for?
    pub(super) fn matches(&self, object: &Value) -> bool {
        (self.namespace.is_empty()
            || string_at(object, &["metadata", "namespace"]) == self.namespace)
            && self.labels.iter().all(|requirement| requirement.matches(object))
            && self.fields.iter().all(|(key, wanted, value)| {
                let path: Vec<&str> = key.split('.').collect();
                (text(at(object, &path)) == *value) == *wanted
            })
    }
}

impl Requirement {
    fn matches(&self, object: &Value) -> bool {
        let label = at(object, &["metadata", "labels", &self.key]).and_then(Value::as_str);
        match &self.test {
            Test::In(values) => label.is_some_and(|l| values.iter().any(|v| v == l)),
            Test::NotIn(values) => !label.is_some_and(|l| values.iter().any(|v| v == l)),
            Test::Exists => label.is_some(),
            Test::Absent => label.is_none(),
        }
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn requirement(text: &str) -> Result<Requirement, ApiError> {
    let (key, test) = if let Some((key, value)) = text.split_once("!=") {
        (key, Test::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = text.split_once("==") {
        (key, Test::In(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Test::In(vec![value.trim().to_owned()]))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((head, values)) = text.split_once('(') {
        let values = values.trim_end().trim_end_matches(')').split(',');
        let values = values.map(|v| v.trim().to_owned()).collect();
        match head.trim().rsplit_once(' ') {
            Some((key, "in")) => (key, Test::In(values)),
            Some((key, "notin")) => (key, Test::NotIn(values)),
            _ => return Err(unparsable(text)),
        }
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(unparsable(text));
    }
    Ok(Requirement { key: key.to_owned(), test })
}

fn unparsable(text: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {text:?}"))
}

fn split_outside_parens(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

/// Fields that a real API server takes in a selector of this resource.
fn indexed(resource: &Resource, field: &str) -> bool {
    let more: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("apps", "replicasets") => &["status.replicas"],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    };
    matches!(field, "metadata.name" | "metadata.namespace") || more.contains(&field)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: &str, expected: bool) {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        let selector = Selector::default().labels(selector).unwrap();
        assert_eq!(selector.matches(&object), expected, "{selector:?}");
    }

    #[test]
    fn label_selectors() {
        check("", true);
        check("app=web", true);
        check("app==web,tier=front", true);
        check("app=api", false);
        check("app!=api", true);
        check("missing!=x", true);
        check("app in (web, api),tier notin (back)", true);
        check("app notin (web)", false);
        check("app", true);
        check("!app", false);
        check("!missing", true);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Selector::default().labels("a b c").is_err());
        assert!(Selector::default().labels("=x").is_err());
    }
}
