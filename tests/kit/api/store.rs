//! The handle to the objects: what the kit's own controllers and the HTTP side share.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use super::admission;
use super::error::ApiError;
use super::json::string_at;
use super::lifecycle::{DeleteOptions, Part};
use super::patch;
use super::resource::Resource;
use super::selector::Selector;
use super::state::{Place, State};
use super::typed::Typed;
use super::watch::Watch;

/// A handle to all objects; clones share them.
///
/// Resources are named as `pods` or `deployments.apps`. Objects are JSON in the resource's preferred version; what
/// is stored is checked as over HTTP, unknown fields are refused.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

impl Store {
    pub(super) fn new(state: State) -> Self {
        let revision = watch::Sender::new(state.revision);
        Self(Arc::new(Inner { state: Mutex::new(state), revision }))
    }

    /// Runs under the lock, then wakes watches if something changed.
    pub(super) fn with<T>(&self, run: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.state.lock();
        let before = state.revision;
        let result = run(&mut state);
        let after = state.revision;
        drop(state);
        if before != after {
            self.0.revision.send_replace(after);
        }
        result
    }

    /// Runs under the lock on a copy that is then thrown away.
    pub(super) fn dry<T>(&self, run: impl FnOnce(&mut State) -> T) -> T {
        let mut copy = self.0.state.lock().clone();
        run(&mut copy)
    }

    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        *self.0.revision.borrow()
    }

    /// The resource with that name.
    ///
    /// # Errors
    /// `NotFound` if nothing serves it (yet).
    pub fn resource(&self, name: &str) -> Result<Arc<Resource>, ApiError> {
        self.with(|state| state.registry.find(name)).ok_or_else(ApiError::no_such_path)
    }

    fn place(&self, resource: &str, namespace: &str, name: &str) -> Result<Place, ApiError> {
        Ok(Place::new(&self.resource(resource)?, namespace, name))
    }

    fn place_of(&self, object: &Value) -> Result<Place, ApiError> {
        let (api_version, kind) =
            (string_at(object, &["apiVersion"]), string_at(object, &["kind"]));
        let resource = self.with(|state| state.registry.of_kind(api_version, kind));
        let resource = resource.ok_or_else(|| {
            ApiError::bad_request(format!("no resource for {kind:?} in {api_version:?}"))
        })?;
        Ok(Place::of(&resource, object))
    }

    /// Creates an object; its `apiVersion` and `kind` say what it is.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid`, `NotFound` for its namespace, `BadRequest`.
    pub fn create(&self, object: Value) -> Result<Arc<Value>, ApiError> {
        let place = self.place_of(&object)?;
        let object = admission::admit(&place.resource, object)?.strict(&place.resource)?;
        self.with(|state| state.create(&place.resource, &place.namespace, object))
    }

    /// Creates an object, or replaces the one of that name (its status apart).
    ///
    /// # Errors
    /// As of [`create`](Self::create) and [`update`](Self::update).
    pub fn apply(&self, object: Value) -> Result<Arc<Value>, ApiError> {
        match self.create(object.clone()) {
            Err(error) if error.reason == "AlreadyExists" => self.update(object),
            result => result,
        }
    }

    /// Replaces an object but for its status.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if it carries a stale `resourceVersion`, `Invalid`, `BadRequest`.
    pub fn update(&self, object: Value) -> Result<Arc<Value>, ApiError> {
        self.replace(object, Part::Main)
    }

    /// Replaces the status of an object (and, for built-in types, its annotations).
    ///
    /// # Errors
    /// As of [`update`](Self::update).
    pub fn update_status(&self, object: Value) -> Result<Arc<Value>, ApiError> {
        self.replace(object, Part::Status)
    }

    fn replace(&self, object: Value, part: Part) -> Result<Arc<Value>, ApiError> {
        let place = self.place_of(&object)?;
        let object = admission::admit(&place.resource, object)?.strict(&place.resource)?;
        self.with(|state| state.update(&place, part, object))
    }

    /// Applies a JSON merge patch to an object (not its status).
    ///
    /// # Errors
    /// As of [`update`](Self::update).
    pub fn patch(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.merge(&self.place(resource, namespace, name)?, Part::Main, patch)
    }

    /// Applies a JSON merge patch, given from the object's root, to the status of an object.
    ///
    /// # Errors
    /// As of [`update`](Self::update).
    pub fn patch_status(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.merge(&self.place(resource, namespace, name)?, Part::Status, patch)
    }

    fn merge(&self, place: &Place, part: Part, patch: &Value) -> Result<Arc<Value>, ApiError> {
        self.with(|state| {
            let mut object = Value::clone(&*state.get(place)?);
            patch::merge(&mut object, patch);
            let object = admission::admit(&place.resource, object)?.strict(&place.resource)?;
            state.update(place, part, object)
        })
    }

    /// An object; the namespace of cluster-scoped ones is ignored.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        let place = self.place(resource, namespace, name)?;
        self.with(|state| state.get(&place))
    }

    /// Objects of a namespace (empty: of all) with labels as `app=web` (empty: any).
    ///
    /// # Errors
    /// `NotFound` for the resource, `BadRequest` for the selector.
    pub fn list(
        &self,
        resource: &str,
        namespace: &str,
        labels: &str,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let resource = self.resource(resource)?;
        let selector = Selector::namespace(namespace).labels(labels)?;
        Ok(self.with(|state| state.list(&resource, &selector)))
    }

    /// Starts, or with [`DeleteOptions::now`] finishes, the end of an object. Returns whether it is gone.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if a precondition does not hold.
    pub fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<bool, ApiError> {
        let place = self.place(resource, namespace, name)?;
        self.with(|state| state.delete(&place, options)).map(|(_, gone)| gone)
    }

    /// Follows the objects of a namespace (empty: of all): first those that exist, then every change.
    ///
    /// # Errors
    /// `NotFound` for the resource.
    pub fn watch(&self, resource: &str, namespace: &str) -> Result<Watch, ApiError> {
        let resource = self.resource(resource)?;
        Ok(Watch::from_now(self, resource, Selector::namespace(namespace)))
    }

    /// The objects of one type of `k8s_openapi`.
    pub fn typed<T>(&self) -> Typed<T>
    where
        T: k8s_openapi::Resource + k8s_openapi::Metadata + Serialize + DeserializeOwned,
    {
        Typed::new(self.clone())
    }
}
