//! What the tutorials start with.

use serde_json::{Value, json};

use super::super::objects::{self, MODE};
use super::super::suite::Suite;

/// Those that the tutorials name, but for `default`.
pub(super) const NAMESPACES: [&str; 5] = ["chapter6", "utilities", "sleep", "bookinfo", "legacy"];

/// httpbin in an enrolled namespace, a pod with curl in another.
pub(super) fn httpbin(suite: &Suite) -> Vec<Value> {
    let mut objects = objects::namespace("chapter6", true);
    objects.extend(objects::namespace("utilities", false));
    objects.extend(app(suite, ("chapter6", "httpbin"), 8000));
    objects.push(client(suite, "utilities", "curl"));
    objects
}

/// Bookinfo in `default`, sleep in a namespace of its own.
pub(super) fn sleep(suite: &Suite) -> Vec<Value> {
    let mut objects = objects::namespace("default", true);
    // It is not the suite's own: it gets the mesh's label, and gives it back.
    objects[0]["metadata"]["labels"] = json!({ MODE: "ambient" });
    objects.extend(objects::namespace("sleep", false));
    objects.extend(bookinfo_in(suite, "default"));
    objects.push(client(suite, "sleep", "sleep"));
    objects
}

/// Bookinfo in a namespace of its own, sleep in `legacy`.
pub(super) fn bookinfo(suite: &Suite) -> Vec<Value> {
    let mut objects = objects::namespace("bookinfo", true);
    objects.extend(objects::namespace("legacy", false));
    objects.extend(bookinfo_in(suite, "bookinfo"));
    objects.push(client(suite, "legacy", "sleep"));
    objects
}

fn bookinfo_in(suite: &Suite, namespace: &str) -> Vec<Value> {
    let mut objects = app(suite, (namespace, "productpage"), 9080);
    objects.extend(app(suite, (namespace, "details"), 9080));
    objects
}

/// A pod that serves on a port, and its service of the same name and port.
fn app(suite: &Suite, (namespace, name): (&str, &str), port: u16) -> Vec<Value> {
    let mut pod = suite.far_pod(namespace, name);
    let container = &mut pod["spec"]["containers"][0];
    container["name"] = name.into();
    container["command"][3] = port.to_string().into();
    container["readinessProbe"]["httpGet"]["port"] = port.into();
    container["livenessProbe"]["tcpSocket"]["port"] = port.into();
    let mut service = objects::service(namespace, name, Some(name));
    service["spec"]["ports"] = json!([{ "name": "http", "port": port, "targetPort": port }]);
    vec![pod, service]
}

/// A pod whose container has the pod's name, as `kubectl exec -c` wants it.
pub(super) fn client(suite: &Suite, namespace: &str, name: &str) -> Value {
    let mut pod = suite.near_pod(namespace, name);
    pod["spec"]["containers"][0]["name"] = name.into();
    pod
}
