//! What makes an object wrong: the mistakes people make, as a real API server tells them. Not complete.

use serde_json::{Value, json};

use super::error::FieldError;
use super::guards;
use super::json::{at, list_at, number_at, string_at};
use super::resource::Resource;
use super::schema;

/// All that is wrong with an object that was `old`.
pub(super) fn errors(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    labels("metadata.labels", at(object, &["metadata", "labels"]), &mut errors);
    if let Some(definition) = resource.definition() {
        if let Some(version) = definition.version(resource.preferred()) {
            let shape = schema::validate(&version.schema, object);
            // Rules are written for what has the shape, so they are not asked of what has not.
            let fits = shape.iter().all(|error| error.reason == "FieldValueInvalid");
            errors.extend(shape);
            errors.extend(version.rules.check(&version.schema, object, old, fits));
        }
        return errors;
    }
    errors.extend(guards::errors(resource, object));
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod_spec("spec", &object["spec"], &mut errors),
        ("", "services") => service(object, &mut errors),
        ("apps", _) => workload(object, &mut errors),
        _ => {}
    }
    errors
}

fn labels(field: &str, labels: Option<&Value>, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
        if name.is_empty() || prefix.len() > 253 || !qualified(name) {
            let message = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
            errors.push(FieldError::invalid(field, &json!(key), message));
        }
        let text = value.as_str().unwrap_or_default();
        if !text.is_empty() && !qualified(text) {
            let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
            errors.push(FieldError::invalid(field, value, message));
        }
    }
}

fn qualified(text: &str) -> bool {
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn pod_spec(field: &str, spec: &Value, errors: &mut Vec<FieldError>) {
    let containers = list_at(spec, &["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{field}.containers"), ""));
    }
    for (at, container) in containers.iter().enumerate() {
        for key in ["name", "image"] {
            if string_at(container, &[key]).is_empty() {
                errors.push(FieldError::required(format!("{field}.containers[{at}].{key}"), ""));
            }
        }
    }
}

fn service(object: &Value, errors: &mut Vec<FieldError>) {
    let ports = list_at(object, &["spec", "ports"]);
    let headless = string_at(object, &["spec", "clusterIP"]) == "None";
    let external = string_at(object, &["spec", "type"]) == "ExternalName";
    if ports.is_empty() && !headless && !external {
        errors.push(FieldError::required("spec.ports", ""));
    }
    for (at, port) in ports.iter().enumerate() {
        let number = number_at(port, &["port"]);
        if !(1..=65535).contains(&number) {
            let message = "must be between 1 and 65535, inclusive";
            let field = format!("spec.ports[{at}].port");
            errors.push(FieldError::invalid(field, &json!(number), message));
        }
        if ports.len() > 1 && string_at(port, &["name"]).is_empty() {
            errors.push(FieldError::required(format!("spec.ports[{at}].name"), ""));
        }
    }
}

fn workload(object: &Value, errors: &mut Vec<FieldError>) {
    let template = &object["spec"]["template"];
    let selector = at(object, &["spec", "selector"]);
    let wanted = at(object, &["spec", "selector", "matchLabels"]).and_then(Value::as_object);
    if selector.is_none() {
        errors.push(FieldError::required("spec.selector", ""));
    }
    let found = &template["metadata"]["labels"];
    let mut wanted = wanted.into_iter().flatten();
    if wanted.any(|(key, value)| found.get(key) != Some(value)) {
        let message = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", found, message));
    }
    labels("spec.template.metadata.labels", found.as_object().map(|_| found), errors);
    pod_spec("spec.template.spec", &template["spec"], errors);
    if number_at(object, &["spec", "replicas"]) < 0 {
        let message = "must be greater than or equal to 0";
        let value = &object["spec"]["replicas"];
        errors.push(FieldError::invalid("spec.replicas", value, message));
    }
}
