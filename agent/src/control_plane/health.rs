//! Readiness and metrics, over plain HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::ControlPlaneError;
use crate::door::Door;
use crate::door::metrics::page;
use crate::sys::{Shutdown, socket};

/// What it takes to be ready.
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
        let before = pending.len();
        pending.retain(|other| *other != part);
        if pending.is_empty() && before > 0 {
            tracing::info!("ready");
        }
    }

    /// This part is not, or no longer.
    pub fn lacks(&self, part: &'static str) {
        let mut pending = self.pending.lock();
        if !pending.contains(&part) {
            pending.push(part);
        }
    }

    /// The parts that are not.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().clone()
    }
}

/// Where readiness and metrics are asked for.
#[derive(Debug)]
pub struct Listeners {
    ready: TcpListener,
    /// None: there too.
    metrics: Option<TcpListener>,
}

/// Listens at the two addresses, which may be one.
///
/// # Errors
/// An address cannot be listened on.
pub fn listen(ready: SocketAddr, metrics: SocketAddr) -> Result<Listeners, ControlPlaneError> {
    if ready == metrics && ready.port() != 0 {
        let ready = bind("readiness and metrics", ready)?;
        return Ok(Listeners { ready, metrics: None });
    }
    let (ready, metrics) = (bind("readiness", ready)?, bind("metrics", metrics)?);
    Ok(Listeners { ready, metrics: Some(metrics) })
}

/// Listens on a port of the control plane's own; connections wait until somebody takes them.
///
/// # Errors
/// The address is taken, or none of ours.
pub fn bind(purpose: &'static str, address: SocketAddr) -> Result<TcpListener, ControlPlaneError> {
    let bound = socket::listen_on(address);
    bound.map_err(|source| ControlPlaneError::Listen { purpose, address, source })
}

/// Serves `/healthz/ready` and `/metrics`.
pub fn serve(listeners: Listeners, readiness: Readiness, registry: Registry, shutdown: &Shutdown) {
    let ready = Router::new().route("/healthz/ready", get(ready)).with_state(readiness);
    let (metrics, pages) = page(&["/metrics"], {
        let registry = Arc::new(registry);
        move || {
            let mut body = String::new();
            encode(&mut body, &registry).map(|()| body)
        }
    });
    shutdown.spawn(pages);
    match listeners.metrics {
        None => start(listeners.ready, ready.merge(metrics), shutdown),
        Some(listener) => {
            start(listeners.ready, ready, shutdown);
            start(listener, metrics, shutdown);
        }
    }
}

fn start(listener: TcpListener, router: Router, shutdown: &Shutdown) {
    let served = Door::public().serve(listener, router, shutdown.token.clone());
    shutdown.spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "listener failed");
        }
    });
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return "ready\n".into_response();
    }
    let body = format!("not ready, pending: {}\n", pending.join(", "));
    (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
}

#[cfg(test)]
mod tests;
