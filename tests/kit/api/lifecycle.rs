//! The life of an object: create, update, delete, with what a real API server does on the way.

use std::sync::Arc;

use serde_json::{Value, json};

use super::clock;
use super::defaults;
use super::definition;
use super::error::{ApiError, FieldError};
use super::json::{as_object_mut, at, list_at, number_at, object_mut, string_at};
use super::names;
use super::resource::{DEFINITIONS, Resource};
use super::state::{Place, State};
use super::validate;

/// Which part of an object an update is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All but the status, if that is a subresource.
    Main,
    /// The status (and, for built-in types, annotations).
    Status,
}

/// How a delete goes about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds a pod gets to stop; none means what the pod asks for.
    pub grace: Option<i64>,
    /// What happens to what the object owns.
    pub propagation: Propagation,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object has this resource version.
    pub resource_version: Option<String>,
}

/// What happens to the objects that name a deleted one as their owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    #[default]
    Background,
    /// They go before it.
    Foreground,
    /// They stay, without owner.
    Orphan,
}

impl DeleteOptions {
    /// At once, as a kubelet says when a pod's processes are gone.
    pub fn now() -> Self {
        Self { grace: Some(0), ..Self::default() }
    }
}

impl State {
    /// Creates an object in a namespace.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid`, `NotFound` or `Forbidden` for the namespace, `BadRequest`.
    pub(super) fn create(
        &mut self,
        resource: &Arc<Resource>,
        namespace: &str,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let (place, object) = self.prepare(resource, namespace, object)?;
        self.commit(&place, object)
    }

    /// The object that [`create`](Self::create) would store, and where.
    ///
    /// # Errors
    /// As of `create`.
    pub(super) fn prepare(
        &self,
        resource: &Arc<Resource>,
        namespace: &str,
        mut object: Value,
    ) -> Result<(Place, Value), ApiError> {
        names::settle(resource, namespace, &mut object)?;
        let place = Place::of(resource, &object);
        if self.find(&place).is_some() {
            return Err(ApiError::already_exists(resource, &place.name));
        }
        self.check_namespace(&place)?;
        let keeps_status = resource.is("", "nodes") || resource.is("", "namespaces");
        if resource.status && !keeps_status {
            as_object_mut(&mut object).remove("status");
        }
        let metadata = object_mut(&mut object, "metadata");
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"] {
            metadata.remove(field);
        }
        metadata.insert("uid".to_owned(), json!(names::uid()));
        metadata.insert("creationTimestamp".to_owned(), json!(clock::now()));
        if has_generation(resource) {
            metadata.insert("generation".to_owned(), json!(1));
        }
        defaults::fill(resource, &mut object);
        self.assign_service_address(resource, &mut object)?;
        self.check(&place, &object, None)?;
        Ok((place, object))
    }

    /// Stores what [`prepare`](Self::prepare) made.
    ///
    /// # Errors
    /// What follows from it fails.
    pub(super) fn commit(&mut self, place: &Place, object: Value) -> Result<Arc<Value>, ApiError> {
        let object = self.put(place, object);
        self.created(place, object)
    }

    /// Replaces a part of an object that exists. A `resourceVersion` in the object must be the newest.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid`.
    pub(super) fn update(
        &mut self,
        place: &Place,
        part: Part,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let (old, object) = self.prepare_update(place, part, object)?;
        self.commit_update(place, old, object)
    }

    /// The object as it is, and as [`update`](Self::update) would store it.
    ///
    /// # Errors
    /// As of `update`.
    pub(super) fn prepare_update(
        &self,
        place: &Place,
        part: Part,
        object: Value,
    ) -> Result<(Arc<Value>, Value), ApiError> {
        let old = self.get(place)?;
        check_precondition(place, &old, &object, "resourceVersion")?;
        check_precondition(place, &old, &object, "uid")?;
        let mut object = carry(&place.resource, part, &old, object);
        if part == Part::Main {
            defaults::fill(&place.resource, &mut object);
            defaults::keep(&place.resource, &old, &mut object);
            self.assign_service_address(&place.resource, &mut object)?;
            if has_generation(&place.resource) && payload(&old) != payload(&object) {
                let generation = number_at(&old, &["metadata", "generation"]) + 1;
                object["metadata"]["generation"] = json!(generation);
            }
        }
        self.check(place, &object, Some(&old))?;
        Ok((old, object))
    }

    /// Stores what [`prepare_update`](Self::prepare_update) made.
    ///
    /// # Errors
    /// What follows from it fails.
    pub(super) fn commit_update(
        &mut self,
        place: &Place,
        old: Arc<Value>,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        if *old == object {
            return Ok(old);
        }
        let object = self.put(place, object);
        if may_end(&object) {
            return Ok(self.end(place).unwrap_or(object));
        }
        self.updated(place, object)
    }

    /// Starts, or finishes, the end of an object. Returns it, and whether it is gone.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if a precondition does not hold.
    pub(super) fn delete(
        &mut self,
        place: &Place,
        options: &DeleteOptions,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let old = self.get(place)?;
        let wanted = json!({"metadata": {
            "uid": options.uid, "resourceVersion": options.resource_version,
        }});
        check_precondition(place, &old, &wanted, "uid")?;
        check_precondition(place, &old, &wanted, "resourceVersion")?;
        if place.resource.is("", "namespaces") {
            return Ok((self.delete_namespace(place, &old), false));
        }
        if place.resource.is(DEFINITIONS.0, DEFINITIONS.1) {
            self.delete_instances(&old);
        }
        let mut object = Value::clone(&old);
        self.propagate(place, &mut object, options.propagation);
        let grace = grace(&place.resource, &old, options);
        let waits = !list_at(&object, &["metadata", "finalizers"]).is_empty();
        if grace == 0 && !waits {
            return match self.end(place) {
                Some(last) => Ok((last, true)),
                None => Err(ApiError::not_found(&place.resource, &place.name)),
            };
        }
        let metadata = object_mut(&mut object, "metadata");
        metadata.entry("deletionTimestamp").or_insert_with(|| json!(clock::after(grace)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
        if *old == object {
            return Ok((old, false));
        }
        let object = self.put(place, object);
        if string_at(&object, &["metadata", "deletionTimestamp"]).is_empty() || !may_end(&object) {
            return Ok((object, false));
        }
        Ok((self.end(place).unwrap_or(object), true))
    }

    fn check_namespace(&self, place: &Place) -> Result<(), ApiError> {
        if !place.resource.namespaced {
            return Ok(());
        }
        let Some(namespaces) = self.registry.get("", "namespaces") else { return Ok(()) };
        let namespace = self.get(&Place::new(&namespaces, "", &place.namespace))?;
        if at(&namespace, &["metadata", "deletionTimestamp"]).is_some() {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                place.namespace
            );
            return Err(ApiError::forbidden(&place.resource, &place.name, &why));
        }
        Ok(())
    }

    fn check(&self, place: &Place, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        if place.resource.is(DEFINITIONS.0, DEFINITIONS.1) {
            definition::resource_of(&place.resource, object)?;
        }
        let errors: Vec<FieldError> = validate::errors(&place.resource, object, old);
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&place.resource, &place.name, &errors))
    }
}

