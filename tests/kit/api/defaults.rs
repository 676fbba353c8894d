//! Values a real API server fills in when an object does not say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::json::{as_object_mut, default_to, object_mut, string_at};
use super::resource::Resource;
use super::schema;

/// Fills in what the object leaves out.
pub(super) fn fill(resource: &Resource, object: &mut Value) {
    if let Some(definition) = resource.definition() {
        let version = definition.version(resource.preferred());
        if let Some(version) = version {
            schema::fill_defaults(&version.schema, object);
        }
        return;
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => namespace(object),
        ("", "pods") => {
            pod_spec(object_mut(object, "spec"));
            default_to(object_mut(object, "status"), "phase", "Pending");
            default_to(object_mut(object, "status"), "qosClass", "BestEffort");
        }
        ("", "services") => service(object_mut(object, "spec")),
        ("", "secrets") => secret(as_object_mut(object)),
        ("apps", kind) => workload(kind, object_mut(object, "spec")),
        ("apiextensions.k8s.io", _) => definition(object),
        _ => {}
    }
}

/// Keeps what an update leaves out but cannot unset.
pub(super) fn keep(resource: &Resource, old: &Value, new: &mut Value) {
    if resource.is("", "services") && string_at(new, &["spec", "type"]) != "ExternalName" {
        let spec = object_mut(new, "spec");
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(field) {
                default_to(spec, field, value.clone());
            }
        }
    }
    if resource.is("", "pods") && string_at(new, &["spec", "nodeName"]).is_empty() {
        let node = string_at(old, &["spec", "nodeName"]);
        if !node.is_empty() {
            new["spec"]["nodeName"] = json!(node);
        }
    }
}

fn namespace(object: &mut Value) {
    let name = string_at(object, &["metadata", "name"]).to_owned();
    let labels = object_mut(&mut object["metadata"], "labels");
    labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    default_to(object_mut(object, "spec"), "finalizers", json!(["kubernetes"]));
    default_to(object_mut(object, "status"), "phase", "Active");
}

fn pod_spec(spec: &mut Map<String, Value>) {
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount"));
    let account = account.and_then(Value::as_str).unwrap_or("default").to_owned();
    spec.insert("serviceAccountName".to_owned(), json!(account));
    spec.insert("serviceAccount".to_owned(), json!(account));
    pod_template_spec(spec);
}

/// What is filled in both in pods and in templates of pods.
fn pod_template_spec(spec: &mut Map<String, Value>) {
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "securityContext", json!({}));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container_defaults(as_object_mut(container));
        }
    }
}

fn container_defaults(container: &mut Map<String, Value>) {
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let moving = image.ends_with(":latest") || !image.contains([':', '@']);
    default_to(container, "imagePullPolicy", if moving { "Always" } else { "IfNotPresent" });
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        default_to(as_object_mut(port), "protocol", "TCP");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(Value::Object(probe)) = container.get_mut(probe) else { continue };
        for (key, value) in [
            ("timeoutSeconds", 1),
            ("periodSeconds", 10),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            default_to(probe, key, value);
        }
        if let Some(Value::Object(get)) = probe.get_mut("httpGet") {
            default_to(get, "scheme", "HTTP");
            default_to(get, "path", "/");
        }
    }
}

fn service(spec: &mut Map<String, Value>) {
    default_to(spec, "type", "ClusterIP");
    default_to(spec, "sessionAffinity", "None");
    let external = spec.get("type").is_some_and(|t| t == "ExternalName");
    if !external {
        default_to(spec, "internalTrafficPolicy", "Cluster");
        default_to(spec, "ipFamilyPolicy", "SingleStack");
        default_to(spec, "ipFamilies", json!(["IPv4"]));
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let port = as_object_mut(port);
        default_to(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        default_to(port, "targetPort", number);
    }
}

fn secret(object: &mut Map<String, Value>) {
    default_to(object, "type", "Opaque");
    let Some(Value::Object(plain)) = object.remove("stringData") else { return };
    let data = as_object_mut(object.entry("data").or_insert(Value::Null));
    for (key, value) in plain {
        let text = value.as_str().unwrap_or_default();
        data.insert(key, json!(STANDARD.encode(text)));
    }
}

fn workload(kind: &str, spec: &mut Map<String, Value>) {
    if kind != "daemonsets" {
        default_to(spec, "replicas", 1);
    }
    if kind != "replicasets" {
        default_to(spec, "revisionHistoryLimit", 10);
    }
    match kind {
        "deployments" => {
            default_to(spec, "progressDeadlineSeconds", 600);
            rolling(spec, "strategy", json!({"maxSurge": "25%", "maxUnavailable": "25%"}));
        }
        "daemonsets" => {
            rolling(spec, "updateStrategy", json!({"maxSurge": 0, "maxUnavailable": 1}));
        }
        "statefulsets" => {
            default_to(spec, "podManagementPolicy", "OrderedReady");
            rolling(spec, "updateStrategy", json!({"partition": 0}));
        }
        _ => {}
    }
    let template = as_object_mut(spec.entry("template").or_insert(Value::Null));
    pod_template_spec(as_object_mut(template.entry("spec").or_insert(Value::Null)));
}

fn rolling(spec: &mut Map<String, Value>, field: &str, values: Value) {
    let strategy = as_object_mut(spec.entry(field).or_insert(Value::Null));
    default_to(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        default_to(strategy, "rollingUpdate", values);
    }
}

fn definition(object: &mut Value) {
    let kind = string_at(object, &["spec", "names", "kind"]).to_owned();
    let spec = object_mut(object, "spec");
    default_to(spec, "conversion", json!({"strategy": "None"}));
    let names = as_object_mut(spec.entry("names").or_insert(Value::Null));
    default_to(names, "singular", kind.to_lowercase());
    default_to(names, "listKind", format!("{kind}List"));
}
