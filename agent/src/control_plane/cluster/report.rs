//! Tells a resource's author what came of it: its status, and if it does not do all that it says,
//! once, a log line and an Event that `kubectl describe` shows.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, PostParams, Resource as _};
use serde_json::json;
use tokio::sync::mpsc;

use super::request;
use super::spawn::spawn;
use super::statuses::{Content, Statuses, Target, Write};
use crate::control_plane::conditions::{self, Condition};
use crate::sys::Shutdown;

/// Reports waiting to be written; more are dropped, their log lines stay.
const QUEUE: usize = 64;
/// The longest message of an Event that the API server takes, in bytes.
const MESSAGE: usize = 1024;
const COMPONENT: &str = "sotto-control-plane";

/// What came of a resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// For its status.
    pub(super) conditions: Vec<Condition>,
    /// For Events; none when it does all that it says.
    pub(super) warnings: Vec<Warning>,
}

/// What an author should know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Warning {
    /// One word, in camel case.
    pub(super) reason: &'static str,
    /// A sentence.
    pub(super) note: String,
}

impl Told {
    /// Of a resource that does not do all that it says.
    pub(super) fn with_notes(conditions: Vec<Condition>, notes: Vec<String>) -> Self {
        let warning = |note| Warning { reason: "NotFullyEnforced", note };
        Self { conditions, warnings: notes.into_iter().map(warning).collect() }
    }

    /// Of a resource that cannot be read.
    pub(super) fn invalid(conditions: Vec<Condition>) -> Self {
        let note = conditions.first().map(|condition| condition.message.clone());
        let warning = |note| Warning { reason: "Invalid", note };
        Self { conditions, warnings: note.into_iter().map(warning).collect() }
    }
}

/// Writes statuses and Events in the background. Clones share the queues.
#[derive(Clone)]
pub(super) struct Reporter {
    events: mpsc::Sender<Event>,
    statuses: Statuses,
}

impl Reporter {
    /// A reporter whose tasks `shutdown` owns.
    pub(super) fn start(client: Client, shutdown: &Shutdown) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let statuses = Statuses::start(client.clone(), shutdown);
        spawn(shutdown, write(client, events));
        Self { events: queue, statuses }
    }

    /// Tells what came of a resource, unless its status says so already.
    pub(super) fn tell(&self, object: &DynamicObject, kind: &ApiResource, told: Told) {
        let target = target(object, kind);
        let metadata = &object.metadata;
        let present = &object.data["status"]["conditions"];
        let now = Timestamp::now().to_string();
        let list = conditions::updated(present, metadata.generation, &told.conditions, &now);
        let Some(list) = list else {
            self.statuses.settle(&target);
            return;
        };
        let patch = json!({
            "metadata": { "resourceVersion": metadata.resource_version },
            "status": { "conditions": list },
        });
        let content = Content {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation,
            conditions: told.conditions,
        };
        if self.statuses.want(target, content, Write { kind: kind.clone(), patch }) {
            for warning in told.warnings {
                self.warn(object.object_ref(kind), warning);
            }
        }
    }

    /// Writes an Event and a line of the log.
    pub(super) fn warn(&self, about: ObjectReference, warning: Warning) {
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        let key = format!("{}/{}", name(&about.namespace), name(&about.name));
        let Warning { reason, note } = warning;
        tracing::warn!(kind = name(&about.kind), key, reason, note, "told its author");
        if self.events.try_send(event(about, reason, note)).is_err() {
            tracing::debug!("event dropped: too many are waiting");
        }
    }
}

fn target(object: &DynamicObject, kind: &ApiResource) -> Target {
    Target { plural: kind.plural.clone(), key: super::reduce::key(&object.metadata) }
}

/// A Warning about an object, in its namespace.
fn event(about: ObjectReference, reason: &str, note: String) -> Event {
    let now = Timestamp::now();
    let name = about.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: about,
        type_: Some("Warning".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(conditions::clipped(&note, MESSAGE)),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

/// Writes an Event of an object that is not watched, now.
pub(super) async fn write_warning(
    client: &Client,
    about: ObjectReference,
    reason: &str,
    note: &str,
) {
    send(client, &event(about, reason, note.to_owned())).await;
}

async fn write(client: Client, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        send(&client, &event).await;
    }
}

async fn send(client: &Client, event: &Event) {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = request(api.create(&PostParams::default(), event)).await {
        tracing::debug!(%error, "event not written");
    }
}
