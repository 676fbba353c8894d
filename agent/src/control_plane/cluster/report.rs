//! Tells a resource's author what is wrong with it: a log line, and an Event that
//! `kubectl describe` shows.

use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, PostParams, Resource as _};
use tokio::sync::mpsc;

use super::request;
use crate::sys::Shutdown;

/// Reports waiting to be written; more are dropped, their log lines stay.
const QUEUE: usize = 64;
const COMPONENT: &str = "sotto-control-plane";

/// Writes reports in the background. Clones share the queue.
#[derive(Clone)]
pub(super) struct Reporter {
    queue: mpsc::Sender<Event>,
}

impl Reporter {
    /// A reporter whose task `shutdown` owns.
    pub(super) fn start(client: Client, shutdown: &Shutdown) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let stop = shutdown.token.clone();
        shutdown.spawn(async move { stop.run_until_cancelled(write(client, events)).await });
        Self { queue }
    }

    /// The resource cannot be understood.
    pub(super) fn invalid(&self, object: &DynamicObject, kind: &ApiResource, reason: &str) {
        let key = super::reduce::key(&object.metadata);
        tracing::warn!(kind = kind.kind, %key, reason, "not understood: the last good version stays in force");
        let note = format!("{reason}; the last good version, if any, stays in force");
        self.send(object, kind, "Invalid", note);
    }

    /// The resource does not do all that it says.
    pub(super) fn note(&self, object: &DynamicObject, kind: &ApiResource, note: &str) {
        let key = super::reduce::key(&object.metadata);
        tracing::warn!(kind = kind.kind, %key, note, "does not do all it says");
        self.send(object, kind, "NotFullyEnforced", note.to_owned());
    }

    fn send(&self, object: &DynamicObject, kind: &ApiResource, reason: &str, note: String) {
        if self.queue.try_send(warning(object, kind, reason, note)).is_err() {
            tracing::debug!("event dropped: too many are waiting");
        }
    }
}

/// A Warning about `object`, in its namespace.
fn warning(object: &DynamicObject, kind: &ApiResource, reason: &str, note: String) -> Event {
    let about = object.object_ref(kind);
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
        message: Some(note),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

async fn write(client: Client, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        if let Err(error) = request(api.create(&PostParams::default(), &event)).await {
            tracing::debug!(%error, "event not written");
        }
    }
}
