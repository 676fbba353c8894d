//! What ztunnel's users have told to the control plane by its environment: metadata and headers.

use std::collections::BTreeMap;

use anyhow::Context as _;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

/// What ztunnel's variables say goes to the control plane under this prefix, without it.
const METADATA: &str = "ISTIO_META_";
/// The version by which Istio's tools know a node's proxy. No release of Istio's: control planes take it for the newest.
const ISTIO_VERSION: &str = "ISTIO_VERSION";

/// What is told the control plane besides the agent's own names.
pub(super) fn metadata(variables: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let version = format!("sotto-{}", env!("CARGO_PKG_VERSION"));
    let told = variables.into_iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(METADATA).filter(|name| !name.is_empty())?;
        Some((name.to_owned(), value))
    });
    std::iter::once((ISTIO_VERSION.to_owned(), version)).chain(told).collect()
}

/// Headers of calls: the names after `prefix`. They may be credentials.
///
/// # Errors
/// One cannot be a header.
pub(super) fn headers(
    prefix: &str,
    variables: BTreeMap<String, String>,
) -> anyhow::Result<MetadataMap> {
    let mut headers = MetadataMap::new();
    for (name, value) in variables {
        let Some(header) = name.strip_prefix(prefix).filter(|header| !header.is_empty()) else {
            continue;
        };
        let cannot = || format!("{name} cannot be a header: use printable ASCII");
        let key: MetadataKey<Ascii> = header.parse().with_context(cannot)?;
        let mut value: MetadataValue<Ascii> = value.parse().with_context(cannot)?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(set: &[(&str, &str)]) -> BTreeMap<String, String> {
        set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn istio_s_metadata_is_passed_on_with_a_version() {
        let told = metadata(variables(&[
            ("ISTIO_META_MESH_ID", "m"),
            ("ISTIO_META_", "x"),
            ("PATH", "/bin"),
        ]));
        let names: Vec<_> = told.keys().map(String::as_str).collect();
        assert_eq!(names, ["ISTIO_VERSION", "MESH_ID"]);
        assert!(told["ISTIO_VERSION"].starts_with("sotto-"));
    }

    #[test]
    fn headers_are_what_follows_the_prefix() {
        let set = variables(&[("XDS_HEADER_X-Tenant", "a"), ("XDS_HEADER_", "b"), ("X", "c")]);
        let headers = headers("XDS_HEADER_", set).unwrap();
        assert_eq!(headers.len(), 1);
        assert_eq!(headers.get("x-tenant").unwrap(), "a");
        assert!(!format!("{headers:?}").contains("\"a\""), "it may be a credential");
    }

    #[test]
    fn what_cannot_be_a_header_is_an_error_that_names_the_variable() {
        for (name, value) in
            [("CA_HEADER_a b", "x"), ("CA_HEADER_a", "x\ny"), ("CA_HEADER_a-bin", "x")]
        {
            let error = headers("CA_HEADER_", variables(&[(name, value)])).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
