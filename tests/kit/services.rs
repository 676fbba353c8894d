//! Services as a node sees them: NAT rules for their addresses (kube-proxy's work) and names for
//! pods' `/etc/hosts` (the cluster DNS's work). Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

/// The Services of the cluster with their endpoints.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// All Services.
    pub services: Vec<Service>,
    /// All EndpointSlices.
    pub slices: Vec<EndpointSlice>,
}

impl Services {
    /// An nft script that puts this state in place of the last one, at once.
    pub fn ruleset(&self) -> String {
        let mut rules = Rules::default();
        for service in &self.services {
            let spec = service.spec.as_ref();
            let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
            if ip.parse::<std::net::Ipv4Addr>().is_err() {
                continue;
            }
            for port in spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
                rules.add(ip, port, &self.endpoints(service, port));
            }
        }
        rules.script()
    }

    /// `/etc/hosts` for pods of `namespace`.
    pub fn hosts(&self, namespace: &str) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
        for service in &self.services {
            let (name, of) = (service.name_any(), service.namespace().unwrap_or_default());
            let mut names = format!("{name}.{of}.svc.cluster.local {name}.{of}.svc {name}.{of}");
            if of == namespace {
                names = format!("{names} {name}");
            }
            for ip in self.addresses(service) {
                // Writing to a string cannot fail.
                writeln!(text, "{ip} {names}").unwrap_or_default();
            }
        }
        text
    }

    /// Whether every Service that selects the ready `pod` leads to it.
    pub fn lead_to(&self, pod: &Pod) -> bool {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default();
        let selecting = self.services.iter().filter(|service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            service.namespace() == pod.namespace()
                && selector.is_some_and(|selector| {
                    !selector.is_empty()
                        && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
                })
        });
        let mut selecting = selecting.map(|service| self.slices_of(service));
        selecting.all(|slices| {
            let mut endpoints = slices.flat_map(|slice| &slice.endpoints);
            endpoints.any(|endpoint| ready(endpoint) && endpoint.addresses.contains(&ip))
        })
    }

    /// What the name of `service` stands for: its cluster IP, or its ready pods if it is headless.
    fn addresses(&self, service: &Service) -> BTreeSet<String> {
        let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
        match ip.as_deref() {
            Some("None") => {
                let slices = self.slices_of(service).flat_map(|slice| &slice.endpoints);
                slices
                    .filter(|endpoint| ready(endpoint))
                    .flat_map(|e| e.addresses.clone())
                    .collect()
            }
            Some(ip) if !ip.is_empty() => BTreeSet::from([ip.to_owned()]),
            _ => BTreeSet::new(),
        }
    }

    /// `ip:port` of every ready endpoint for a port of `service`.
    fn endpoints(&self, service: &Service, port: &ServicePort) -> Vec<(String, i32)> {
        let name = port.name.as_deref().unwrap_or_default();
        let mut found = BTreeSet::new();
        for slice in self.slices_of(service).filter(|slice| slice.address_type == "IPv4") {
            let mut ports = slice.ports.iter().flatten();
            let number = ports.find(|port| port.name.as_deref().unwrap_or_default() == name);
            let Some(number) = number.and_then(|port| port.port) else { continue };
            for endpoint in slice.endpoints.iter().filter(|endpoint| ready(endpoint)) {
                found.extend(endpoint.addresses.iter().map(|ip| (ip.clone(), number)));
            }
        }
        found.into_iter().collect()
    }

    fn slices_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a EndpointSlice> {
        let name = service.name_any();
        self.slices.iter().filter(move |slice| {
            slice.namespace() == service.namespace()
                && slice.labels().get("kubernetes.io/service-name") == Some(&name)
        })
    }
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// The parts of the nft table while it is written.
#[derive(Debug, Default)]
struct Rules {
    chains: String,
    services: String,
    refused: String,
    backends: BTreeSet<String>,
    count: usize,
}

