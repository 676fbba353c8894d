//! The status a kubelet reports of a pod. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// A container, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerState {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) restarts: i32,
    pub(super) running: bool,
}

/// The status of a pod that could not be started yet.
pub(super) fn waiting(pod: &Pod, host: IpAddr, why: &str) -> Value {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
        json!({
            "name": container.name, "image": container.image, "imageID": "", "ready": false,
            "restartCount": 0,
            "state": { "waiting": { "reason": "ContainerCreating", "message": why } }
        })
    });
    json!({ "status": {
        "phase": "Pending",
        "hostIP": host,
        "conditions": conditions(pod, false),
        "containerStatuses": containers.collect::<Vec<_>>(),
    } })
}

/// The status of a pod that runs.
pub(super) fn running(
    pod: &Pod,
    (host, ips): (IpAddr, &[IpAddr]),
    containers: &[ContainerState],
    ready: bool,
) -> Value {
    let since = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let ready = ready && containers.iter().all(|container| container.running);
    let statuses = containers.iter().map(|container| {
        let state = if container.running {
            json!({ "running": { "startedAt": since } })
        } else {
            json!({ "waiting": { "reason": "CrashLoopBackOff" } })
        };
        json!({
            "name": container.name, "image": container.image, "imageID": container.image,
            "containerID": format!("kit://{}", container.name), "ready": ready,
            "started": container.running, "restartCount": container.restarts, "state": state,
        })
    });
    json!({ "status": {
        "phase": "Running",
        "hostIP": host,
        "hostIPs": [{ "ip": host }],
        "podIP": ips.first(),
        "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
        "startTime": since,
        "conditions": conditions(pod, ready),
        "containerStatuses": statuses.collect::<Vec<_>>(),
    } })
}

/// A condition keeps the time of its last change.
fn conditions(pod: &Pod, ready: bool) -> Vec<Value> {
    let word = |value: bool| if value { "True" } else { "False" };
    let old = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    [("PodScheduled", true), ("Initialized", true), ("ContainersReady", ready), ("Ready", ready)]
        .map(|(kind, value)| {
            let mut before = old.into_iter().flatten().filter(|c| c.type_ == kind);
            let same = before.find(|c| c.status == word(value));
            let time = same.and_then(|c| c.last_transition_time.as_ref()).map(|time| time.0);
            let time = time.unwrap_or_else(now).to_string();
            json!({ "type": kind, "status": word(value), "lastTransitionTime": time })
        })
        .into()
}

/// Kubernetes writes times in whole seconds.
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_ready_when_its_probe_and_all_containers_are() {
        let ip = IpAddr::from([10, 0, 0, 1]);
        let container = |running| ContainerState {
            name: String::from("c"),
            image: String::from("i"),
            restarts: 0,
            running,
        };
        let check = |containers: &[ContainerState], probe, expected: &str| {
            let status = running(&Pod::default(), (ip, &[ip]), containers, probe);
            assert_eq!(status["status"]["conditions"][3]["status"], expected);
        };
        check(&[container(true)], true, "True");
        check(&[container(true)], false, "False");
        check(&[container(true), container(false)], true, "False");
    }
}
