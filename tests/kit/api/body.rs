//! Bodies of requests: objects in JSON, YAML or protobuf, and patches.

use bytes::Bytes;
use serde_json::Value;

use super::error::ApiError;
use super::json::as_object_mut;
use super::patch;
use super::protobuf;
use super::resource::{Origin, Resource};
use super::strategic;

/// An object.
///
/// # Errors
/// `UnsupportedMediaType` for anything but JSON, YAML and protobuf, `BadRequest` if it does not parse.
pub(super) fn object(body: &Bytes, content_type: &str) -> Result<Value, ApiError> {
    match media(content_type) {
        "" | "application/json" => json(body),
        "application/yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => {
            protobuf::object(body).map_err(ApiError::bad_request)
        }
        other => Err(ApiError::unsupported_media_type(other)),
    }
}

fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn json(body: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(error.to_string()))
}

fn yaml(body: &Bytes) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body);
    let text = text.map_err(|error| ApiError::bad_request(error.to_string()))?;
    serde_saphyr::from_str(text).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// A patch.
#[derive(Debug)]
pub(super) enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Lists merge by key.
    Strategic(Value),
    /// Server-side apply. Field managers are not tracked: what an apply leaves out stays as it is.
    Apply(Value),
    /// Server-side apply of a custom resource.
    ApplyCustom(Value),
}

impl Patch {
    /// By its content type.
    ///
    /// # Errors
    /// `UnsupportedMediaType`, `BadRequest` if it does not parse.
    pub(super) fn parse(
        content_type: &str,
        body: &Bytes,
        resource: &Resource,
    ) -> Result<Self, ApiError> {
        let custom = matches!(resource.origin, Origin::Custom(_));
        match media(content_type) {
            "application/json-patch+json" => Ok(Self::Json(json(body)?)),
            "application/merge-patch+json" => Ok(Self::Merge(json(body)?)),
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Strategic(json(body)?)),
            "application/apply-patch+yaml" => {
                let mut object = json(body).or_else(|_| yaml(body))?;
                if let Some(Value::Object(metadata)) =
                    as_object_mut(&mut object).get_mut("metadata")
                {
                    metadata.remove("managedFields");
                }
                Ok(if custom { Self::ApplyCustom(object) } else { Self::Apply(object) })
            }
            other => Err(ApiError::unsupported_media_type(other)),
        }
    }

    /// Does it create what does not exist?
    pub(super) fn creates(&self) -> bool {
        matches!(self, Self::Apply(_) | Self::ApplyCustom(_))
    }

    /// Applies it.
    ///
    /// # Errors
    /// `BadRequest` if a JSON patch does not fit the object.
    pub(super) fn apply(&self, object: &mut Value) -> Result<(), ApiError> {
        match self {
            Self::Json(operations) => {
                return patch::json_patch(object, operations).map_err(|why| {
                    ApiError::bad_request(format!(
                        "the server rejected our request due to an error in our request: {why}"
                    ))
                });
            }
            Self::Merge(patch) | Self::ApplyCustom(patch) => patch::merge(object, patch),
            Self::Strategic(patch) | Self::Apply(patch) => strategic::merge(object, patch),
        }
        Ok(())
    }
}