impl Rules {
    fn add(&mut self, ip: &str, port: &ServicePort, endpoints: &[(String, i32)]) {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        if protocol != "tcp" && protocol != "udp" {
            return;
        }
        let here = format!("ip daddr {ip} {protocol} dport {}", port.port);
        if endpoints.is_empty() {
            let answer = if protocol == "tcp" { "reject with tcp reset" } else { "reject" };
            self.refused += &format!("{here} {answer}\n");
            return;
        }
        let mut choices = Vec::new();
        for (index, (backend, number)) in endpoints.iter().enumerate() {
            let chain = format!("endpoint-{}-{index}", self.count);
            self.chains += &format!(
                "chain {chain} {{ meta l4proto {protocol} dnat to {backend}:{number}; }}\n"
            );
            choices.push(format!("{index} : goto {chain}"));
            self.backends.insert(backend.clone());
        }
        let (all, count) = (choices.join(", "), choices.len());
        self.services += &format!("{here} numgen random mod {count} vmap {{ {all} }}\n");
        self.count += 1;
    }

    /// A pod that reaches itself through a Service needs another source, or it would answer itself
    /// without the way back through the NAT.
    fn hairpins(&self) -> String {
        let pair = |ip: &String| format!("ct status dnat ip saddr {ip} ip daddr {ip} masquerade\n");
        self.backends.iter().map(pair).collect()
    }

    fn script(&self) -> String {
        let (chains, services, refused) = (&self.chains, &self.services, &self.refused);
        let hairpins = self.hairpins();
        format!(
            "add table ip kit-services\ndelete table ip kit-services\ntable ip kit-services {{\n\
             {chains}\
             chain services {{\n{services}}}\n\
             chain refused {{\n{refused}}}\n\
             chain prerouting {{ type nat hook prerouting priority -100; jump services; }}\n\
             chain output {{ type nat hook output priority -100; jump services; }}\n\
             chain postrouting {{ type nat hook postrouting priority 100;\n{hairpins}}}\n\
             chain forward {{ type filter hook forward priority 0; jump refused; }}\n\
             chain local {{ type filter hook output priority 0; jump refused; }}\n\
             }}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(cluster_ip: &str, ready: bool) -> Services {
        let service = json!({ "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "clusterIP": cluster_ip, "ports": [{ "port": 80 }] } });
        let slice = json!({ "metadata": { "name": "web-1", "namespace": "shop",
                "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "ports": [{ "name": "", "port": 8080 }],
            "endpoints": [{ "addresses": ["10.244.1.2"], "conditions": { "ready": ready } }] });
        Services {
            services: vec![serde_json::from_value(service).unwrap()],
            slices: vec![serde_json::from_value(slice).unwrap()],
        }
    }

    #[test]
    fn a_service_is_translated_to_its_ready_endpoints() {
        let rules = state("10.96.0.20", true).ruleset();
        assert!(rules.contains("ip daddr 10.96.0.20 tcp dport 80 numgen random mod 1 vmap"));
        assert!(rules.contains("dnat to 10.244.1.2:8080"));
    }

    #[test]
    fn a_service_without_ready_endpoints_refuses() {
        let rules = state("10.96.0.20", false).ruleset();
        assert!(rules.contains("ip daddr 10.96.0.20 tcp dport 80 reject with tcp reset"));
        assert!(!rules.contains("dnat to"));
    }

    #[test]
    fn names_are_long_everywhere_and_short_at_home() {
        let services = state("10.96.0.20", true);
        let home = "10.96.0.20 web.shop.svc.cluster.local web.shop.svc web.shop web\n";
        assert!(services.hosts("shop").contains(home));
        assert!(!services.hosts("other").contains("web.shop web\n"));
        let headless = state("None", true).hosts("shop");
        assert!(headless.contains("10.244.1.2 web.shop.svc.cluster.local"));
    }
}
