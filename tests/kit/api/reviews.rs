//! Answers that are not stored: token reviews, access reviews, token requests.

use std::sync::Arc;

use serde_json::{Value, json};

use super::clock;
use super::error::ApiError;
use super::json::{at, number_at, string_at, strings_at};
use super::resource::Resource;
use super::server::Api;
use super::state::{Place, State};
use super::tokens::{API_AUDIENCE, Account, Identity, PodBinding};

/// Seconds a requested token lasts if the request does not say.
const TOKEN_SECONDS: i64 = 3600;
/// A real API server gives no shorter tokens.
const SHORTEST_TOKEN_SECONDS: i64 = 600;

/// Answers a review.
pub(super) fn answer(
    api: &Api,
    resource: &Resource,
    caller: &Identity,
    mut review: Value,
) -> Value {
    review["status"] = match resource.plural.as_str() {
        "tokenreviews" => token_review(api, &review),
        "selfsubjectreviews" => json!({"userInfo": user(caller)}),
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        _ => json!({"allowed": true, "reason": "everyone who is known may do everything here"}),
    };
    review
}

fn user(identity: &Identity) -> Value {
    json!({
        "username": identity.username, "uid": identity.uid, "groups": identity.groups,
        "extra": identity.extra,
    })
}

fn token_review(api: &Api, review: &Value) -> Value {
    let mut audiences = strings_at(review, &["spec", "audiences"]);
    if audiences.is_empty() {
        audiences.push(API_AUDIENCE.to_owned());
    }
    let token = string_at(review, &["spec", "token"]);
    match api.store.with(|state| api.tokens.authenticate(state, token, &audiences)) {
        Ok((identity, audiences)) => {
            json!({"authenticated": true, "user": user(&identity), "audiences": audiences})
        }
        Err(why) => json!({"authenticated": false, "error": why, "user": {}}),
    }
}

/// Answers a `TokenRequest` for a service account.
///
/// # Errors
/// `NotFound` for the account or the pod, `Conflict` if it is another pod, `BadRequest` to bind to anything else.
pub(super) fn token_request(
    api: &Api,
    account: &Place,
    mut request: Value,
) -> Result<Value, ApiError> {
    let (account, pod) = api.store.with(|state| {
        let found = state.get(account)?;
        let pod = bound_pod(state, &account.namespace, &request)?;
        Ok::<_, ApiError>((account_of(account, &found), pod))
    })?;
    let seconds = match number_at(&request, &["spec", "expirationSeconds"]) {
        0 => TOKEN_SECONDS,
        asked => asked.max(SHORTEST_TOKEN_SECONDS),
    };
    let audiences = strings_at(&request, &["spec", "audiences"]);
    let (namespace, name) = (account.namespace.clone(), account.name.clone());
    let token = api.tokens.mint(account, pod, audiences, seconds);
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["kind"] = json!("TokenRequest");
    request["metadata"] =
        json!({"name": name, "namespace": namespace, "creationTimestamp": clock::now()});
    request["status"] = json!({"token": token, "expirationTimestamp": clock::after(seconds)});
    Ok(request)
}

/// The account at a place.
pub(super) fn account_of(place: &Place, object: &Value) -> Account {
    Account {
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        uid: string_at(object, &["metadata", "uid"]).to_owned(),
    }
}

fn bound_pod(
    state: &State,
    namespace: &str,
    request: &Value,
) -> Result<Option<PodBinding>, ApiError> {
    let Some(bound) = at(request, &["spec", "boundObjectRef"]) else { return Ok(None) };
    let (kind, name) = (string_at(bound, &["kind"]), string_at(bound, &["name"]));
    let pods = state.registry.get("", "pods").filter(|_| kind == "Pod");
    let Some(pods) = pods else {
        return Err(ApiError::bad_request(format!("cannot bind a token to a {kind:?}")));
    };
    let pod: Arc<Value> = state.get(&Place::new(&pods, namespace, name))?;
    let uid = string_at(&pod, &["metadata", "uid"]);
    let asked = string_at(bound, &["uid"]);
    if !asked.is_empty() && asked != uid {
        let why = format!("the UID in the bound object reference ({asked}) does not match");
        return Err(ApiError::conflict(&pods, name, &why));
    }
    Ok(Some(PodBinding {
        name: name.to_owned(),
        uid: uid.to_owned(),
        node: string_at(&pod, &["spec", "nodeName"]).to_owned(),
    }))
}