/// What of the new object counts: the rest is as it was.
fn carry(resource: &Resource, part: Part, old: &Value, mut new: Value) -> Value {
    let version = string_at(&new, &["apiVersion"]).rsplit('/').next().unwrap_or_default();
    let apart = match resource.definition() {
        Some(definition) => definition.version(version).is_some_and(|v| v.status),
        None => resource.status,
    };
    match (part, resource.definition()) {
        (Part::Status, Some(_)) => {
            let status = new["status"].take();
            new = old.clone();
            set(&mut new, "status", status);
        }
        (Part::Status, None) => {
            let (metadata, status) = (new["metadata"].take(), new["status"].take());
            new = old.clone();
            new["metadata"] = metadata;
            set(&mut new, "status", status);
            if resource.group == "apps" {
                new["metadata"]["labels"] = old["metadata"]["labels"].clone();
            }
        }
        (Part::Main, _) if apart => {
            set(&mut new, "status", old.get("status").cloned().unwrap_or_default());
        }
        (Part::Main, _) => {}
    }
    let metadata = object_mut(&mut new, "metadata");
    metadata.remove("managedFields");
    for field in FIXED {
        match old["metadata"].get(*field) {
            Some(value) => metadata.insert((*field).to_owned(), value.clone()),
            None => metadata.remove(*field),
        };
    }
    metadata.retain(|_, value| !value.is_null());
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    new
}

/// Metadata that no update changes.
const FIXED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "resourceVersion",
    "generation",
    "generateName",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

fn set(object: &mut Value, key: &str, value: Value) {
    if value.is_null() {
        as_object_mut(object).remove(key);
    } else {
        object[key] = value;
    }
}

fn check_precondition(
    place: &Place,
    old: &Value,
    wanted: &Value,
    field: &str,
) -> Result<(), ApiError> {
    let (wanted, found) =
        (string_at(wanted, &["metadata", field]), string_at(old, &["metadata", field]));
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    let why = match field {
        "uid" => format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"),
        _ => "the object has been modified; please apply your changes to the latest version and try again"
            .to_owned(),
    };
    Err(ApiError::conflict(&place.resource, &place.name, &why))
}

fn has_generation(resource: &Resource) -> bool {
    resource.definition().is_some()
        || matches!(resource.group.as_str(), "apps" | "discovery.k8s.io" | "apiextensions.k8s.io")
}

/// All but metadata and status: what `generation` counts.
fn payload(object: &Value) -> Vec<(&String, &Value)> {
    let members = object.as_object().into_iter().flatten();
    members.filter(|(key, _)| *key != "metadata" && *key != "status").collect()
}

/// A pod that runs somewhere has a grace period; all else ends at once.
fn grace(resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
    let ended = matches!(string_at(object, &["status", "phase"]), "Succeeded" | "Failed");
    let placed = !string_at(object, &["spec", "nodeName"]).is_empty();
    if !resource.is("", "pods") || ended || !placed {
        return 0;
    }
    let own = number_at(object, &["spec", "terminationGracePeriodSeconds"]);
    let asked = options.grace.unwrap_or(own).max(0);
    match at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64) {
        Some(before) => asked.min(before),
        None => asked,
    }
}

/// Is the object on its way out, with nothing left to wait for?
fn may_end(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some()
        && list_at(object, &["metadata", "finalizers"]).is_empty()
        && number_at(object, &["metadata", "deletionGracePeriodSeconds"]) == 0
}
