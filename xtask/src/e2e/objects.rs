//! The suite's own objects. All carry one label, by which they are found and removed.

use serde_json::{Value, json};

/// On everything that the suite makes.
pub(super) const OURS: &str = "sotto-e2e";
/// Where every pod of the suite answers.
pub(super) const PORT: u16 = 8000;
/// The label that enrols, of namespaces and pods.
pub(super) const MODE: &str = "istio.io/dataplane-mode";

/// What pods run.
const PROGRAM: &str = include_str!("pod.py");
const STREAMS: &str = include_str!("streams.py");

/// A namespace and what its pods need in it.
pub(super) fn namespace(name: &str, enrolled: bool) -> Vec<Value> {
    let mut labels = json!({ OURS: "true",
        // Some rows need a capability in a pod, or the host's network.
        "pod-security.kubernetes.io/enforce": "privileged" });
    if enrolled {
        labels[MODE] = "ambient".into();
    }
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": labels } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "e2e", "namespace": name, "labels": { OURS: "true" } },
            "data": { "pod.py": PROGRAM, "streams.py": STREAMS } }),
    ]
}

/// A pod that serves on [`PORT`]; rows change it as they need.
pub(super) fn pod(namespace: &str, name: &str, node: &str, image: &str) -> Value {
    // Refused probes fail at once; patience is for machines that have much else to do.
    let probe = json!({ "httpGet": { "path": "/", "port": PORT },
        "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 2 });
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace,
            "labels": { OURS: "true", "app": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": false,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "e2e",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "/e2e/pod.py", "serve", PORT.to_string()],
                "env": [
                    { "name": "POD", "value": name },
                    { "name": "NAMESPACE", "value": namespace },
                ],
                "readinessProbe": probe,
                "livenessProbe": { "tcpSocket": { "port": PORT },
                    "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 3 },
                "volumeMounts": [{ "name": "e2e", "mountPath": "/e2e" }],
            }],
            "volumes": [{ "name": "e2e", "configMap": { "name": "e2e" } }],
        } })
}

/// Lets a pod change its own network.
pub(super) fn with_net_admin(mut pod: Value) -> Value {
    pod["spec"]["containers"][0]["securityContext"] =
        json!({ "runAsUser": 0, "capabilities": { "add": ["NET_ADMIN"] } });
    pod
}

/// A service on port 80, for the pods of a label; for those of slices made by hand, if there is none.
pub(super) fn service(namespace: &str, name: &str, app: Option<&str>) -> Value {
    let mut service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace, "labels": { OURS: "true" } },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": PORT }] } });
    if let Some(app) = app {
        service["spec"]["selector"] = json!({ "app": app });
    }
    service
}

/// A slice made by hand: addresses, and whether each is ready.
pub(super) fn slice(namespace: &str, service: &str, endpoints: &[(String, bool)]) -> Value {
    let is_ip6 = endpoints.first().is_some_and(|(address, _)| address.contains(':'));
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, ready)| json!({ "addresses": [address], "conditions": { "ready": ready } }))
        .collect();
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": format!("{service}-by-hand"), "namespace": namespace,
            "labels": { OURS: "true", "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": OURS } },
        "addressType": if is_ip6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }] })
}

/// A namespace's word on plaintext.
pub(super) fn peer_authentication(namespace: &str, mode: &str) -> Value {
    json!({ "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "default", "namespace": namespace, "labels": { OURS: "true" } },
        "spec": { "mtls": { "mode": mode } } })
}
