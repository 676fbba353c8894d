//! What a kubelet may ask of a pod: the ports that its spec declares for probes and lifecycle hooks. Pure.

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The ports of a pod's own address, sorted. Of a probe or hook that names another host the pod is warned: it does
/// not reach the pod, and opens nothing.
pub(super) fn ports(spec: &PodSpec, warnings: &mut Vec<String>) -> Vec<u16> {
    // Native sidecars are init containers, and may have both.
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut ports = Vec::new();
    for container in containers {
        for asked in of_container(container) {
            match asked.host.filter(|host| !host.is_empty()) {
                None => ports.extend(asked.port.resolve(container)),
                Some(host) => warnings.push(format!(
                    "container {}: a probe or hook of host {host:?} reaches no enrolled pod but \
                     at ports that the pod itself declares for probes",
                    container.name
                )),
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// One thing that a kubelet connects to.
struct Asked<'a> {
    host: Option<&'a str>,
    port: Port<'a>,
}

/// A port as specs have it.
enum Port<'a> {
    Number(i32),
    Name(&'a str),
}

impl Port<'_> {
    /// Its number: a name is one of the same container's, or a number as text. What is neither cannot be probed.
    fn resolve(&self, container: &Container) -> Option<u16> {
        let number = match self {
            Self::Number(number) => *number,
            Self::Name(name) => {
                let mut named = container.ports.iter().flatten();
                let named = named.find(|port| port.name.as_deref() == Some(name));
                named.map(|port| port.container_port).or_else(|| name.parse().ok())?
            }
        };
        u16::try_from(number).ok().filter(|port| *port != 0)
    }
}

impl<'a> From<&'a IntOrString> for Port<'a> {
    fn from(port: &'a IntOrString) -> Self {
        match port {
            IntOrString::Int(number) => Self::Number(*number),
            IntOrString::String(name) => Self::Name(name),
        }
    }
}

fn of_container(container: &Container) -> Vec<Asked<'_>> {
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    let lifecycle = container.lifecycle.as_ref();
    let hooks = lifecycle.map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop]);
    let probes = probes.into_iter().flatten().flat_map(of_probe);
    probes.chain(hooks.into_iter().flatten().flatten().flat_map(of_hook)).collect()
}

fn of_probe(probe: &Probe) -> Vec<Asked<'_>> {
    let http = probe.http_get.as_ref().map(|get| asked(get.host.as_deref(), &get.port));
    let tcp = probe.tcp_socket.as_ref().map(|tcp| asked(tcp.host.as_deref(), &tcp.port));
    let grpc = probe.grpc.as_ref().map(|grpc| Asked { host: None, port: Port::Number(grpc.port) });
    [http, tcp, grpc].into_iter().flatten().collect()
}

fn of_hook(hook: &LifecycleHandler) -> Vec<Asked<'_>> {
    let http = hook.http_get.as_ref().map(|get| asked(get.host.as_deref(), &get.port));
    let tcp = hook.tcp_socket.as_ref().map(|tcp| asked(tcp.host.as_deref(), &tcp.port));
    [http, tcp].into_iter().flatten().collect()
}

fn asked<'a>(host: Option<&'a str>, port: &'a IntOrString) -> Asked<'a> {
    Asked { host, port: port.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The ports of a pod with these containers, and how often it is warned of.
    fn check(fact: &str, containers: &Value, init: &Value, expected: (&[u16], usize)) {
        let spec = json!({ "containers": containers, "initContainers": init });
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let mut warnings = Vec::new();
        let found = ports(&spec, &mut warnings);
        assert_eq!((found.as_slice(), warnings.len()), expected, "{fact}: {warnings:?}");
    }

    fn one(container: &Value) -> Value {
        let mut container = container.clone();
        container["name"] = json!("app");
        json!([container])
    }

    #[test]
    fn every_kind_of_probe_and_hook_declares_its_port() {
        let all = one(&json!({
            "startupProbe": { "httpGet": { "port": 1 } },
            "livenessProbe": { "tcpSocket": { "port": 2 } },
            "readinessProbe": { "grpc": { "port": 3 } },
            "lifecycle": {
                "postStart": { "httpGet": { "port": 4 } },
                "preStop": { "tcpSocket": { "port": 5 } },
            },
        }));
        check("all", &all, &json!([]), (&[1, 2, 3, 4, 5], 0));
        check("sidecars", &json!([]), &all, (&[1, 2, 3, 4, 5], 0));
        let command = json!({ "exec": { "command": ["true"] } });
        let exec = json!({ "livenessProbe": command, "lifecycle": { "preStop": command } });
        check("commands have none", &one(&exec), &json!([]), (&[], 0));
        let listens = one(&json!({ "ports": [{ "containerPort": 80 }] }));
        check("a port alone is no probe", &listens, &json!([]), (&[], 0));
    }

    #[test]
    fn a_named_port_is_the_same_containers() {
        let probe = |port: Value| json!({ "httpGet": { "port": port } });
        let ports = json!([{ "name": "web", "containerPort": 8080 }]);
        let named = json!({ "name": "a", "ports": ports, "readinessProbe": probe(json!("web")) });
        let other = json!({ "name": "b", "readinessProbe": probe(json!("web")) });
        check("its own", &json!([named]), &json!([]), (&[8080], 0));
        check("another's", &json!([other, named]), &json!([]), (&[8080], 0));
        check("nobody's", &json!([other]), &json!([]), (&[], 0));
        let text = one(&json!({ "readinessProbe": probe(json!("90")) }));
        check("a number as text", &text, &json!([]), (&[90], 0));
        for port in [json!(0), json!(-1), json!(65_536), json!("0"), json!("")] {
            let none = one(&json!({ "readinessProbe": probe(port) }));
            check("no port", &none, &json!([]), (&[], 0));
        }
    }

    #[test]
    fn a_probe_of_another_host_opens_nothing_and_is_warned_of() {
        let probe = |host: &str| {
            one(&json!({ "livenessProbe": { "tcpSocket": { "host": host, "port": 80 } } }))
        };
        check("another host", &probe("10.244.1.9"), &json!([]), (&[], 1));
        check("none named", &probe(""), &json!([]), (&[80], 0));
        let hook = json!({ "preStop": { "httpGet": { "host": "10.244.1.9", "port": 80 } } });
        check("a hook", &one(&json!({ "lifecycle": hook })), &json!([]), (&[], 1));
    }
}
