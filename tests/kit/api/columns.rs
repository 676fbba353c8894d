//! The columns of built-in resources, after the name.

use serde_json::Value;

use super::clock;
use super::json::{at, list_at, number_at, string_at, strings_at};
use super::resource::Resource;

/// A column and how to fill it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BuiltInColumn {
    /// The header.
    pub name: &'static str,
    /// 0 is always shown, others with `-o wide`.
    pub priority: i64,
    /// The text of an object.
    pub cell: fn(&Value) -> String,
}

const fn shown(name: &'static str, cell: fn(&Value) -> String) -> BuiltInColumn {
    BuiltInColumn { name, priority: 0, cell }
}

const fn wide(name: &'static str, cell: fn(&Value) -> String) -> BuiltInColumn {
    BuiltInColumn { name, priority: 1, cell }
}

const AGE: BuiltInColumn = shown("Age", age);

/// The columns of a built-in resource.
pub(super) fn of(resource: &Resource) -> &'static [BuiltInColumn] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => NAMESPACES,
        ("", "pods") => PODS,
        ("", "services") => SERVICES,
        ("", "nodes") => NODES,
        ("", "configmaps") => CONFIG_MAPS,
        ("", "secrets") => SECRETS,
        ("", "serviceaccounts") => SERVICE_ACCOUNTS,
        ("", "endpoints") => ENDPOINTS,
        ("", "events") => EVENTS,
        ("apps", "deployments") => DEPLOYMENTS,
        ("apps", "replicasets") => REPLICA_SETS,
        ("apps", "statefulsets") => STATEFUL_SETS,
        ("apps", "daemonsets") => DAEMON_SETS,
        ("discovery.k8s.io", _) => ENDPOINT_SLICES,
        ("coordination.k8s.io", _) => LEASES,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => BINDINGS,
        ("rbac.authorization.k8s.io" | "apiextensions.k8s.io", _) => CREATED,
        _ => &[AGE],
    }
}

const NAMESPACES: &[BuiltInColumn] = &[shown("Status", |o| text(o, "status.phase")), AGE];

const PODS: &[BuiltInColumn] = &[
    shown("Ready", |o| {
        let containers = list_at(o, &["status", "containerStatuses"]);
        let ready = containers.iter().filter(|c| c["ready"] == true).count();
        format!("{ready}/{}", list_at(o, &["spec", "containers"]).len())
    }),
    shown("Status", pod_status),
    shown("Restarts", |o| {
        let containers = list_at(o, &["status", "containerStatuses"]);
        containers.iter().map(|c| number_at(c, &["restartCount"])).sum::<i64>().to_string()
    }),
    AGE,
    wide("IP", |o| or_none(text(o, "status.podIP"))),
    wide("Node", |o| or_none(text(o, "spec.nodeName"))),
    wide("Nominated Node", |o| or_none(text(o, "status.nominatedNodeName"))),
    wide("Readiness Gates", |_| "<none>".to_owned()),
];

const SERVICES: &[BuiltInColumn] = &[
    shown("Type", |o| text(o, "spec.type")),
    shown("Cluster-IP", |o| or_none(text(o, "spec.clusterIP"))),
    shown("External-IP", external_ip),
    shown("Port(s)", service_ports),
    AGE,
    wide("Selector", |o| pairs(at(o, &["spec", "selector"]))),
];

const NODES: &[BuiltInColumn] = &[
    shown("Status", node_status),
    shown("Roles", |o| {
        let labels = at(o, &["metadata", "labels"]).and_then(Value::as_object);
        let keys = labels.into_iter().flatten().map(|(key, _)| key);
        let roles = keys.filter_map(|key| key.strip_prefix("node-role.kubernetes.io/"));
        or_none(roles.collect::<Vec<_>>().join(","))
    }),
    AGE,
    shown("Version", |o| text(o, "status.nodeInfo.kubeletVersion")),
    wide("Internal-IP", |o| node_address(o, "InternalIP")),
    wide("External-IP", |o| node_address(o, "ExternalIP")),
    wide("OS-Image", |o| text(o, "status.nodeInfo.osImage")),
    wide("Kernel-Version", |o| text(o, "status.nodeInfo.kernelVersion")),
    wide("Container-Runtime", |o| text(o, "status.nodeInfo.containerRuntimeVersion")),
];

