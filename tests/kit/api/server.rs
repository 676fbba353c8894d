//! From an HTTP request to its answer: who asks, for what, may it be.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::admission;
use super::body;
use super::discovery;
use super::error::ApiError;
use super::exec;
use super::lifecycle::{DeleteOptions, Part};
use super::logs;
use super::objects::Call;
use super::reply::{View, error_reply, json_reply, text_reply};
use super::request::{Form, Params, Target};
use super::resource::{Origin, Resource};
use super::reviews;
use super::runtime::{self, PodRuntime};
use super::state::Place;
use super::store::Store;
use super::tokens::{API_AUDIENCE, Identity, Tokens};
use super::usage::{Usage, UsageLog};
use super::watching;

/// The largest body that is taken, as of a real API server.
const BODY_BYTES: usize = 3 * 1024 * 1024;
/// For all of a body.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// What all requests share.
#[derive(Debug)]
pub(super) struct Api {
    /// The objects.
    pub store: Store,
    /// Who may call.
    pub tokens: Tokens,
    /// What was used.
    pub usage: UsageLog,
    /// Who runs the pods.
    pub(super) pods: Option<Arc<dyn PodRuntime>>,
    /// Ends watches.
    pub stop: CancellationToken,
}

impl Api {
    /// Answers a request.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let result = self.route(request).await;
        if let Err(error) = &result {
            tracing::debug!(%method, path, code = error.code, %error, "refused");
        }
        result.unwrap_or_else(|error| error_reply(&error))
    }

    async fn route(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let caller = self.authenticate(request.headers())?;
        let path = request.uri().path().to_owned();
        if matches!(path.as_str(), "/healthz" | "/livez" | "/readyz") {
            return Ok(text_reply("ok"));
        }
        let Some(target) = Target::parse(&path) else {
            return self.discover(&path, request.headers());
        };
        let params = Params::parse(request.uri())?;
        let resource = self.resource(&target)?;
        self.record(&caller, &target, target.verb(request.method(), &params));
        self.serve(&caller, (&resource, &target), &params, request).await
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let value = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = value
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or_else(ApiError::unauthorized)?;
        let audiences = [API_AUDIENCE.to_owned()];
        let known =
            self.store.with(|state| self.tokens.authenticate(state, token.trim(), &audiences));
        match known {
            Ok((identity, _)) => Ok(identity),
            Err(why) => {
                tracing::debug!(why, "token refused");
                Err(ApiError::unauthorized())
            }
        }
    }

    fn discover(&self, path: &str, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let aggregated = accept.split(',').any(|media| {
            media.contains("as=APIGroupDiscoveryList") && media.contains("v=v2;")
                || media.trim() == discovery::AGGREGATED
        });
        let document =
            self.store.with(|state| discovery::document(&state.registry, path, aggregated));
        let document = document.ok_or_else(ApiError::no_such_path)??;
        let content_type = match document["kind"].as_str() {
            Some("APIGroupDiscoveryList") => discovery::AGGREGATED,
            _ => "application/json",
        };
        Ok(json_reply(StatusCode::OK, &document, content_type))
    }

    fn resource(&self, target: &Target) -> Result<Arc<Resource>, ApiError> {
        let found = self.store.with(|state| state.registry.get(&target.group, &target.plural));
        let resource = found.filter(|r| r.versions.contains(&target.version));
        let resource = resource.ok_or_else(ApiError::no_such_path)?;
        let known = match target.subresource.as_str() {
            "" => true,
            "status" => resource.status,
            "scale" => resource.scale,
            "binding" | "eviction" | "exec" | "log" => resource.is("", "pods"),
            "token" => resource.is("", "serviceaccounts"),
            _ => false,
        };
        let misplaced = !resource.namespaced && !target.namespace.is_empty()
            || resource.namespaced && !target.name.is_empty() && target.namespace.is_empty();
        if !known || misplaced {
            return Err(ApiError::no_such_path());
        }
        Ok(resource)
    }

    fn record(&self, caller: &Identity, target: &Target, verb: &str) {
        let resource = match target.subresource.as_str() {
            "" => target.plural.clone(),
            subresource => format!("{}/{subresource}", target.plural),
        };
        self.usage.record(Usage {
            user: caller.username.clone(),
            verb: verb.to_owned(),
            group: target.group.clone(),
            resource,
        });
    }

    async fn serve(
        &self,
        caller: &Identity,
        (resource, target): (&Arc<Resource>, &Target),
        params: &Params,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let view = View::new(resource, &target.version, Form::of(request.headers()), params);
        if request.method() == Method::GET && target.name.is_empty() && params.flag("watch") {
            let selector = params.selector(resource, &target.namespace)?;
            let stop = self.stop.clone();
            return watching::start(&self.store, resource, (&view, selector), params, stop);
        }
        if matches!(target.subresource.as_str(), "exec" | "log") {
            return self.reach((resource, target), params, request).await;
        }
        let (parts, body) = request.into_parts();
        let body = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, BODY_BYTES)).await;
        let body = body.map_err(|_| ApiError::bad_request("the body took too long"))?;
        let body = body.map_err(|_| ApiError::too_large(BODY_BYTES))?;
        let content_type = parts.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
        if let Origin::Review(_) = resource.origin {
            if parts.method != Method::POST {
                return Err(ApiError::method_not_allowed());
            }
            let review = admission::admit(resource, body::object(&body, content_type)?)?.object;
            let answer = reviews::answer(self, resource, caller, review);
            return Ok(json_reply(StatusCode::CREATED, &answer, "application/json"));
        }
        if matches!(target.subresource.as_str(), "token" | "binding" | "eviction") {
            if parts.method != Method::POST {
                return Err(ApiError::method_not_allowed());
            }
            let place = Place::new(resource, &target.namespace, &target.name);
            return self.act(&place, &target.subresource, body::object(&body, content_type)?);
        }
        Call { store: &self.store, caller, resource, target, params, view, content_type }
            .run(&parts.method, &body)
    }

    /// Subresources that lead into a running pod.
    async fn reach(
        &self,
        (resource, target): (&Arc<Resource>, &Target),
        params: &Params,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let place = Place::new(resource, &target.namespace, &target.name);
        let pod = self.store.with(|state| state.get(&place))?;
        let pods = self.pods.clone();
        let pods = pods.ok_or_else(|| ApiError::bad_request("nobody runs pods here"))?;
        let stop = self.stop.clone();
        if target.subresource == "exec" {
            return exec::start(pods, &pod, params, request, stop).await;
        }
        let container = runtime::container(&pod, params.get("container"))?;
        let path = pods.log(&container);
        let path = path.map_err(|error| ApiError::bad_request(format!("{error:#}")))?;
        logs::start(&path, params, stop).await
    }

    /// Subresources that are actions.
    fn act(
        &self,
        place: &Place,
        action: &str,
        sent: serde_json::Value,
    ) -> Result<Response<Body>, ApiError> {
        let answer = match action {
            "token" => reviews::token_request(self, place, sent)?,
            "binding" => {
                let node = sent["target"]["name"].clone();
                self.store.with(|state| {
                    let mut pod = serde_json::Value::clone(&*state.get(place)?);
                    pod["spec"]["nodeName"] = node;
                    state.update(place, Part::Main, pod)
                })?;
                success()
            }
            _ => {
                let grace = sent["deleteOptions"]["gracePeriodSeconds"].as_i64();
                let options = DeleteOptions { grace, ..DeleteOptions::default() };
                self.store.with(|state| state.delete(place, &options))?;
                success()
            }
        };
        Ok(json_reply(StatusCode::CREATED, &answer, "application/json"))
    }
}

fn success() -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
