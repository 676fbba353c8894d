//! Serves `GET /metrics` (and Istio's `/stats/prometheus`).

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves the metrics until `stop`.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(metrics)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(answer))
        .route("/stats/prometheus", get(answer))
        .with_state(metrics)
}

async fn answer(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