const CONFIG_MAPS: &[BuiltInColumn] = &[shown("Data", data_count), AGE];
const SECRETS: &[BuiltInColumn] =
    &[shown("Type", |o| text(o, "type")), shown("Data", data_count), AGE];
const SERVICE_ACCOUNTS: &[BuiltInColumn] =
    &[shown("Secrets", |o| list_at(o, &["secrets"]).len().to_string()), AGE];
const ENDPOINTS: &[BuiltInColumn] = &[shown("Endpoints", endpoints), AGE];

const EVENTS: &[BuiltInColumn] = &[
    shown("Last Seen", |o| clock::age(string_at(o, &["lastTimestamp"]))),
    shown("Type", |o| text(o, "type")),
    shown("Reason", |o| text(o, "reason")),
    shown("Object", |o| {
        let kind = text(o, "involvedObject.kind").to_lowercase();
        format!("{kind}/{}", text(o, "involvedObject.name"))
    }),
    shown("Message", |o| text(o, "message").trim().to_owned()),
];

const DEPLOYMENTS: &[BuiltInColumn] = &[
    shown("Ready", ready_of_wanted),
    shown("Up-to-date", |o| count(o, "status.updatedReplicas")),
    shown("Available", |o| count(o, "status.availableReplicas")),
    AGE,
    wide("Containers", |o| of_containers(o, "name")),
    wide("Images", |o| of_containers(o, "image")),
    wide("Selector", |o| pairs(at(o, &["spec", "selector", "matchLabels"]))),
];

const REPLICA_SETS: &[BuiltInColumn] = &[
    shown("Desired", |o| count(o, "spec.replicas")),
    shown("Current", |o| count(o, "status.replicas")),
    shown("Ready", |o| count(o, "status.readyReplicas")),
    AGE,
    wide("Containers", |o| of_containers(o, "name")),
    wide("Images", |o| of_containers(o, "image")),
    wide("Selector", |o| pairs(at(o, &["spec", "selector", "matchLabels"]))),
];

const STATEFUL_SETS: &[BuiltInColumn] = &[
    shown("Ready", ready_of_wanted),
    AGE,
    wide("Containers", |o| of_containers(o, "name")),
    wide("Images", |o| of_containers(o, "image")),
];

const DAEMON_SETS: &[BuiltInColumn] = &[
    shown("Desired", |o| count(o, "status.desiredNumberScheduled")),
    shown("Current", |o| count(o, "status.currentNumberScheduled")),
    shown("Ready", |o| count(o, "status.numberReady")),
    shown("Up-to-date", |o| count(o, "status.updatedNumberScheduled")),
    shown("Available", |o| count(o, "status.numberAvailable")),
    shown("Node Selector", |o| pairs(at(o, &["spec", "template", "spec", "nodeSelector"]))),
    AGE,
    wide("Containers", |o| of_containers(o, "name")),
    wide("Images", |o| of_containers(o, "image")),
];

const ENDPOINT_SLICES: &[BuiltInColumn] = &[
    shown("AddressType", |o| text(o, "addressType")),
    shown("Ports", |o| {
        let ports = list_at(o, &["ports"]).iter().map(|p| count(p, "port"));
        or_unset(ports.collect())
    }),
    shown("Endpoints", |o| {
        let endpoints = list_at(o, &["endpoints"]).iter();
        or_unset(endpoints.flat_map(|e| strings_at(e, &["addresses"])).collect())
    }),
    AGE,
];

const LEASES: &[BuiltInColumn] = &[shown("Holder", |o| text(o, "spec.holderIdentity")), AGE];
const CREATED: &[BuiltInColumn] = &[shown("Created At", |o| text(o, "metadata.creationTimestamp"))];
const BINDINGS: &[BuiltInColumn] =
    &[shown("Role", |o| format!("{}/{}", text(o, "roleRef.kind"), text(o, "roleRef.name"))), AGE];

