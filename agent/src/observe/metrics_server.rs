//! Serves `GET /metrics` (and Istio's `/stats/prometheus`).
//!
//! The page is made by a thread of its own, at most once in [`FRESH`], however many ask: one task owns it.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a page is served again.
const FRESH: Duration = Duration::from_secs(1);
/// Who may wait for a page; whoever comes then waits for a place.
const WAITING: usize = 16;

/// The page, or why there is none.
type Page = Result<Bytes, String>;

/// Serves the metrics until `stop`.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let (asked, asking) = mpsc::channel(WAITING);
    let served = Door::public().serve(listener, router(asked), stop);
    // The pages end when nobody can ask any more.
    tokio::join!(served, pages(metrics, asking)).0
}

fn router(pages: mpsc::Sender<oneshot::Sender<Page>>) -> Router {
    Router::new()
        .route("/metrics", get(answer))
        .route("/stats/prometheus", get(answer))
        .with_state(pages)
}

/// Gives the page to whoever asks.
async fn pages(metrics: Metrics, mut asking: mpsc::Receiver<oneshot::Sender<Page>>) {
    let mut last: Option<(Instant, Page)> = None;
    while let Some(to) = asking.recv().await {
        let page = match last.take().filter(|(made, _)| made.elapsed() < FRESH) {
            Some(page) => page,
            None => (Instant::now(), encode(metrics.clone()).await),
        };
        // Who asked may be gone.
        drop(to.send(page.1.clone()));
        last = Some(page);
    }
}

async fn encode(metrics: Metrics) -> Page {
    let text = tokio::task::spawn_blocking(move || metrics.encode()).await;
    match text {
        Ok(Ok(text)) => Ok(text.into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic.to_string()),
    }
}

async fn answer(State(pages): State<mpsc::Sender<oneshot::Sender<Page>>>) -> Response {
    let (to, page) = oneshot::channel();
    let failed = |error| (StatusCode::INTERNAL_SERVER_ERROR, error).into_response();
    if pages.send(to).await.is_err() {
        return failed("the metrics are gone".to_owned());
    }
    match page.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Ok(Err(error)) => failed(error),
        Err(_) => failed("the metrics are gone".to_owned()),
    }
}

#[cfg(test)]
mod tests;
