//! Tells a resource's author what is wrong with it: a log line, and an Event that
//! `kubectl describe` shows.

use kube::runtime::events::{Event, EventType, Recorder, Reporter as Controller};
use kube::{Client, api::ApiResource, api::DynamicObject, api::Resource as _};
use tokio::sync::mpsc;

use super::request;
use crate::sys::Shutdown;

/// Reports waiting to be written; more are dropped, their log lines stay.
const QUEUE: usize = 64;

/// Writes reports in the background. Clones share the queue.
#[derive(Clone)]
pub(super) struct Reporter {
    queue: mpsc::Sender<Report>,
}

struct Report {
    event: Event,
    about: k8s_openapi::api::core::v1::ObjectReference,
}

impl Reporter {
    /// A reporter whose task `shutdown` owns.
    pub(super) fn start(client: Client, shutdown: &Shutdown) -> Self {
        let (queue, reports) = mpsc::channel(QUEUE);
        let stop = shutdown.token.clone();
        shutdown.spawn(async move { stop.run_until_cancelled(write(client, reports)).await });
        Self { queue }
    }

    /// The resource cannot be understood.
    pub(super) fn invalid(&self, object: &DynamicObject, kind: &ApiResource, reason: &str) {
        let key = super::reduce::key(&object.metadata);
        tracing::warn!(kind = kind.kind, %key, reason, "not understood: the last good version stays in force");
        let note = format!("{reason}; the last good version, if any, stays in force");
        self.send(object, kind, EventType::Warning, "Invalid", note);
    }

    /// The resource does not do all that it says.
    pub(super) fn note(&self, object: &DynamicObject, kind: &ApiResource, note: &str) {
        let key = super::reduce::key(&object.metadata);
        tracing::warn!(kind = kind.kind, %key, note, "does not do all it says");
        self.send(object, kind, EventType::Warning, "NotFullyEnforced", note.to_owned());
    }

    fn send(
        &self,
        object: &DynamicObject,
        kind: &ApiResource,
        type_: EventType,
        reason: &str,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Convert".to_owned(),
            secondary: None,
        };
        let report = Report { event, about: object.object_ref(kind) };
        if self.queue.try_send(report).is_err() {
            tracing::debug!("event dropped: too many are waiting");
        }
    }
}

async fn write(client: Client, mut reports: mpsc::Receiver<Report>) {
    let controller = Controller { controller: "sotto-control-plane".to_owned(), instance: None };
    let recorder = Recorder::new(client, controller);
    while let Some(Report { event, about }) = reports.recv().await {
        if let Err(error) = request(recorder.publish(&event, &about)).await {
            tracing::debug!(%error, "event not written");
        }
    }
}
