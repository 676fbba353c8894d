//! The condition `sotto.io/Captured` of a pod's status: why a pod that is asked for is not captured, and that it is by now.
//!
//! Only pods that could not be captured ever get it. Nothing depends on it, so that it is written as well as can be.

use std::time::Duration;

use arcstr::ArcStr;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::mesh::PodUid;

/// Its type; the agents' admission policy knows it.
pub(super) const CAPTURED: &str = "sotto.io/Captured";
/// Longest wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// The pod is not captured: why.
    NotCaptured(String),
    /// It is, after all.
    Captured,
    /// Nothing: nobody asks for the pod any more.
    Nothing,
}

/// Which pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Of {
    pub(super) uid: PodUid,
    pub(super) namespace: ArcStr,
    pub(super) name: ArcStr,
}

/// Whether the pod is captured, by its condition; none if it has none.
pub(super) fn of(pod: &Pod) -> Option<bool> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ours = conditions.iter().find(|condition| condition.type_ == CAPTURED)?;
    Some(ours.status == "True")
}

/// Writes or removes it, of exactly this pod.
pub(super) async fn write(client: Client, of: &Of, told: Told) {
    // The UID makes it fail for another pod of the same name. Others' conditions stay as they are.
    let patch =
        json!({ "metadata": { "uid": of.uid.0 }, "status": { "conditions": [element(told)] } });
    let pods: Api<Pod> = Api::namespaced(client, &of.namespace);
    let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
    let answer = pods.patch_status(&of.name, &parameters, &patch);
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, pod = %of.name, "condition not written"),
        Err(_) => tracing::debug!(pod = %of.name, "condition not written in time"),
    }
}

fn element(told: Told) -> Value {
    let (status, reason, message) = match told {
        Told::Nothing => return json!({ "type": CAPTURED, "$patch": "delete" }),
        Told::NotCaptured(why) => ("False", "NotCaptured", why),
        Told::Captured => ("True", "Captured", String::new()),
    };
    json!({ "type": CAPTURED, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": Time(Timestamp::now()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_condition_of_ours_counts() {
        let pod = |conditions: Value| {
            let pod = json!({ "metadata": {}, "status": { "conditions": conditions } });
            of(&serde_json::from_value(pod).unwrap())
        };
        let other = json!({ "type": "Ready", "status": "True" });
        assert_eq!(pod(json!(null)), None);
        assert_eq!(pod(json!([other])), None);
        for (status, captured) in [("True", true), ("False", false), ("Unknown", false)] {
            assert_eq!(pod(json!([other, { "type": CAPTURED, "status": status }])), Some(captured));
        }
    }

    #[test]
    fn one_element_is_written_and_no_other_touched() {
        assert_eq!(element(Told::Nothing), json!({ "type": CAPTURED, "$patch": "delete" }));
        let told = element(Told::NotCaptured(String::from("no tables")));
        assert_eq!((&told["status"], &told["message"]), (&json!("False"), &json!("no tables")));
        assert_eq!(element(Told::Captured)["status"], "True");
    }
}
