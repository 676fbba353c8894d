//! What a request is about: path and query taken apart.

use axum::extract::Query;
use http::{HeaderMap, Method, Uri, header};

use super::error::ApiError;
use super::lifecycle::Propagation;
use super::resource::Resource;
use super::selector::Selector;

/// A path below `/api` or `/apis` that names a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// API group, empty for the core group.
    pub group: String,
    /// As `v1`.
    pub version: String,
    /// Empty for all namespaces, and for cluster-scoped resources.
    pub namespace: String,
    /// As `pods`.
    pub plural: String,
    /// Empty for a collection.
    pub name: String,
    /// As `status`; empty for the object itself.
    pub subresource: String,
}

impl Target {
    /// From a path; none if it does not name a resource.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, name, subresource) = match rest {
            ["namespaces", name, subresource @ ("status" | "finalize")] => {
                ("", "namespaces", *name, *subresource)
            }
            ["namespaces", namespace, plural, rest @ ..] => {
                let (name, subresource) = tail(rest)?;
                (*namespace, *plural, name, subresource)
            }
            [plural, rest @ ..] => {
                let (name, subresource) = tail(rest)?;
                ("", *plural, name, subresource)
            }
            [] => return None,
        };
        let [group, version, namespace, plural, name, subresource] =
            [group, version, namespace, plural, name, subresource].map(str::to_owned);
        Some(Self { group, version, namespace, plural, name, subresource })
    }

    /// The verb of a role that allows this request.
    pub(super) fn verb(&self, method: &Method, params: &Params) -> &'static str {
        match (method.as_str(), self.name.is_empty()) {
            ("GET" | "HEAD", true) if params.flag("watch") => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => "unknown",
        }
    }
}

fn tail<'a>(rest: &[&'a str]) -> Option<(&'a str, &'a str)> {
    match rest {
        [] => Some(("", "")),
        [name] => Some((name, "")),
        [name, subresource] => Some((name, subresource)),
        _ => None,
    }
}

/// The query.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// From a URI.
    ///
    /// # Errors
    /// `BadRequest` if it is not a form.
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
        query.map(|query| Self(query.0)).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// The first value of a key that is not empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(k, v)| k == key && !v.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// All values of a key.
    pub(super) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// Is it set to `true` or `1`?
    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }

    /// The number of a key.
    ///
    /// # Errors
    /// `BadRequest` if it is none.
    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| ApiError::bad_request(format!("invalid {key}: {text:?}")))
        };
        self.get(key).map(parse).transpose()
    }

    /// Is nothing to be stored?
    pub(super) fn dry_run(&self) -> bool {
        self.get("dryRun") == Some("All")
    }

    /// The label and field selectors.
    ///
    /// # Errors
    /// `BadRequest`.
    pub(super) fn selector(
        &self,
        resource: &Resource,
        namespace: &str,
    ) -> Result<Selector, ApiError> {
        Selector::namespace(namespace)
            .labels(self.get("labelSelector").unwrap_or_default())?
            .fields(resource, self.get("fieldSelector").unwrap_or_default())
    }
}

/// How a delete treats dependents, by its name.
///
/// # Errors
/// `BadRequest` for an unknown one.
pub(super) fn propagation(name: &str) -> Result<Propagation, ApiError> {
    match name {
        "" | "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        "Orphan" => Ok(Propagation::Orphan),
        other => Err(ApiError::bad_request(format!("unknown propagationPolicy {other:?}"))),
    }
}

/// In which form the client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Whole,
    /// As the tables kubectl prints.
    Table,
    /// Their metadata alone.
    Partial,
}

impl Form {
    /// The first form of the `Accept` header that is served.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let forms = accept.split(',').filter_map(|media| {
            let mut parts = media.split(';').map(str::trim);
            if !matches!(parts.next(), Some("application/json" | "*/*")) {
                return None;
            }
            match parts.find_map(|part| part.strip_prefix("as=")) {
                Some("Table") => Some(Self::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Partial),
                Some(_) => None,
                None => Some(Self::Whole),
            }
        });
        let mut forms = forms;
        forms.next().unwrap_or(Self::Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<[&str; 6]>) {
        let expected = expected.map(|e| {
            let [group, version, namespace, plural, name, subresource] = e.map(str::to_owned);
            Target { group, version, namespace, plural, name, subresource }
        });
        assert_eq!(Target::parse(path), expected, "{path}");
    }

    #[test]
    fn paths() {
        check("/api/v1/pods", Some(["", "v1", "", "pods", "", ""]));
        check("/api/v1/namespaces", Some(["", "v1", "", "namespaces", "", ""]));
        check("/api/v1/namespaces/a", Some(["", "v1", "", "namespaces", "a", ""]));
        check("/api/v1/namespaces/a/status", Some(["", "v1", "", "namespaces", "a", "status"]));
        check("/api/v1/namespaces/a/pods", Some(["", "v1", "a", "pods", "", ""]));
        check("/api/v1/namespaces/a/pods/p/exec", Some(["", "v1", "a", "pods", "p", "exec"]));
        check(
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            Some(["apps", "v1", "a", "deployments", "d", "scale"]),
        );
        check("/api/v1", None);
        check("/version", None);
        check("/api/v1/nodes/n/proxy/too/deep", None);
    }

    #[test]
    fn the_first_form_that_is_served_is_used() {
        let form = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            Form::of(&headers)
        };
        assert_eq!(
            form("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            Form::Table
        );
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json"), Form::Whole);
        assert_eq!(
            form("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Form::Partial
        );
        assert_eq!(form("*/*"), Form::Whole);
    }
}
