//! Names, namespaces and uids of objects.

use rand::Rng;
use serde_json::{Value, json};

use super::error::{ApiError, FieldError};
use super::json::{object_mut, string_at};
use super::resource::Resource;

/// A random (version 4) UUID.
pub(super) fn uid() -> String {
    let bits: u128 = rand::rng().random();
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Puts name and namespace in order before a create: `generateName` becomes a name, the namespace is that of the
/// request.
///
/// # Errors
/// `BadRequest` if the object names another namespace, `Invalid` for a name that cannot be.
pub(super) fn settle(
    resource: &Resource,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let metadata = object_mut(object, "metadata");
    let own = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    if resource.namespaced {
        let namespace = if namespace.is_empty() { own.as_str() } else { namespace };
        if namespace.is_empty() {
            let message = "an empty namespace may not be set during creation";
            return Err(ApiError::bad_request(message));
        }
        if !own.is_empty() && own != namespace {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(message));
        }
        metadata.insert("namespace".to_owned(), json!(namespace));
    } else {
        metadata.remove("namespace");
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() && !prefix.is_empty() {
        let name = generated(prefix);
        metadata.insert("name".to_owned(), json!(name));
    }
    let name = string_at(object, &["metadata", "name"]);
    match wrong(resource, name) {
        Some(error) => Err(ApiError::invalid(resource, name, &[error])),
        None => Ok(()),
    }
}

/// A prefix (cut to fit) and five letters and digits that cannot make a word.
fn generated(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LONGEST_PREFIX: usize = 58;
    let mut rng = rand::rng();
    let kept = prefix.chars().take(LONGEST_PREFIX);
    let random = (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]));
    kept.chain(random).collect()
}

/// What is wrong with a name, if anything.
fn wrong(resource: &Resource, name: &str) -> Option<FieldError> {
    let field = "metadata.name";
    if name.is_empty() {
        return Some(FieldError::required(field, "name or generateName is required"));
    }
    // Names of RBAC objects are free but for what a path cannot hold.
    if resource.group == "rbac.authorization.k8s.io" {
        let bad = name.contains(['/', '%']) || name == "." || name == "..";
        return bad.then(|| FieldError::invalid(field, &json!(name), "may not contain '/' or '%'"));
    }
    let label = resource.is("", "namespaces") || resource.is("", "services");
    let (longest, dots, rule) = if label {
        (
            63,
            false,
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
        )
    } else {
        (
            253,
            true,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        )
    };
    let fits = name.len() <= longest
        && (dots || !name.contains('.'))
        && name.split('.').all(|part| {
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            !part.is_empty()
                && part.chars().all(inner)
                && !part.starts_with('-')
                && !part.ends_with('-')
        });
    (!fits).then(|| FieldError::invalid(field, &json!(name), rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_random_version_four() {
        let one = uid();
        assert_eq!(one.len(), 36);
        assert_eq!(&one[14..15], "4", "{one}");
        assert!(matches!(&one[19..20], "8" | "9" | "a" | "b"), "{one}");
        assert_ne!(one, uid());
    }
}
