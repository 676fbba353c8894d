//! A page of metrics.
//!
//! It is made by a thread of its own, at most once in [`FRESH`], however many ask: one task owns it.

use std::fmt::Display;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// What the page is.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a page is served again.
pub const FRESH: Duration = Duration::from_secs(1);
/// Who may wait for a page; whoever comes then waits for a place.
const WAITING: usize = 16;

/// The page, or why there is none.
type Page = Result<Bytes, String>;

/// Routes that answer with what `encode` makes, and what has to run for that: it ends when nobody can ask any more.
pub fn page<E: Display>(
    paths: &[&str],
    encode: impl Fn() -> Result<String, E> + Clone + Send + 'static,
) -> (Router, impl Future<Output = ()> + Send) {
    let (asked, asking) = mpsc::channel(WAITING);
    let encode = move || encode().map(Bytes::from).map_err(|error| error.to_string());
    let router = paths.iter().fold(Router::new(), |router, path| router.route(path, get(answer)));
    (router.with_state(asked), make(encode, asking))
}

/// Gives the page to whoever asks.
async fn make(
    encode: impl Fn() -> Page + Clone + Send + 'static,
    mut asking: mpsc::Receiver<oneshot::Sender<Page>>,
) {
    let mut last: Option<(Instant, Page)> = None;
    while let Some(to) = asking.recv().await {
        let page = match last.take().filter(|(made, _)| made.elapsed() < FRESH) {
            Some(page) => page,
            None => {
                let page = tokio::task::spawn_blocking(encode.clone()).await;
                (Instant::now(), page.unwrap_or_else(|panic| Err(panic.to_string())))
            }
        };
        // Who asked may be gone.
        drop(to.send(page.1.clone()));
        last = Some(page);
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
