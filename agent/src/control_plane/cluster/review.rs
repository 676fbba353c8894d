//! Asks the API server who holds a token.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::{Api, Client, api::PostParams};
use secrecy::{ExposeSecret as _, SecretString};

use super::request;
use crate::control_plane::caller::{AuthenticateError, Caller, CallerPod, Review, TOKEN_AUDIENCE};
use crate::control_plane::model::ObjectKey;

/// Reviews tokens.
#[derive(Debug)]
pub struct Reviewer {
    reviews: Api<TokenReview>,
}

impl Reviewer {
    /// A reviewer that asks through `client`.
    pub fn new(client: Client) -> Self {
        Self { reviews: Api::all(client) }
    }
}

impl Review for Reviewer {
    async fn review(&self, token: &SecretString) -> Result<Caller, AuthenticateError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: Some(token.expose_secret().to_owned()),
            },
            ..TokenReview::default()
        };
        let answer = request(self.reviews.create(&PostParams::default(), &review))
            .await
            .map_err(|error| AuthenticateError::Unavailable(error.into()))?;
        caller(answer).map_err(AuthenticateError::Rejected)
    }
}

/// What a review says.
fn caller(review: TokenReview) -> Result<Caller, String> {
    let status = review.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        return Err(match status.error.filter(|error| !error.is_empty()) {
            Some(error) => format!("token is not valid: {error}"),
            None => format!("token is not valid for audience {TOKEN_AUDIENCE}"),
        });
    }
    // A server that does not know of audiences leaves them out, and has not checked any.
    if !status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(format!("token is not for audience {TOKEN_AUDIENCE}"));
    }
    let UserInfo { extra, username, .. } = status.user.unwrap_or_default();
    let username = username.unwrap_or_default();
    let account = username
        .strip_prefix("system:serviceaccount:")
        .and_then(|account| account.split_once(':'))
        .ok_or_else(|| format!("{username:?} is not a service account"))?;
    Ok(Caller { account: ObjectKey::new(account.0, account.1), pod: extra.as_ref().and_then(pod) })
}

fn pod(extra: &BTreeMap<String, Vec<String>>) -> Option<CallerPod> {
    let one = |key: &str| extra.get(key)?.first().cloned();
    Some(CallerPod {
        name: one("authentication.kubernetes.io/pod-name")?,
        uid: one("authentication.kubernetes.io/pod-uid")?,
    })
}

#[cfg(test)]
mod tests;
