//! The store for one type of `k8s_openapi`.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;
use super::lifecycle::DeleteOptions;
use super::store::Store;
use super::watch::{Event, Watch};

/// Objects of one type.
#[derive(Debug, Clone)]
pub struct Typed<T> {
    store: Store,
    resource: String,
    objects: PhantomData<fn() -> T>,
}

/// One event of a typed watch.
#[derive(Debug, Clone)]
pub enum TypedEvent<T> {
    /// The object is there.
    Added(T),
    /// The object is another now.
    Modified(T),
    /// The object is gone; as it was last.
    Deleted(T),
    /// All that existed when the watch started has been told.
    Synced,
}

/// Follows objects of one type.
#[derive(Debug)]
pub struct TypedWatch<T> {
    watch: Watch,
    objects: PhantomData<fn() -> T>,
}

impl<T> Typed<T>
where
    T: k8s_openapi::Resource + Serialize + DeserializeOwned,
{
    pub(super) fn new(store: Store) -> Self {
        let resource = match T::GROUP {
            "" => T::URL_PATH_SEGMENT.to_owned(),
            group => format!("{}.{group}", T::URL_PATH_SEGMENT),
        };
        Self { store, resource, objects: PhantomData }
    }

    /// Creates an object.
    ///
    /// # Errors
    /// As of [`Store::create`].
    pub fn create(&self, object: &T) -> Result<T, ApiError> {
        decode(&*self.store.create(encode(object)?)?)
    }

    /// Creates an object, or replaces the one of that name.
    ///
    /// # Errors
    /// As of [`Store::apply`].
    pub fn apply(&self, object: &T) -> Result<T, ApiError> {
        decode(&*self.store.apply(encode(object)?)?)
    }

    /// Replaces an object but for its status.
    ///
    /// # Errors
    /// As of [`Store::update`].
    pub fn update(&self, object: &T) -> Result<T, ApiError> {
        decode(&*self.store.update(encode(object)?)?)
    }

    /// Replaces the status of an object.
    ///
    /// # Errors
    /// As of [`Store::update_status`].
    pub fn update_status(&self, object: &T) -> Result<T, ApiError> {
        decode(&*self.store.update_status(encode(object)?)?)
    }

    /// Applies a JSON merge patch.
    ///
    /// # Errors
    /// As of [`Store::patch`].
    pub fn patch(&self, namespace: &str, name: &str, patch: &Value) -> Result<T, ApiError> {
        decode(&*self.store.patch(&self.resource, namespace, name, patch)?)
    }

    /// Applies a JSON merge patch to the status.
    ///
    /// # Errors
    /// As of [`Store::patch_status`].
    pub fn patch_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<T, ApiError> {
        decode(&*self.store.patch_status(&self.resource, namespace, name, patch)?)
    }

    /// An object.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, namespace: &str, name: &str) -> Result<T, ApiError> {
        decode(&*self.store.get(&self.resource, namespace, name)?)
    }

    /// Objects of a namespace (empty: of all) with labels as `app=web` (empty: any).
    ///
    /// # Errors
    /// `BadRequest` for the selector.
    pub fn list(&self, namespace: &str, labels: &str) -> Result<Vec<T>, ApiError> {
        let objects = self.store.list(&self.resource, namespace, labels)?;
        objects.iter().map(|object| decode(object)).collect()
    }

    /// Starts, or finishes, the end of an object. Returns whether it is gone.
    ///
    /// # Errors
    /// As of [`Store::delete`].
    pub fn delete(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<bool, ApiError> {
        self.store.delete(&self.resource, namespace, name, options)
    }

    /// Follows the objects of a namespace (empty: of all).
    ///
    /// # Errors
    /// As of [`Store::watch`].
    pub fn watch(&self, namespace: &str) -> Result<TypedWatch<T>, ApiError> {
        let watch = self.store.watch(&self.resource, namespace)?;
        Ok(TypedWatch { watch, objects: PhantomData })
    }
}

impl<T: DeserializeOwned> TypedWatch<T> {
    /// The next event.
    ///
    /// # Errors
    /// As of [`Watch::next`].
    ///
    /// # Cancel safety
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<TypedEvent<T>, ApiError> {
        Ok(match self.watch.next().await? {
            Event::Added(object) => TypedEvent::Added(decode(&object)?),
            Event::Modified(object) => TypedEvent::Modified(decode(&object)?),
            Event::Deleted(object) => TypedEvent::Deleted(decode(&object)?),
            Event::Synced => TypedEvent::Synced,
        })
    }
}

fn encode<T: Serialize>(object: &T) -> Result<Value, ApiError> {
    serde_json::to_value(object).map_err(|error| ApiError::bad_request(error.to_string()))
}

fn decode<T: DeserializeOwned>(object: &Value) -> Result<T, ApiError> {
    T::deserialize(object).map_err(|error| ApiError::internal(error.to_string()))
}
