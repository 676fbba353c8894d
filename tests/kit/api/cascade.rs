//! What follows from a change: namespaces and definitions have contents, owners have dependents.

use std::sync::Arc;

use serde_json::{Value, json};

use super::clock;
use super::definition;
use super::error::ApiError;
use super::json::{at, list_at, object_mut, string_at};
use super::lifecycle::{DeleteOptions, Propagation};
use super::resource::{DEFINITIONS, Resource};
use super::selector::Selector;
use super::state::{Place, State};

/// The finalizer that keeps an owner until its dependents are gone.
const FOREGROUND: &str = "foregroundDeletion";

impl State {
    /// After a create: a namespace gets its account and its root certificate, a definition is served.
    pub(super) fn created(
        &mut self,
        place: &Place,
        object: Arc<Value>,
    ) -> Result<Arc<Value>, ApiError> {
        if place.resource.is("", "namespaces") {
            self.furnish(&place.name)?;
        }
        self.updated(place, object)
    }

    /// After an update: a definition is served as it is now.
    pub(super) fn updated(
        &mut self,
        place: &Place,
        object: Arc<Value>,
    ) -> Result<Arc<Value>, ApiError> {
        if !place.resource.is(DEFINITIONS.0, DEFINITIONS.1) {
            return Ok(object);
        }
        let resource = definition::resource_of(&place.resource, &object)?;
        if resource.versions.is_empty() {
            // Nothing of it is served; its objects stay where they are.
            self.registry.remove(&resource.key());
        } else {
            self.registry.put(resource);
        }
        if at(&object, &["status", "conditions"]).is_some() {
            return Ok(object);
        }
        let mut served = Value::clone(&object);
        served["status"] = definition::established(&object, &clock::now());
        Ok(self.put(place, served))
    }

