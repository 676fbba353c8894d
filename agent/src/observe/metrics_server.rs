//! Serves `GET /metrics` (and Istio's `/stats/prometheus`).

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::door::Door;
use crate::door::metrics::page;

const PATHS: [&str; 2] = ["/metrics", "/stats/prometheus"];

/// Serves the metrics until `stop`.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let (router, pages) = page(&PATHS, move || metrics.encode());
    let served = Door::public().serve(listener, router, stop);
    // The pages end when nobody can ask any more.
    tokio::join!(served, pages).0
}

#[cfg(test)]
mod tests;
