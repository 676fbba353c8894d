//! Tells the user of a pod, by an Event and a condition, that it is not captured, or not all of it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::condition::{self, Of, Told};
use super::facts::PodFacts;
use super::rules::Reason;

/// Longest wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message of an Event that the API server takes, in bytes.
const MESSAGE: usize = 1024;
/// Who says it; its admission policy knows the name.
const COMPONENT: &str = "sotto-agent";

/// What is told of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) of: Of,
    pub(super) note: String,
    /// It is about what goes through the pod: the pod itself is captured.
    pub(super) captured: bool,
}

impl Report {
    /// Of a pod whose capture failed again and again.
    pub(super) fn failed(of: Of, reason: &str) -> Self {
        let note = format!("not captured, and tried again: {reason}");
        Self { of, note, captured: false }
    }

    /// Of a captured pod that has a network of its own behind it.
    pub(super) fn forwards(of: Of, bridge: &str) -> Self {
        let note = format!(
            "the pod is captured, but not what it forwards: the bridge {bridge} in it leads to containers or machines of its \
             own. Their connections are plaintext, and no policy of the mesh is enforced for what is forwarded to them"
        );
        Self { of, note, captured: true }
    }

    /// Of a pod that is asked for and cannot be captured.
    pub(super) fn left_alone(pod: &PodFacts, reason: Reason) -> Self {
        Self::outside(pod.of(), reason)
    }

    /// The same, of one of which that was seen only when it ran.
    pub(super) fn outside(of: Of, reason: Reason) -> Self {
        let note = format!(
            "not in the mesh although it is asked for: {reason}. Its connections are plaintext, and no policy of the \
             mesh is enforced for it"
        );
        Self { of, note, captured: false }
    }

    /// Writes it; the same is written once, also by another run of the agent.
    pub(super) async fn write(self, client: Client, node: &str) {
        let event = self.event(node);
        if !self.captured {
            condition::write(client.clone(), &self.of, Told::NotCaptured(self.note.clone())).await;
        }
        let api: Api<Event> = Api::namespaced(client, &self.of.namespace);
        let create = PostParams::default();
        match tokio::time::timeout(TIMEOUT, api.create(&create, &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {}
            Ok(Err(error)) => tracing::debug!(%error, pod = %self.of.name, "event not written"),
            Err(_) => tracing::debug!(pod = %self.of.name, "event not written in time"),
        }
    }

    fn event(&self, node: &str) -> Event {
        let mut hash = DefaultHasher::new();
        (&self.of.uid, &self.note).hash(&mut hash);
        let now = Time(Timestamp::now());
        let source =
            EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:016x}", self.of.name, hash.finish())),
                namespace: Some(self.of.namespace.to_string()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(self.of.namespace.to_string()),
                name: Some(self.of.name.to_string()),
                uid: Some(self.of.uid.to_string()),
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
