//! Every document, strictly: read into the typed API and written again it is what it was.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::render::{EXAMPLES, documents, folders};

#[test]
fn every_document_is_of_the_typed_api() {
    for folder in folders().into_iter().chain(EXAMPLES.map(str::to_owned)) {
        for document in documents(&folder) {
            let what = format!("{folder}: {} {}", document["kind"], document["metadata"]["name"]);
            if let Err(error) = typed(&document) {
                panic!("{what}: {error}");
            }
        }
    }
}

#[test]
fn a_field_that_the_api_does_not_have_is_found() {
    let text = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": 1}}"#;
    let error = typed(&serde_json::from_str(text).expect("JSON")).expect_err("unknown field");
    assert_eq!(error, ".spec.port: the API has no such field");
}

fn typed(document: &Value) -> Result<(), String> {
    let kind =
        (document["apiVersion"].as_str().unwrap_or(""), document["kind"].as_str().unwrap_or(""));
    match kind {
        ("v1", "ConfigMap") => strict::<ConfigMap>(document),
        ("v1", "Namespace") => strict::<Namespace>(document),
        ("v1", "Service") => strict::<Service>(document),
        ("v1", "ServiceAccount") => strict::<ServiceAccount>(document),
        ("apps/v1", "DaemonSet") => strict::<DaemonSet>(document),
        ("apps/v1", "Deployment") => strict::<Deployment>(document),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            strict::<ValidatingAdmissionPolicy>(document)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            strict::<ValidatingAdmissionPolicyBinding>(document)
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => strict::<NetworkPolicy>(document),
        ("policy/v1", "PodDisruptionBudget") => strict::<PodDisruptionBudget>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => strict::<ClusterRole>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            strict::<ClusterRoleBinding>(document)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => strict::<Role>(document),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => strict::<RoleBinding>(document),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            strict::<CustomResourceDefinition>(document)
        }
        ("security.openshift.io/v1", "SecurityContextConstraints") => {
            strict::<Constraints>(document)
        }
        // Definitions have their schema, which is looked at by itself.
        ("security.istio.io/v1", "PeerAuthentication" | "AuthorizationPolicy") => Ok(()),
        (version, kind) => Err(format!("no type for {version} {kind}")),
    }
}

fn strict<T: DeserializeOwned + Serialize>(document: &Value) -> Result<(), String> {
    let value: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(value).map_err(|error| error.to_string())?;
    same(document, &again, "")
}

/// Whether everything that was read was also understood.
fn same(read: &Value, written: &Value, path: &str) -> Result<(), String> {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            read.iter().try_for_each(|(key, value)| {
                let path = format!("{path}.{key}");
                let kept =
                    written.get(key).ok_or_else(|| format!("{path}: the API has no such field"))?;
                same(value, kept, &path)
            })
        }
        (Value::Array(read), Value::Array(written)) if read.len() == written.len() => {
            let mut pairs = read.iter().zip(written).enumerate();
            pairs.try_for_each(|(index, (read, written))| {
                same(read, written, &format!("{path}[{index}]"))
            })
        }
        _ if read == written => Ok(()),
        // The typed API has bounds as floating point.
        _ if read.is_number() && read.as_f64() == written.as_f64() => Ok(()),
        _ => Err(format!("{path}: {read} is read as {written}")),
    }
}

/// OpenShift's kind, which the Kubernetes API does not have.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Constraints {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    #[serde(rename = "allowHostDirVolumePlugin")]
    host_folders: bool,
    #[serde(rename = "allowHostIPC")]
    host_ipc: bool,
    #[serde(rename = "allowHostNetwork")]
    host_network: bool,
    #[serde(rename = "allowHostPID")]
    host_pid: bool,
    #[serde(rename = "allowHostPorts")]
    host_ports: bool,
    allow_privilege_escalation: bool,
    #[serde(rename = "allowPrivilegedContainer")]
    privileged: bool,
    allowed_capabilities: Vec<String>,
    default_add_capabilities: Vec<String>,
    required_drop_capabilities: Vec<String>,
    read_only_root_filesystem: bool,
    fs_group: Strategy,
    run_as_user: Strategy,
    #[serde(rename = "seLinuxContext")]
    selinux: Strategy,
    supplemental_groups: Strategy,
    seccomp_profiles: Vec<String>,
    volumes: Vec<String>,
    users: Vec<String>,
    groups: Vec<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Strategy {
    r#type: String,
}
