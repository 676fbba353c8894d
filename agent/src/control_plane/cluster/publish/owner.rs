//! Whether a ConfigMap of the root is another control plane's. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

/// What istiod and istio-csr label those with that they make.
const LABEL: (&str, &str) = ("istio.io/config", "true");
/// istiod and istio-csr, as the API server remembers who wrote: clients name themselves after their programs.
const OTHERS: [&str; 2] = ["pilot-discovery", "cert-manager-istio-csr"];

/// Whether istiod or istio-csr keeps it: has made it, or was the last to write what it holds.
pub(super) fn is_another(map: &ObjectMeta) -> bool {
    let label = map.labels.as_ref().and_then(|labels| labels.get(LABEL.0));
    label.is_some_and(|value| value == LABEL.1)
        || map.managed_fields.iter().flatten().any(wrote_the_roots)
}

fn wrote_the_roots(entry: &ManagedFieldsEntry) -> bool {
    let manager = entry.manager.as_deref().unwrap_or_default();
    let fields = entry.fields_v1.as_ref();
    OTHERS.contains(&manager)
        && fields.is_some_and(|fields| !fields.0["f:data"]["f:root-cert.pem"].is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(map: serde_json::Value, expected: bool) {
        assert_eq!(is_another(&serde_json::from_value(map).unwrap()), expected);
    }

    fn written_by(manager: &str, fields: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({ "managedFields": [{
            "manager": manager, "operation": "Update", "apiVersion": "v1",
            "time": "2025-06-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields,
        }] })
    }

    #[test]
    fn what_istiod_has_made_or_written_last_is_istiods() {
        let roots = serde_json::json!({ "f:data": { ".": {}, "f:root-cert.pem": {} } });
        let other = serde_json::json!({ "f:metadata": { "f:labels": { "f:a": {} } } });
        check(serde_json::json!({}), false);
        check(serde_json::json!({ "labels": { "istio.io/config": "true" } }), true);
        check(serde_json::json!({ "labels": { "istio.io/config": "false" } }), false);
        check(written_by("pilot-discovery", &roots), true);
        check(written_by("cert-manager-istio-csr", &roots), true);
        // Whom a user has let write since owns nothing of it any more.
        check(written_by("pilot-discovery", &other), false);
        check(written_by("sotto-control-plane", &roots), false);
        check(written_by("kubectl-edit", &roots), false);
    }
}
