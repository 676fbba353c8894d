//! Where a policy must have objects, and has something else: the parser takes a list for an object's
//! fields in their order, which nobody means.

use serde_json::{Map, Value};

/// What may be a list in a policy's `spec`; of strings, or of objects.
const LISTS: [&str; 30] = [
    "rules",
    "from",
    "to",
    "when",
    "targetRefs",
    "values",
    "notValues",
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
    "trustDomains",
    "notTrustDomains",
    "hosts",
    "notHosts",
    "ports",
    "notPorts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
    "matchExpressions",
];

/// Something is not the object that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}: is no object")]
pub struct NoObject(String);

/// Checks a policy's `spec`; null is none.
///
/// # Errors
/// The first thing that is no object.
pub fn objects(spec: &Value) -> Result<(), NoObject> {
    match spec {
        Value::Null => Ok(()),
        Value::Object(map) => within(map),
        _ => Err(NoObject("spec".to_owned())),
    }
}

fn within(map: &Map<String, Value>) -> Result<(), NoObject> {
    let misplaced = |key: &str| NoObject(format!("spec.{key}"));
    map.iter().try_for_each(|(key, value)| match value {
        Value::Object(map) => within(map),
        Value::Array(items) if LISTS.contains(&key.as_str()) => {
            items.iter().try_for_each(|item| match item {
                Value::Object(map) => within(map),
                Value::Array(_) => Err(misplaced(key)),
                _ => Ok(()),
            })
        }
        Value::Array(_) => Err(misplaced(key)),
        _ => Ok(()),
    })
}
