//! Custom resource definitions: from the object in the store to a served resource.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, FieldError};
use super::json::{at, string_at, strings_at};
use super::resource::{Origin, Resource};
use super::rules::Rules;

/// What a definition says, by version.
#[derive(Debug)]
pub struct Definition {
    /// All versions, served or not.
    pub versions: Vec<Version>,
}

/// One version of a custom resource.
#[derive(Debug)]
pub struct Version {
    /// As `v1beta1`.
    pub name: String,
    /// `openAPIV3Schema`, or null: anything goes.
    pub schema: Value,
    /// Is `/status` apart?
    pub status: bool,
    /// Columns that kubectl prints after the name.
    pub columns: Vec<Column>,
    /// What the schema asks beyond the shape.
    pub(super) rules: Rules,
}

/// A column of `kubectl get`.
#[derive(Debug, Clone)]
pub struct Column {
    /// The header.
    pub name: String,
    /// `string`, `integer`, `date`, ...
    pub kind: String,
    /// Where the value is, as `.spec.mtls.mode`.
    pub path: String,
    /// 0 is always shown, others with `-o wide`.
    pub priority: i64,
}

impl Definition {
    /// The version of that name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }
}

/// Reads a definition; `meta` is the resource of definitions itself, for the error.
///
/// # Errors
/// `Invalid` with the fields that are missing.
pub(super) fn resource_of(meta: &Resource, object: &Value) -> Result<Resource, ApiError> {
    let name = string_at(object, &["metadata", "name"]);
    let group = string_at(object, &["spec", "group"]);
    let plural = string_at(object, &["spec", "names", "plural"]);
    let kind = string_at(object, &["spec", "names", "kind"]);
    let listed = at(object, &["spec", "versions"]).and_then(Value::as_array);
    let versions: Vec<&Value> = listed.into_iter().flatten().collect();
    let mut errors = Vec::new();
    for (field, value) in
        [("spec.group", group), ("spec.names.plural", plural), ("spec.names.kind", kind)]
    {
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        }
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let message = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &json!(versions.len()), message));
    }
    if name != format!("{plural}.{group}") {
        let message = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &json!(name), message));
    }
    if string_at(object, &["spec", "conversion", "strategy"]) == "Webhook" {
        let message = "only None is served here";
        errors.push(FieldError::invalid("spec.conversion.strategy", &json!("Webhook"), message));
    }
    let read = versions.iter().enumerate().map(|(at, v)| version(at, v, &mut errors)).collect();
    if !errors.is_empty() {
        return Err(ApiError::invalid(meta, name, &errors));
    }
    let singular = match string_at(object, &["spec", "names", "singular"]) {
        "" => kind.to_lowercase(),
        singular => singular.to_owned(),
    };
    Ok(Resource {
        group: group.to_owned(),
        versions: served(&versions),
        plural: plural.to_owned(),
        singular,
        kind: kind.to_owned(),
        short_names: strings_at(object, &["spec", "names", "shortNames"]),
        categories: strings_at(object, &["spec", "names", "categories"]),
        namespaced: string_at(object, &["spec", "scope"]) != "Cluster",
        status: versions.iter().any(|v| v["subresources"]["status"].is_object()),
        scale: false,
        origin: Origin::Custom(Arc::new(Definition { versions: read })),
    })
}

/// Names of the served versions: general availability first, then beta, then alpha, the newest first in each.
fn served(versions: &[&Value]) -> Vec<String> {
    let mut names: Vec<String> = versions
        .iter()
        .filter(|v| v["served"] == true)
        .filter_map(|v| v["name"].as_str().map(str::to_owned))
        .collect();
    names.sort_by_key(|name| std::cmp::Reverse(rank(name)));
    names
}

/// `v1` over `v1beta2` over `v1beta1` over `v1alpha1` over anything else.
fn rank(name: &str) -> (u8, u32, u32) {
    let Some(rest) = name.strip_prefix('v') else { return (0, 0, 0) };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Ok(major) = rest[..digits].parse() else { return (0, 0, 0) };
    match &rest[digits..] {
        "" => (3, major, 0),
        more => {
            let (stage, number) = match (more.strip_prefix("beta"), more.strip_prefix("alpha")) {
                (Some(number), _) => (2, number),
                (_, Some(number)) => (1, number),
                _ => return (0, 0, 0),
            };
            (stage, major, number.parse().unwrap_or(0))
        }
    }
}

fn version(at: usize, spec: &Value, errors: &mut Vec<FieldError>) -> Version {
    let columns = spec["additionalPrinterColumns"].as_array();
    let schema = &spec["schema"]["openAPIV3Schema"];
    let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
    Version {
        name: string_at(spec, &["name"]).to_owned(),
        schema: schema.clone(),
        rules: Rules::compile(schema, &path, errors),
        status: spec["subresources"]["status"].is_object(),
        columns: columns.into_iter().flatten().map(column).collect(),
    }
}

fn column(spec: &Value) -> Column {
    Column {
        name: string_at(spec, &["name"]).to_owned(),
        kind: string_at(spec, &["type"]).to_owned(),
        path: string_at(spec, &["jsonPath"]).to_owned(),
        priority: spec["priority"].as_i64().unwrap_or(0),
    }
}

/// The status of a definition whose names are taken and whose resource is served.
pub(super) fn established(object: &Value, now: &str) -> Value {
    let storage = at(object, &["spec", "versions"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|v| v["storage"] == true)
        .map_or(Value::Null, |v| v["name"].clone());
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": now,
        })
    };
    json!({
        "acceptedNames": object["spec"]["names"],
        "storedVersions": [storage],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_availability_is_preferred() {
        let versions: Vec<Value> = ["v1alpha1", "v1beta1", "v1", "v2beta1", "v2"]
            .iter()
            .map(|name| json!({"name": name, "served": true}))
            .collect();
        let versions: Vec<&Value> = versions.iter().collect();
        assert_eq!(served(&versions), ["v2", "v1", "v2beta1", "v1beta1", "v1alpha1"]);
    }
}