/// How old an object is.
pub(super) fn age(object: &Value) -> String {
    clock::age(string_at(object, &["metadata", "creationTimestamp"]))
}

fn text(object: &Value, path: &str) -> String {
    let path: Vec<&str> = path.split('.').collect();
    string_at(object, &path).to_owned()
}

fn count(object: &Value, path: &str) -> String {
    let path: Vec<&str> = path.split('.').collect();
    number_at(object, &path).to_string()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn or_unset(list: Vec<String>) -> String {
    match list.as_slice() {
        [] => "<unset>".to_owned(),
        [a, b, c, more @ ..] if !more.is_empty() => format!("{a},{b},{c} + {} more...", more.len()),
        all => all.join(","),
    }
}

fn pairs(map: Option<&Value>) -> String {
    let members = map.and_then(Value::as_object).into_iter().flatten();
    let pairs = members.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    or_none(pairs.collect::<Vec<_>>().join(","))
}

fn ready_of_wanted(object: &Value) -> String {
    format!("{}/{}", count(object, "status.readyReplicas"), count(object, "spec.replicas"))
}

fn of_containers(object: &Value, field: &str) -> String {
    let containers = list_at(object, &["spec", "template", "spec", "containers"]);
    let values = containers.iter().map(|c| string_at(c, &[field]));
    values.collect::<Vec<_>>().join(",")
}

fn data_count(object: &Value) -> String {
    let of = |key: &str| at(object, &[key]).and_then(Value::as_object).map_or(0, |map| map.len());
    (of("data") + of("binaryData")).to_string()
}

/// The reason of a container that waits or ended, else of the pod.
fn pod_status(pod: &Value) -> String {
    let mut status = match text(pod, "status.reason") {
        reason if reason.is_empty() => text(pod, "status.phase"),
        reason => reason,
    };
    for container in list_at(pod, &["status", "containerStatuses"]) {
        for state in ["waiting", "terminated"] {
            let reason = string_at(container, &["state", state, "reason"]);
            if !reason.is_empty() {
                reason.clone_into(&mut status);
            }
        }
    }
    match at(pod, &["metadata", "deletionTimestamp"]) {
        Some(_) => "Terminating".to_owned(),
        None => status,
    }
}

fn external_ip(service: &Value) -> String {
    match string_at(service, &["spec", "type"]) {
        "ExternalName" => text(service, "spec.externalName"),
        "LoadBalancer" => {
            let ingress = list_at(service, &["status", "loadBalancer", "ingress"]);
            let addresses: Vec<&str> = ingress.iter().map(|i| string_at(i, &["ip"])).collect();
            if addresses.is_empty() { "<pending>".to_owned() } else { addresses.join(",") }
        }
        _ => or_none(strings_at(service, &["spec", "externalIPs"]).join(",")),
    }
}

fn service_ports(service: &Value) -> String {
    let ports = list_at(service, &["spec", "ports"]).iter().map(|port| {
        let (number, protocol) = (number_at(port, &["port"]), text(port, "protocol"));
        match number_at(port, &["nodePort"]) {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    });
    or_none(ports.collect::<Vec<_>>().join(","))
}

fn node_status(node: &Value) -> String {
    let conditions = list_at(node, &["status", "conditions"]);
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| string_at(c, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_address(node: &Value, kind: &str) -> String {
    let addresses = list_at(node, &["status", "addresses"]);
    let found = addresses.iter().find(|a| a["type"] == kind);
    or_none(found.map(|a| text(a, "address")).unwrap_or_default())
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list_at(object, &["subsets"]) {
        for address in list_at(subset, &["addresses"]) {
            for port in list_at(subset, &["ports"]) {
                all.push(format!("{}:{}", text(address, "ip"), number_at(port, &["port"])));
            }
        }
    }
    if all.is_empty() { "<none>".to_owned() } else { or_unset(all) }
}
