//! Requests about stored objects: get, list, create, update, patch, delete.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::admission::{self, Admitted};
use super::body;
use super::error::ApiError;
use super::guards;
use super::json::string_at;
use super::lifecycle::{DeleteOptions, Part};
use super::reply::{View, json_reply, warn};
use super::request::{Params, Target, propagation};
use super::resource::Resource;
use super::scale;
use super::state::{Place, State};
use super::store::Store;
use super::tokens::Identity;

/// A request about objects of a resource.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The objects.
    pub store: &'a Store,
    /// Who asks.
    pub caller: &'a Identity,
    /// Which resource.
    pub resource: &'a Arc<Resource>,
    /// The path.
    pub target: &'a Target,
    /// The query.
    pub params: &'a Params,
    /// How to answer.
    pub view: View<'a>,
    /// `Content-Type` of the body.
    pub content_type: &'a str,
}

impl Call<'_> {
    /// Does what the request asks (watches apart).
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn run(&self, method: &Method, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let named = !self.target.name.is_empty();
        match (method.as_str(), named) {
            ("GET" | "HEAD", true) => self.get(),
            ("GET" | "HEAD", false) => self.list(),
            ("POST", false) => self.create(body),
            ("PUT", true) => self.update(body),
            ("PATCH", true) => self.patch(body),
            ("DELETE", true) => self.delete(body),
            ("DELETE", false) => self.delete_collection(body),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn place(&self) -> Place {
        Place::new(self.resource, &self.target.namespace, &self.target.name)
    }

    fn part(&self) -> Part {
        if self.target.subresource == "status" { Part::Status } else { Part::Main }
    }

    /// Runs on the objects, or on a copy if nothing is to be stored.
    fn with<T>(&self, run: impl FnOnce(&mut State) -> T) -> T {
        if self.params.dry_run() { self.store.dry(run) } else { self.store.with(run) }
    }

    fn reply(&self, code: StatusCode, object: &Value, warnings: &[String]) -> Response<Body> {
        let shown = match self.target.subresource.as_str() {
            "scale" => scale::show(object),
            _ => self.view.object(object),
        };
        let mut response = json_reply(code, &shown, "application/json");
        warn(&mut response, warnings);
        response
    }

    fn get(&self) -> Result<Response<Body>, ApiError> {
        let object = self.store.with(|state| state.get(&self.place()))?;
        Ok(self.reply(StatusCode::OK, &object, &[]))
    }

    fn list(&self) -> Result<Response<Body>, ApiError> {
        let selector = self.params.selector(self.resource, &self.target.namespace)?;
        let (revision, objects) =
            self.store.with(|state| (state.revision, state.list(self.resource, &selector)));
        let list = self.view.list(&objects, revision);
        Ok(json_reply(StatusCode::OK, &list, "application/json"))
    }

    /// Checks an object from the client, as strictly as it asks for.
    fn admit(&self, object: Value) -> Result<(Value, Vec<String>), ApiError> {
        let admitted = admission::admit(self.resource, object)?;
        match self.params.get("fieldValidation") {
            Some("Strict") => Ok((admitted.strict(self.resource)?, Vec::new())),
            Some("Ignore") => Ok((admitted.object, Vec::new())),
            _ => {
                let Admitted { object, unknown } = admitted;
                let warnings = unknown.iter().map(|path| format!("unknown field '{path}'"));
                Ok((object, warnings.collect()))
            }
        }
    }

    /// Stores a new object, if no admission policy denies it.
    fn store_new(
        &self,
        state: &mut State,
        namespace: &str,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let (place, object) = state.prepare(self.resource, namespace, object)?;
        guards::check(state, &self.change(&object, None))?;
        state.commit(&place, object)
    }

    /// Stores a changed object, if no admission policy denies it.
    fn store_change(
        &self,
        state: &mut State,
        place: &Place,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let (old, object) = state.prepare_update(place, self.part(), object)?;
        guards::check(state, &self.change(&object, Some(&old)))?;
        state.commit_update(place, old, object)
    }

    fn change<'c>(&'c self, object: &'c Value, old: Option<&'c Value>) -> guards::Change<'c> {
        let subresource = &self.target.subresource;
        guards::Change { resource: self.resource, subresource, caller: self.caller, object, old }
    }

    fn create(&self, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let (object, warnings) = self.admit(body::object(body, self.content_type)?)?;
        let namespace = &self.target.namespace;
        let object = self.with(|state| self.store_new(state, namespace, object))?;
        Ok(self.reply(StatusCode::CREATED, &object, &warnings))
    }

    fn update(&self, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let object = body::object(body, self.content_type)?;
        let place = self.place();
        if self.target.subresource == "scale" {
            let object = self.with(|state| scale::set(state, &place, &object))?;
            return Ok(self.reply(StatusCode::OK, &object, &[]));
        }
        let name = string_at(&object, &["metadata", "name"]);
        if !name.is_empty() && name != place.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                place.name
            )));
        }
        let (object, warnings) = self.admit(object)?;
        let object = self.with(|state| self.store_change(state, &place, object))?;
        Ok(self.reply(StatusCode::OK, &object, &warnings))
    }

    fn patch(&self, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let patch = body::Patch::parse(self.content_type, body, self.resource)?;
        let place = self.place();
        self.with(|state| {
            let old = match state.get(&place) {
                Err(error) if error.is_not_found() && patch.creates() => {
                    return self.apply_new(state, &patch);
                }
                found => found?,
            };
            if self.target.subresource == "scale" {
                let mut object = scale::show(&old);
                patch.apply(&mut object)?;
                let object = scale::set(state, &place, &object)?;
                return Ok(self.reply(StatusCode::OK, &object, &[]));
            }
            let mut object = self.view.convert(&old);
            patch.apply(&mut object)?;
            let (object, warnings) = self.admit(object)?;
            let object = self.store_change(state, &place, object)?;
            Ok(self.reply(StatusCode::OK, &object, &warnings))
        })
    }

    fn apply_new(
        &self,
        state: &mut State,
        patch: &body::Patch,
    ) -> Result<Response<Body>, ApiError> {
        let mut object = json!({});
        patch.apply(&mut object)?;
        object["metadata"]["name"] = json!(self.target.name);
        let (object, warnings) = self.admit(object)?;
        let object = self.store_new(state, &self.target.namespace, object)?;
        Ok(self.reply(StatusCode::CREATED, &object, &warnings))
    }

    fn delete_options(&self, body: &Bytes) -> Result<DeleteOptions, ApiError> {
        let sent = if body.is_empty() { json!({}) } else { body::object(body, self.content_type)? };
        let text = |path: &[&str]| match string_at(&sent, path) {
            "" => None,
            text => Some(text.to_owned()),
        };
        let policy = text(&["propagationPolicy"]);
        let policy = policy.as_deref().or_else(|| self.params.get("propagationPolicy"));
        let grace = match sent["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => self.params.number("gracePeriodSeconds")?,
        };
        Ok(DeleteOptions {
            grace,
            propagation: propagation(policy.unwrap_or_default())?,
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
        })
    }

    fn delete(&self, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let options = self.delete_options(body)?;
        let (object, gone) = self.with(|state| state.delete(&self.place(), &options))?;
        if !gone {
            return Ok(self.reply(StatusCode::OK, &object, &[]));
        }
        let uid = string_at(&object, &["metadata", "uid"]);
        let (name, group, kind) = (&self.target.name, &self.resource.group, &self.resource.plural);
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": name, "group": group, "kind": kind, "uid": uid},
        });
        Ok(json_reply(StatusCode::OK, &status, "application/json"))
    }

    fn delete_collection(&self, body: &Bytes) -> Result<Response<Body>, ApiError> {
        let options = self.delete_options(body)?;
        let selector = self.params.selector(self.resource, &self.target.namespace)?;
        let (revision, objects) = self.with(|state| {
            let objects = state.delete_matching(self.resource, &selector, &options);
            (state.revision, objects)
        });
        let list = self.view.list(&objects, revision);
        Ok(json_reply(StatusCode::OK, &list, "application/json"))
    }
}
