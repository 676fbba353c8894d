//! Readiness and metrics, over plain HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::ControlPlaneError;
use crate::sys::Shutdown;

/// What it takes to be ready; each part is reported once.
#[derive(Debug, Clone)]
pub struct Readiness {
    pending: Arc<Mutex<Vec<&'static str>>>,
}

impl Readiness {
    /// Not ready until each of `parts` is.
    pub fn new(parts: &[&'static str]) -> Self {
        Self { pending: Arc::new(Mutex::new(parts.to_vec())) }
    }

    /// This part is ready.
    pub fn done(&self, part: &str) {
        let mut pending = self.pending.lock();
        pending.retain(|other| *other != part);
        if pending.is_empty() {
            tracing::info!("ready");
        }
    }

    /// The parts that are not.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().clone()
    }
}

/// Serves `/healthz/ready` and `/metrics`.
///
/// # Errors
/// An address cannot be listened on.
pub async fn serve(
    ready_address: SocketAddr,
    metrics_address: SocketAddr,
    readiness: Readiness,
    registry: Registry,
    shutdown: &Shutdown,
) -> Result<(), ControlPlaneError> {
    let ready = Router::new().route("/healthz/ready", get(ready)).with_state(readiness);
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(Arc::new(registry));
    if ready_address == metrics_address && ready_address.port() != 0 {
        return start("readiness and metrics", ready_address, ready.merge(metrics), shutdown).await;
    }
    start("readiness", ready_address, ready, shutdown).await?;
    start("metrics", metrics_address, metrics, shutdown).await
}

async fn start(
    purpose: &'static str,
    address: SocketAddr,
    router: Router,
    shutdown: &Shutdown,
) -> Result<(), ControlPlaneError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ControlPlaneError::Listen { purpose, address, source })?;
    let stop = shutdown.token.clone();
    shutdown.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(purpose, %error, "listener failed");
        }
    });
    Ok(())
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return "ready\n".into_response();
    }
    let body = format!("not ready, pending: {}\n", pending.join(", "));
    (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut body = String::new();
    match encode(&mut body, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
