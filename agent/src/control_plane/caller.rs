//! Who calls: a service account, proven by a bearer token made for the mesh.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};

use secrecy::SecretString;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::gate::Ticket;
use super::model::ObjectKey;
use super::source::Source;

/// The audience that tokens for the control plane are made for.
pub const TOKEN_AUDIENCE: &str = "istio-ca";

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its service account.
    pub account: ObjectKey,
    /// The pod its token is bound to.
    pub pod: Option<CallerPod>,
}

/// The pod that a token is bound to; it is in the service account's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Why a token does not prove anything.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticateError {
    /// It is not valid, or not for us.
    #[error("{0}")]
    Rejected(String),
    /// The question could not be asked.
    #[error("token cannot be reviewed")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Asks who holds a token.
pub trait Review: Send + Sync + 'static {
    /// Asks who holds `token`. Bounded in time.
    fn review(
        &self,
        token: &SecretString,
    ) -> impl Future<Output = Result<Caller, AuthenticateError>> + Send;
}

/// Tells who holds a token.
pub trait Authenticate: Send + Sync + 'static {
    /// Tells who holds `token`, for somebody at `source`. Bounded in time.
    fn authenticate(
        &self,
        token: &SecretString,
        source: Source,
    ) -> impl Future<Output = Result<Caller, AuthenticateError>> + Send;
}

/// Authenticates a call, with a log line that says exactly what is wrong if it fails. Of somebody who fails too often
/// there is none, and its connection ends.
///
/// # Errors
/// `Unauthenticated`, or `Unavailable` if the question could not be asked.
pub async fn authenticate(
    authenticator: &impl Authenticate,
    (metadata, ticket): (&MetadataMap, Option<&Ticket>),
    cluster_id: &str,
) -> Result<Caller, Status> {
    if ticket.is_some_and(Ticket::ends) {
        return Err(Status::resource_exhausted("too many requests that prove nothing"));
    }
    let checked = cluster(metadata, cluster_id).and_then(|()| bearer(metadata));
    // Those of whom it is not known share a place.
    let source = ticket.map_or_else(|| IpAddr::V4(Ipv4Addr::UNSPECIFIED).into(), Ticket::source);
    let result = match checked {
        Ok(token) => authenticator.authenticate(&token, source).await,
        Err(reason) => Err(AuthenticateError::Rejected(reason)),
    };
    result.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        if ticket.is_none_or(Ticket::spend) {
            tracing::warn!(%error, cause, ?source, "caller not authenticated");
        }
        match error {
            AuthenticateError::Rejected(_) => Status::unauthenticated("authentication failure"),
            AuthenticateError::Unavailable(_) => Status::unavailable(error.to_string()),
        }
    })
}

/// A node of another cluster would ask about pods that are not ours.
fn cluster(metadata: &MetadataMap, ours: &str) -> Result<(), String> {
    match metadata.get("clusterid").map(|value| value.to_str()) {
        None | Some(Ok("")) => Ok(()),
        Some(Ok(named)) if named == ours => Ok(()),
        Some(named) => Err(format!("clusterid is {:?}, not {ours:?}", named.unwrap_or("(binary)"))),
    }
}

fn bearer(metadata: &MetadataMap) -> Result<SecretString, String> {
    let Some(value) = metadata.get("authorization") else {
        return Err("no authorization metadata".to_owned());
    };
    let token = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    match token.map(str::trim) {
        Some(token) if !token.is_empty() => Ok(token.into()),
        _ => Err("authorization metadata is no bearer token".to_owned()),
    }
}
