//! EndpointSlices, from Services' selectors and pods' readiness.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, ObjectMeta};
use kube::{Resource, ResourceExt};

use super::{World, names};
use crate::objects;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGER: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED: &str = "endpointslice-controller.k8s.io";

pub(super) async fn sync(world: &World) -> Result<()> {
    let mut wanted: BTreeMap<(Option<String>, String), EndpointSlice> = BTreeMap::new();
    for service in &world.services {
        if let Some(slice) = slice_of(service, &world.pods) {
            wanted.insert((slice.namespace(), slice.name_any()), slice);
        }
    }
    let ours = |slice: &&EndpointSlice| slice.labels().get(MANAGER).is_some_and(|by| by == MANAGED);
    for old in world.slices.iter().filter(ours) {
        let key = (old.namespace(), old.name_any());
        match wanted.get(&key) {
            Some(new) if new.endpoints == old.endpoints && new.ports == old.ports => {
                wanted.remove(&key);
            }
            Some(_) => {}
            None => {
                let api = world.api::<EndpointSlice>(key.0.as_deref());
                let deleted = api.delete(&key.1, &DeleteParams::default()).await;
                objects::ignore_missing(deleted.map(drop))?;
            }
        }
    }
    for ((namespace, _), slice) in wanted {
        let put = objects::put(&world.api(namespace.as_deref()), &slice).await;
        objects::ignore_ending(put)?;
    }
    Ok(())
}

fn slice_of(service: &Service, pods: &[Pod]) -> Option<EndpointSlice> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let mut selected: Vec<&Pod> = pods
        .iter()
        .filter(|pod| pod.namespace() == service.namespace())
        .filter(|pod| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value)))
        .collect();
    selected.sort_by_key(|pod| pod.name_any());
    let anyway = spec.publish_not_ready_addresses == Some(true);
    let ports = spec.ports.iter().flatten().map(|port| port_of(port, selected.first().copied()));
    Some(EndpointSlice {
        metadata: metadata(service),
        address_type: String::from("IPv4"),
        endpoints: selected.iter().filter_map(|pod| endpoint(pod, anyway)).collect(),
        ports: Some(ports.collect()),
    })
}

fn metadata(service: &Service) -> ObjectMeta {
    let name = service.name_any();
    let seed = service.uid().unwrap_or_default();
    let owner = OwnerReference { block_owner_deletion: Some(true), ..owner_reference(service) };
    let labels = [(SERVICE, name.as_str()), (MANAGER, MANAGED)];
    ObjectMeta {
        name: Some(format!("{name}-{}", names::hashed(&seed, 5))),
        namespace: service.namespace(),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        owner_references: Some(vec![owner]),
        ..Default::default()
    }
}

/// A reference to `object` as the controller of another.
pub(super) fn owner_reference<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn endpoint(pod: &Pod, ready_anyway: bool) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let ip = status.pod_ip.clone()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Some(Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(ready_anyway || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some(String::from("Pod")),
            name: Some(pod.name_any()),
            namespace: pod.namespace(),
            uid: pod.uid(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// Whether the pod's condition `Ready` is true.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn port_of(port: &ServicePort, pod: Option<&Pod>) -> EndpointPort {
    let number = match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => pod.and_then(|pod| named_port(pod, name)),
    };
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: number,
        protocol: Some(port.protocol.clone().unwrap_or_else(|| String::from("TCP"))),
        app_protocol: port.app_protocol.clone(),
    }
}

/// The number of a port that a container of `pod` names.
pub(crate) fn named_port(pod: &Pod, name: &str) -> Option<i32> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ip: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "ns", "labels": { "app": "web" } },
            "spec": { "nodeName": "node1", "containers": [
                { "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            "status": { "podIP": ip, "conditions": [{ "type": "Ready", "status": ready }] }
        }))
        .unwrap()
    }

    #[test]
    fn a_slice_holds_the_selected_pods_with_their_readiness() {
        let service = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "ns", "uid": "u" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] }
        }))
        .unwrap();
        let slice =
            slice_of(&service, &[pod("b", "10.0.0.2", "False"), pod("a", "10.0.0.1", "True")]);
        let slice = slice.unwrap();
        let seen: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready))
            .collect();
        assert_eq!(seen, [("10.0.0.1", Some(true)), ("10.0.0.2", Some(false))]);
        assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
        assert_eq!(slice.metadata.labels.unwrap()[SERVICE], "web");
    }
}
