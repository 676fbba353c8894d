//! Following changes: a cursor into a resource's history. Nothing is queued per watcher but what it just read.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::error::ApiError;
use super::resource::Resource;
use super::selector::Selector;
use super::state::{Change, State};
use super::store::Store;

/// One event of a watch.
#[derive(Debug, Clone)]
pub enum Event {
    /// The object is there, or now matches.
    Added(Arc<Value>),
    /// The object is another now.
    Modified(Arc<Value>),
    /// The object is gone, or no longer matches; as it was last.
    Deleted(Arc<Value>),
    /// All that existed when the watch started has been told.
    Synced,
}

/// Follows the objects of one resource that match a selector.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    resource: Arc<Resource>,
    selector: Selector,
    cursor: u64,
    pending: VecDeque<Event>,
    revisions: watch::Receiver<u64>,
}

impl Watch {
    /// From what exists now.
    pub(super) fn from_now(store: &Store, resource: Arc<Resource>, selector: Selector) -> Self {
        let mut this = Self::from_revision(store, resource, selector, 0);
        let (cursor, objects) =
            store.with(|state| (state.revision, state.list(&this.resource, &this.selector)));
        this.cursor = cursor;
        this.pending = objects.into_iter().map(Event::Added).collect();
        this.pending.push_back(Event::Synced);
        this
    }

    /// Only changes after a revision.
    pub(super) fn from_revision(
        store: &Store,
        resource: Arc<Resource>,
        selector: Selector,
        cursor: u64,
    ) -> Self {
        let revisions = store.revisions();
        let (store, pending) = (store.clone(), VecDeque::new());
        Self { store, resource, selector, cursor, pending, revisions }
    }

    /// Everything up to this revision has been told, if nothing is pending.
    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next event.
    ///
    /// # Errors
    /// `Expired` if the watch fell too far behind; `NotFound` when the resource itself is gone.
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Event, ApiError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            self.revisions.borrow_and_update();
            let (store, resource, cursor) = (self.store.clone(), &self.resource, self.cursor);
            let (revision, changes) = store.with(|state| read(state, resource, cursor))?;
            self.cursor = revision;
            let events = changes.iter().filter_map(|change| self.event(change));
            self.pending = events.collect();
            if self.pending.is_empty() && self.revisions.changed().await.is_err() {
                return Err(ApiError::internal("the store is gone"));
            }
        }
    }

    /// What a change means to this watch.
    fn event(&self, change: &Change) -> Option<Event> {
        let matches = |object: &&Arc<Value>| self.selector.matches(object);
        let before = change.before.as_ref().filter(matches);
        let after = change.after.as_ref().filter(matches);
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some(Event::Added(Arc::clone(after))),
            (Some(_), Some(after)) => Some(Event::Modified(Arc::clone(after))),
            (Some(before), None) => {
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = json!(change.revision.to_string());
                Some(Event::Deleted(Arc::new(last)))
            }
        }
    }
}

fn read(state: &State, resource: &Resource, cursor: u64) -> Result<(u64, Vec<Change>), ApiError> {
    if state.registry.get(&resource.group, &resource.plural).is_none() {
        return Err(ApiError::no_such_path());
    }
    Ok((state.revision, state.changes(resource, cursor)?))
}