    fn furnish(&mut self, namespace: &str) -> Result<(), ApiError> {
        let name_and_data = [
            ("serviceaccounts", json!({"kind": "ServiceAccount", "metadata": {"name": "default"}})),
            (
                "configmaps",
                json!({
                    "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"},
                    "data": {"ca.crt": self.ca_pem},
                }),
            ),
        ];
        for (plural, mut object) in name_and_data {
            if let Some(resource) = self.registry.get("", plural) {
                object["apiVersion"] = json!("v1");
                self.create(&resource, namespace, object)?;
            }
        }
        Ok(())
    }

    /// Ends an object: takes it away, then what depended on it.
    pub(super) fn end(&mut self, place: &Place) -> Option<Arc<Value>> {
        let last = self.take(place)?;
        if place.resource.is(DEFINITIONS.0, DEFINITIONS.1)
            && let Ok(resource) = definition::resource_of(&place.resource, &last)
        {
            self.forget(&resource.key());
        }
        for dependent in self.dependents(string_at(&last, &["metadata", "uid"])) {
            self.release_dependent(&dependent);
        }
        self.settle_owners(&last);
        self.settle_namespace(&place.namespace);
        Some(last)
    }

    /// Deletes a dependent if none of its owners is left.
    fn release_dependent(&mut self, dependent: &Place) {
        let Some(object) = self.find(dependent) else { return };
        let owners = list_at(&object, &["metadata", "ownerReferences"]);
        if owners.iter().any(|owner| self.uid_exists(string_at(owner, &["uid"]))) {
            return;
        }
        self.delete_quietly(dependent, &DeleteOptions::default());
    }

    fn uid_exists(&self, uid: &str) -> bool {
        self.everything().any(|(_, object)| string_at(object, &["metadata", "uid"]) == uid)
    }

    /// The only error of a delete without preconditions is that the object is gone, which is what is wanted.
    fn delete_quietly(&mut self, place: &Place, options: &DeleteOptions) {
        match self.delete(place, options) {
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "nothing to delete"),
        }
    }

    fn dependents(&self, uid: &str) -> Vec<Place> {
        let owned = |object: &Value| {
            let owners = list_at(object, &["metadata", "ownerReferences"]);
            owners.iter().any(|owner| string_at(owner, &["uid"]) == uid)
        };
        self.everything().filter(|(_, object)| owned(object)).map(|(place, _)| place).collect()
    }

    /// Does to the dependents what the delete of their owner asks for; `object` is the owner.
    pub(super) fn propagate(
        &mut self,
        place: &Place,
        object: &mut Value,
        propagation: Propagation,
    ) {
        let uid = string_at(object, &["metadata", "uid"]).to_owned();
        match propagation {
            Propagation::Background => {}
            Propagation::Orphan => {
                for dependent in self.dependents(&uid) {
                    self.orphan(&dependent, &uid);
                }
            }
            Propagation::Foreground => {
                let dependents = self.dependents(&uid);
                for dependent in &dependents {
                    let options = DeleteOptions { propagation, ..DeleteOptions::default() };
                    self.delete_quietly(dependent, &options);
                }
                if dependents.iter().any(|dependent| self.find(dependent).is_some()) {
                    tracing::debug!(name = place.name, "waits for its dependents");
                    let metadata = object_mut(object, "metadata");
                    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
                    if let Some(list) = finalizers.as_array_mut()
                        && !list.iter().any(|f| f == FOREGROUND)
                    {
                        list.push(json!(FOREGROUND));
                    }
                }
            }
        }
    }

    fn orphan(&mut self, place: &Place, uid: &str) {
        let Some(object) = self.find(place) else { return };
        let mut object = Value::clone(&object);
        if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
            owners.retain(|owner| string_at(owner, &["uid"]) != uid);
        }
        self.put(place, object);
    }

    /// Ends owners that only waited for this dependent.
    fn settle_owners(&mut self, last: &Value) {
        for owner in list_at(last, &["metadata", "ownerReferences"]) {
            let uid = string_at(owner, &["uid"]);
            let found = self
                .everything()
                .find(|(_, object)| string_at(object, &["metadata", "uid"]) == uid)
                .map(|(place, object)| (place, Arc::clone(object)));
            let Some((place, object)) = found else { continue };
            let waits = list_at(&object, &["metadata", "finalizers"]).contains(&json!(FOREGROUND));
            if !waits || !self.dependents(uid).is_empty() {
                continue;
            }
            let mut object = Value::clone(&object);
            if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
                list.retain(|f| f != FOREGROUND);
            }
            let free = list_at(&object, &["metadata", "finalizers"]).is_empty();
            self.put(&place, object);
            if free {
                self.end(&place);
            }
        }
    }

    /// Marks a namespace as terminating; the reaper empties it.
    pub(super) fn delete_namespace(&mut self, place: &Place, old: &Arc<Value>) -> Arc<Value> {
        if at(old, &["metadata", "deletionTimestamp"]).is_some() {
            return Arc::clone(old);
        }
        let mut object = Value::clone(old);
        object["metadata"]["deletionTimestamp"] = json!(clock::now());
        object_mut(&mut object, "status").insert("phase".to_owned(), json!("Terminating"));
        self.put(place, object)
    }

    /// Deletes all that is in a namespace; a terminating one goes when the last of it is gone.
    pub(super) fn empty(&mut self, namespace: &str) {
        let places = self.everything().map(|(place, _)| place);
        let contents: Vec<Place> = places.filter(|place| place.namespace == namespace).collect();
        for content in &contents {
            self.delete_quietly(content, &DeleteOptions::default());
        }
        self.settle_namespace(namespace);
    }

    /// Ends a terminating namespace that is empty.
    fn settle_namespace(&mut self, name: &str) {
        let Some(namespaces) = self.registry.get("", "namespaces") else { return };
        let place = Place::new(&namespaces, "", name);
        let Some(namespace) = self.find(&place) else { return };
        let terminating = at(&namespace, &["metadata", "deletionTimestamp"]).is_some();
        let held = !list_at(&namespace, &["metadata", "finalizers"]).is_empty();
        if terminating && !held && !self.everything().any(|(p, _)| p.namespace == name) {
            self.end(&place);
        }
    }

    /// Deletes every object of a definition's resource.
    pub(super) fn delete_instances(&mut self, definition: &Value) {
        let group = string_at(definition, &["spec", "group"]);
        let plural = string_at(definition, &["spec", "names", "plural"]);
        let Some(resource) = self.registry.get(group, plural) else { return };
        self.delete_matching(&resource, &Selector::default(), &DeleteOptions::default());
    }

    /// Deletes every object that matches; returns them.
    pub(super) fn delete_matching(
        &mut self,
        resource: &Arc<Resource>,
        selector: &Selector,
        options: &DeleteOptions,
    ) -> Vec<Arc<Value>> {
        let objects = self.list(resource, selector);
        for object in &objects {
            self.delete_quietly(&Place::of(resource, object), options);
        }
        objects
    }
}
