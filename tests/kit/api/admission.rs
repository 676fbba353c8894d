//! From what a client sent to an object that may be stored: kind and version fit, fields are known and typed.

use serde_json::Value;

use super::error::ApiError;
use super::json::{as_object_mut, drop_nulls, string_at};
use super::resource::{Origin, Resource};
use super::schema;

/// An object in the stored version, and the paths of fields that were taken out because nothing knows them.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The object.
    pub object: Value,
    /// As `spec.mtlz`.
    pub unknown: Vec<String>,
}

impl Admitted {
    /// The object, if nothing of it was unknown.
    ///
    /// # Errors
    /// `BadRequest` with the unknown fields, as strict field validation tells them.
    pub(super) fn strict(self, resource: &Resource) -> Result<Value, ApiError> {
        if self.unknown.is_empty() {
            return Ok(self.object);
        }
        let list: Vec<String> =
            self.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        let (kind, version) = (&resource.kind, resource.preferred());
        Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
            list.join(", ")
        )))
    }
}

/// Checks an object and brings it into the stored version.
///
/// # Errors
/// `BadRequest` for another kind or a type that does not fit.
pub(super) fn admit(resource: &Resource, mut object: Value) -> Result<Admitted, ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    drop_nulls(&mut object);
    let version = identify(resource, &mut object)?;
    let mut unknown = Vec::new();
    match &resource.origin {
        Origin::BuiltIn(decode) | Origin::Review(decode) => {
            let known = decode(object.clone()).map_err(|error| {
                let (kind, message) = (&resource.kind, format!("{error}"));
                ApiError::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: {message}"
                ))
            })?;
            difference(&object, &known, "", &mut unknown);
            object = known;
        }
        Origin::Custom(definition) => {
            if let Some(version) = definition.version(&version) {
                unknown = schema::prune(&version.schema, &mut object);
            }
        }
    }
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.retain(|_, value| !says_nothing(value));
    }
    object["apiVersion"] = resource.api_version(resource.preferred()).into();
    object["kind"] = resource.kind.clone().into();
    Ok(Admitted { object, unknown })
}

/// The version the object is in; it may leave apiVersion and kind out.
fn identify(resource: &Resource, object: &mut Value) -> Result<String, ApiError> {
    let preferred = resource.api_version(resource.preferred());
    let map = as_object_mut(object);
    map.entry("apiVersion").or_insert_with(|| preferred.into());
    map.entry("kind").or_insert_with(|| resource.kind.clone().into());
    let (kind, api_version) = (string_at(object, &["kind"]), string_at(object, &["apiVersion"]));
    let version = resource.versions.iter().find(|v| resource.api_version(v) == api_version);
    match version {
        Some(version) if kind == resource.kind => Ok(version.clone()),
        _ => Err(ApiError::bad_request(format!(
            "the object provided is unrecognized: {api_version:?} {kind:?} is not served as {}",
            resource.qualified()
        ))),
    }
}

/// Paths that `known` does not have and that hold something: an empty object or list says nothing.
fn difference(sent: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (sent, known) {
        (Value::Object(sent), Value::Object(known)) => {
            for (key, value) in sent {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match known.get(key) {
                    Some(known) => difference(value, known, &path, unknown),
                    None if says_nothing(value) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(sent), Value::Array(known)) => {
            for (at, (sent, known)) in sent.iter().zip(known).enumerate() {
                difference(sent, known, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
