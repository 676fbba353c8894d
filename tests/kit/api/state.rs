//! All objects, under one lock: collections by resource, each with a bounded history of changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::error::ApiError;
use super::json::{object_mut, string_at};
use super::resource::{Registry, Resource, ResourceKey};
use super::selector::Selector;

/// Changes kept per resource; a watch that is further behind is told `410 Gone` and lists again.
const HISTORY: usize = 4096;

/// What the API server knows.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// The revision of the newest change, all resources together.
    pub revision: u64,
    /// Which resources exist.
    pub registry: Registry,
    /// Where Service addresses come from.
    pub service_cidr: Ipv4Net,
    /// Put into `kube-root-ca.crt` of each namespace.
    pub ca_pem: String,
    collections: HashMap<ResourceKey, Collection>,
}

#[derive(Debug, Clone, Default)]
struct Collection {
    objects: BTreeMap<(String, String), Arc<Value>>,
    history: VecDeque<Change>,
    /// Revision of the newest change that is no longer kept.
    dropped: u64,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Its revision.
    pub revision: u64,
    /// The object before, none if it is new.
    pub before: Option<Arc<Value>>,
    /// The object after, none if it is gone.
    pub after: Option<Arc<Value>>,
}

/// Where an object is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its resource.
    pub resource: Arc<Resource>,
    /// Empty for cluster-scoped resources.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// A place by its parts.
    pub(super) fn new(resource: &Arc<Resource>, namespace: &str, name: &str) -> Self {
        let namespace = if resource.namespaced { namespace } else { "" };
        Self {
            resource: Arc::clone(resource),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Where an object says it is.
    pub(super) fn of(resource: &Arc<Resource>, object: &Value) -> Self {
        let namespace = string_at(object, &["metadata", "namespace"]);
        Self::new(resource, namespace, string_at(object, &["metadata", "name"]))
    }
}

impl State {
    /// Nothing but the built-in resources.
    pub(super) fn new(service_cidr: Ipv4Net, ca_pem: String) -> Self {
        Self {
            revision: 1,
            registry: Registry::built_in(),
            service_cidr,
            ca_pem,
            collections: HashMap::new(),
        }
    }

    /// The object at a place.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn get(&self, place: &Place) -> Result<Arc<Value>, ApiError> {
        self.find(place).ok_or_else(|| ApiError::not_found(&place.resource, &place.name))
    }

    /// The object at a place, if there is one.
    pub(super) fn find(&self, place: &Place) -> Option<Arc<Value>> {
        let collection = self.collections.get(&place.resource.key())?;
        collection.objects.get(&(place.namespace.clone(), place.name.clone())).cloned()
    }

    /// Objects that match, ordered by namespace and name.
    pub(super) fn list(&self, resource: &Resource, selector: &Selector) -> Vec<Arc<Value>> {
        let Some(collection) = self.collections.get(&resource.key()) else { return Vec::new() };
        collection.objects.values().filter(|o| selector.matches(o)).cloned().collect()
    }

    /// All objects of all resources, with their places.
    pub(super) fn everything(&self) -> impl Iterator<Item = (Place, &Arc<Value>)> {
        self.registry.iter().flat_map(|resource| {
            let objects = self.collections.get(&resource.key()).map(|c| c.objects.values());
            objects.into_iter().flatten().map(|object| (Place::of(resource, object), object))
        })
    }

    /// Stores an object and records the change.
    pub(super) fn put(&mut self, place: &Place, mut object: Value) -> Arc<Value> {
        self.stamp(&mut object);
        let object = Arc::new(object);
        let revision = self.revision;
        let collection = self.collections.entry(place.resource.key()).or_default();
        let key = (place.namespace.clone(), place.name.clone());
        let before = collection.objects.insert(key, Arc::clone(&object));
        collection.record(Change { revision, before, after: Some(Arc::clone(&object)) });
        object
    }

    /// Takes an object away and records the change; returns it as it was, with the revision of its end.
    pub(super) fn take(&mut self, place: &Place) -> Option<Arc<Value>> {
        let collection = self.collections.get_mut(&place.resource.key())?;
        let key = (place.namespace.clone(), place.name.clone());
        let mut last = Value::clone(&*collection.objects.remove(&key)?);
        self.stamp(&mut last);
        let last = Arc::new(last);
        let change =
            Change { revision: self.revision, before: Some(Arc::clone(&last)), after: None };
        self.collections.entry(place.resource.key()).or_default().record(change);
        Some(last)
    }

    fn stamp(&mut self, object: &mut Value) {
        self.revision += 1;
        let version = json!(self.revision.to_string());
        object_mut(object, "metadata").insert("resourceVersion".to_owned(), version);
    }

    /// Changes of a resource after a revision.
    ///
    /// # Errors
    /// `Expired` if some of them are no longer kept.
    pub(super) fn changes(&self, resource: &Resource, after: u64) -> Result<Vec<Change>, ApiError> {
        let Some(collection) = self.collections.get(&resource.key()) else {
            return Ok(Vec::new());
        };
        if after < collection.dropped {
            return Err(ApiError::expired(collection.dropped, after));
        }
        let start = collection.history.partition_point(|change| change.revision <= after);
        Ok(collection.history.range(start..).cloned().collect())
    }

    /// Forgets a resource whose definition is gone.
    pub(super) fn forget(&mut self, key: &ResourceKey) {
        self.collections.remove(key);
        self.registry.remove(key);
    }
}

impl Collection {
    fn record(&mut self, change: Change) {
        if self.history.len() == HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.dropped = oldest.revision;
        }
        self.history.push_back(change);
    }
}
