//! Kubernetes, as far as the control plane needs it: the only part of it that sees its types.

mod destination;
mod kinds;
mod publish;
mod reduce;
mod report;
mod review;
mod root;
mod scope;
mod security;
mod spawn;
mod statuses;
mod unserved;
mod watch;

pub use kinds::{Watches, watch};
pub use kube::Client;
pub use publish::{Publication, ROOT_CONFIG_MAP, publish};
pub use review::Reviewer;
pub use root::{ROOT_SECRET, Root, RootError, follow, root};

use std::future::Future;
use std::time::Duration;

/// How long one request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to the API server that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server's answer, or none at all.
    #[error("API server: {0}")]
    Request(String, #[source] Box<kube::Error>),
    /// It took too long.
    #[error("API server does not answer within {}", humantime::format_duration(REQUEST_TIMEOUT))]
    Timeout,
}

impl ApiError {
    /// The HTTP status, if the server answered.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Request(_, error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout => None,
        }
    }
}

/// Makes a request, within the time there is.
async fn request<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(result) => result.map_err(|error| {
            let told = match &error {
                kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
                _ => "request failed".to_owned(),
            };
            ApiError::Request(told, Box::new(error))
        }),
        Err(_) => Err(ApiError::Timeout),
    }
}
