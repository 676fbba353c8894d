//! ztunnel's environment: what its users set is told to the control plane, or they are told what to set instead.

use std::collections::BTreeMap;

/// What ztunnel's variables say goes to the control plane under this prefix, without it.
const METADATA: &str = "ISTIO_META_";
/// The version by which Istio's tools know a node's proxy. No release of Istio's: control planes take it for the newest.
const ISTIO_VERSION: &str = "ISTIO_VERSION";

/// ztunnel's variables of other names or none here, and what to set instead, if there is something.
const OTHERS: [(&str, Option<&str>); 18] = [
    ("XDS_ROOT_CA", Some("ROOT_CERT")),
    ("CA_ROOT_CA", Some("ROOT_CERT")),
    ("ALT_XDS_HOSTNAME", Some("CONTROL_PLANE_NAME")),
    ("ALT_CA_HOSTNAME", Some("CONTROL_PLANE_NAME")),
    ("AUTH_TOKEN", Some("TOKEN")),
    ("ZTUNNEL_WORKER_THREADS", Some("THREADS")),
    ("ZTUNNEL_CPU_LIMIT", Some("THREADS")),
    ("TERMINATION_GRACE_PERIOD_SECONDS", Some("DRAIN_DEADLINE")),
    ("CONNECTION_TERMINATION_DEADLINE", Some("DRAIN_DEADLINE")),
    ("ISTIO_META_CLUSTER_ID", Some("CLUSTER_ID")),
    ("ISTIO_META_NETWORK", Some("NETWORK")),
    ("LOCAL_XDS_PATH", None),
    ("LOCAL_XDS", None),
    ("XDS_ON_DEMAND", None),
    ("FAKE_CA", None),
    ("ENABLE_ORIG_SRC", None),
    ("PROXY_CONFIG", None),
    ("PROXY_MODE", None),
];
const OTHER_PREFIXES: [&str; 2] = ["XDS_HEADER_", "CA_HEADER_"];

/// What is told the control plane besides the agent's own names.
pub(super) fn metadata(
    variables: impl Iterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let version = format!("sotto-{}", env!("CARGO_PKG_VERSION"));
    let told = variables.filter_map(|(name, value)| {
        let name = name.strip_prefix(METADATA).filter(|name| !name.is_empty())?;
        Some((name.to_owned(), value))
    });
    std::iter::once((ISTIO_VERSION.to_owned(), version)).chain(told).collect()
}

/// What is set and has no effect, a sentence each.
pub(super) fn without_effect(names: impl Iterator<Item = String>) -> Vec<String> {
    let sentence = |name: String| {
        let other = OTHERS.iter().find(|(other, _)| *other == name);
        let prefixed = || OTHER_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        match other {
            Some((_, Some(instead))) => Some(format!("{name} has no effect here: set {instead}")),
            Some((_, None)) => Some(format!("{name} has no effect here, and no counterpart")),
            None if prefixed() => Some(format!("{name} has no effect here, and no counterpart")),
            None => None,
        }
    };
    let mut sentences: Vec<String> = names.filter_map(sentence).collect();
    sentences.sort();
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_s_metadata_is_passed_on_with_a_version() {
        let set = [("ISTIO_META_MESH_ID", "m"), ("ISTIO_META_", "x"), ("PATH", "/bin")];
        let told = metadata(set.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())));
        let names: Vec<_> = told.keys().map(String::as_str).collect();
        assert_eq!(names, ["ISTIO_VERSION", "MESH_ID"]);
        assert!(told["ISTIO_VERSION"].starts_with("sotto-"));
    }

    #[test]
    fn what_has_no_effect_is_told_with_what_to_set_instead() {
        let set = ["PATH", "XDS_HEADER_A", "AUTH_TOKEN", "FAKE_CA", "THREADS"];
        let expected = [
            "AUTH_TOKEN has no effect here: set TOKEN",
            "FAKE_CA has no effect here, and no counterpart",
            "XDS_HEADER_A has no effect here, and no counterpart",
        ];
        assert_eq!(without_effect(set.into_iter().map(str::to_owned)), expected);
    }
}
