//! The attributes that conditions may name.

/// Names of those that stand alone, of Istio's:
/// <https://istio.io/latest/docs/reference/config/security/conditions/>.
const NAMES: [&str; 12] = [
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "remote.ip",
    "destination.ip",
    "destination.port",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "connection.sni",
];
/// How those begin that name a member in brackets.
const MEMBERS: [&str; 3] =
    ["request.headers[", "request.auth.claims[", "experimental.envoy.filters."];

/// Whether there is an attribute of this name.
pub(super) fn known(name: &str) -> bool {
    let member = || name.ends_with(']') && name.contains('[') && !name.contains("[]");
    NAMES.contains(&name) || MEMBERS.iter().any(|start| name.starts_with(start)) && member()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_known_by_their_whole_name() {
        for name in ["source.ip", "request.headers[x]", "request.auth.claims[a][b]"] {
            assert!(known(name), "{name}");
        }
        for name in ["", "source.ipp", "Source.ip", "request.headers", "request.headers[]", "a[b]"]
        {
            assert!(!known(name), "{name}");
        }
    }
}
