//! Tells the user of a pod, by an Event, that it is not captured.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use arcstr::ArcStr;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::facts::PodFacts;
use super::rules::Reason;
use crate::mesh::PodUid;

/// Longest wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message of an Event that the API server takes, in bytes.
const MESSAGE: usize = 1024;
/// Who says it; its admission policy knows the name.
const COMPONENT: &str = "sotto-agent";

/// What is told of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) uid: PodUid,
    pub(super) namespace: ArcStr,
    pub(super) name: ArcStr,
    pub(super) note: String,
}

/// Of a pod whose capture failed again and again.
pub(super) fn failed(reason: &str) -> String {
    format!("not captured, and tried again: {reason}")
}

impl Report {
    /// Of a pod that is asked for and cannot be captured.
    pub(super) fn left_alone(pod: &PodFacts, reason: Reason) -> Self {
        let note = format!(
            "not in the mesh although it is asked for: {reason}. Its connections are plaintext, and no policy of the \
             mesh is enforced for it"
        );
        Self {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            note,
        }
    }

    /// Writes it; the same is written once, also by another run of the agent.
    pub(super) async fn write(self, client: Client, node: &str) {
        let event = self.event(node);
        let api: Api<Event> = Api::namespaced(client, &self.namespace);
        let create = PostParams::default();
        match tokio::time::timeout(TIMEOUT, api.create(&create, &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {}
            Ok(Err(error)) => tracing::debug!(%error, pod = %self.name, "event not written"),
            Err(_) => tracing::debug!(pod = %self.name, "event not written in time"),
        }
    }

    fn event(&self, node: &str) -> Event {
        let mut hash = DefaultHasher::new();
        (&self.uid, &self.note).hash(&mut hash);
        let now = Time(Timestamp::now());
        let source =
            EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:016x}", self.name, hash.finish())),
                namespace: Some(self.namespace.to_string()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(self.namespace.to_string()),
                name: Some(self.name.to_string()),
                uid: Some(self.uid.to_string()),
                ..ObjectReference::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some("NotCaptured".to_owned()),
            message: Some(self.note[..self.note.floor_char_boundary(MESSAGE)].to_owned()),
            source: Some(source),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(node.to_owned()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        }
    }
}
