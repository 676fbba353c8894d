//! The `scale` subresource: replicas of a workload, whatever its kind.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::ApiError;
use super::json::{at, number_at};
use super::lifecycle::Part;
use super::state::{Place, State};

/// The scale of a workload.
pub(super) fn show(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let labels = at(object, &["spec", "selector", "matchLabels"]).and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let selector: Vec<String> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": number_at(object, &["spec", "replicas"])},
        "status": {
            "replicas": number_at(object, &["status", "replicas"]), "selector": selector.join(","),
        },
    })
}

/// Sets the replicas of a workload.
///
/// # Errors
/// As of an update.
pub(super) fn set(state: &mut State, place: &Place, scale: &Value) -> Result<Arc<Value>, ApiError> {
    let mut object = Value::clone(&*state.get(place)?);
    object["spec"]["replicas"] = json!(number_at(scale, &["spec", "replicas"]));
    if let Some(version) = at(scale, &["metadata", "resourceVersion"]) {
        object["metadata"]["resourceVersion"] = version.clone();
    }
    state.update(place, Part::Main, object)
}
