//! Statuses on their way to the API server: one task, the newest per object, retried.
//!
//! A patch names the version of the object that it was made from. Refused for that (409), it is
//! dropped: the newer version comes by the watch and is judged anew. So replicas never overwrite
//! what they have not seen. What was once written for a version of a resource is not written
//! again: two releases that word a condition differently do not fight over it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::spawn::spawn;
use super::{ApiError, request};
use crate::control_plane::conditions::Condition;
use crate::control_plane::model::ObjectKey;
use crate::sys::Shutdown;

/// Objects remembered; of more, those with nothing to write are forgotten, then none is added.
const OBJECTS: usize = 16_384;
/// Writes at a time.
const WRITES: usize = 4;
/// How soon a failed write is tried again, doubled every time...
const RETRY: Duration = Duration::from_secs(1);
/// ...up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Tries before it is given up until the object changes.
const TRIES: u32 = 8;
/// Who owns the fields, as the API server shows it.
const MANAGER: &str = "sotto-control-plane";

/// An object whose status is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// Plural of its kind.
    pub(super) plural: String,
    /// Namespace and name.
    pub(super) key: ObjectKey,
}

/// What a status is to say of one version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// The object's UID: one that is made anew is another.
    pub(super) uid: String,
    /// The generation that was judged.
    pub(super) generation: Option<i64>,
    /// The judgement.
    pub(super) conditions: Vec<Condition>,
}

/// A write that is due some time.
#[derive(Debug, Clone)]
pub(super) struct Write {
    /// The kind, in the version it was read in.
    pub(super) kind: ApiResource,
    /// A merge patch of the status.
    pub(super) patch: Value,
}

/// Takes statuses to be written. Clones share the queue.
#[derive(Clone)]
pub(super) struct Statuses {
    shared: Arc<Shared>,
}

struct Shared {
    book: Mutex<Book>,
    more: Notify,
}

impl Statuses {
    /// A writer whose task `shutdown` owns.
    pub(super) fn start(client: Client, shutdown: &Shutdown) -> Self {
        let shared = Arc::new(Shared { book: Mutex::default(), more: Notify::new() });
        spawn(shutdown, write_all(client, shared.clone()));
        Self { shared }
    }

    /// Has a status written; whether that is news, and not asked for before.
    pub(super) fn want(&self, target: Target, content: Content, write: Write) -> bool {
        let wanted = self.shared.book.lock().want(target, content, write, Instant::now());
        self.shared.more.notify_one();
        wanted
    }

    /// An object's status says what it should: nothing is to be written.
    pub(super) fn settle(&self, target: &Target) {
        self.shared.book.lock().waiting.remove(target);
    }
}

async fn write_all(client: Client, shared: Arc<Shared>) {
    loop {
        let (due, next) = {
            let mut book = shared.book.lock();
            (book.due(Instant::now()), book.next())
        };
        if due.is_empty() {
            let timer = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            // Both branches are cancel-safe.
            tokio::select! {
                () = shared.more.notified() => {}
                () = timer => {}
            }
            continue;
        }
        let writes = due.into_iter().map(|(target, waiting)| {
            let client = client.clone();
            async move {
                let result = write(client, &target, &waiting.write).await;
                (target, waiting, result)
            }
        });
        let mut results = futures::stream::iter(writes).buffer_unordered(WRITES);
        while let Some((target, waiting, result)) = results.next().await {
            let outcome = outcome(&target, &waiting, result);
            shared.book.lock().ended(target, waiting, outcome, Instant::now());
        }
    }
}

async fn write(client: Client, target: &Target, write: &Write) -> Result<(), ApiError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, &target.key.namespace, &write.kind);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(&write.patch);
    request(api.patch_status(&target.key.name, &params, &patch)).await.map(drop)
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    /// The object is gone or has changed: if there is more to say, the watch will bring it.
    Overtaken,
    Failed,
    /// It will not do better the next time.
    GivenUp,
}

fn outcome(target: &Target, waiting: &Waiting, result: Result<(), ApiError>) -> Outcome {
    let (plural, key) = (&target.plural, &target.key);
    match result {
        Ok(()) => Outcome::Written,
        Err(error) if matches!(error.code(), Some(404 | 409)) => {
            tracing::debug!(plural, %key, %error, "status not written");
            Outcome::Overtaken
        }
        Err(error) if waiting.tries + 1 >= TRIES || error.code() == Some(422) => {
            tracing::warn!(plural, %key, %error, "status not written, given up until it changes");
            Outcome::GivenUp
        }
        Err(error) => {
            tracing::debug!(plural, %key, %error, "status not written, will be tried again");
            Outcome::Failed
        }
    }
}

/// A write and its past.
#[derive(Debug, Clone)]
struct Waiting {
    write: Write,
    content: Content,
    due: Instant,
    tries: u32,
}

/// What was asked for.
#[derive(Debug, Clone)]
struct Asked {
    content: Content,
    written: bool,
}

/// What is to be written, and what was.
#[derive(Debug, Default)]
struct Book {
    waiting: BTreeMap<Target, Waiting>,
    asked: BTreeMap<Target, Asked>,
}

impl Book {
    fn want(&mut self, target: Target, content: Content, write: Write, now: Instant) -> bool {
        let same = self.asked.get(&target).filter(|asked| asked.content == content);
        if same.is_some_and(|asked| asked.written) {
            return false;
        }
        let news = same.is_none();
        if news && !self.make_room(&target) {
            tracing::debug!(key = %target.key, "status not written: too many are waiting");
            return true;
        }
        self.asked.insert(target.clone(), Asked { content: content.clone(), written: false });
        self.waiting.insert(target, Waiting { write, content, due: now, tries: 0 });
        news
    }

    fn make_room(&mut self, target: &Target) -> bool {
        if self.asked.len() >= OBJECTS && !self.asked.contains_key(target) {
            let waiting = &self.waiting;
            self.asked.retain(|target, _| waiting.contains_key(target));
        }
        self.asked.len() < OBJECTS || self.asked.contains_key(target)
    }

    /// Takes out the next few writes that are due.
    fn due(&mut self, now: Instant) -> Vec<(Target, Waiting)> {
        let due = self.waiting.iter().filter(|(_, waiting)| waiting.due <= now);
        let due: Vec<Target> = due.map(|(target, _)| target.clone()).take(4 * WRITES).collect();
        due.into_iter().filter_map(|target| self.waiting.remove_entry(&target)).collect()
    }

    /// When the next write is due.
    fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.due).min()
    }

    fn ended(&mut self, target: Target, waiting: Waiting, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Written => {
                let asked = self.asked.get_mut(&target);
                if let Some(asked) = asked.filter(|asked| asked.content == waiting.content) {
                    asked.written = true;
                }
            }
            Outcome::Overtaken | Outcome::GivenUp => {}
            // A newer one goes first.
            Outcome::Failed => {
                let wait = RETRY.saturating_mul(1 << waiting.tries.min(6)).min(LONGEST_RETRY);
                let tries = waiting.tries + 1;
                let again = Waiting { due: now + wait, tries, ..waiting };
                self.waiting.entry(target).or_insert(again);
            }
        }
    }
}

#[cfg(test)]
mod tests;
