use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::door::metrics::{FRESH, OPEN_METRICS};
use crate::observe::node::NodeStats;

/// The router, with what makes its pages.
fn serving(metrics: &Metrics) -> Router {
    let metrics = metrics.clone();
    let (router, pages) = page(&PATHS, move || metrics.encode());
    tokio::spawn(pages);
    router
}

async fn scrape(router: &Router, path: &str) -> Response {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    router.clone().oneshot(request).await.expect("a response")
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    for path in ["/metrics", "/stats/prometheus"] {
        let response = scrape(&serving(&Metrics::new()), path).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], OPEN_METRICS);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        assert!(text.contains("# TYPE istio_tcp_connections_opened counter\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_is_made_once_a_second_however_many_ask() {
    let (metrics, made) = (Metrics::new(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&made);
    metrics.set_node_source(move || {
        count.fetch_add(1, Relaxed);
        NodeStats::default()
    });
    let router = serving(&metrics);
    let all = (0..100).map(|_| scrape(&router, "/metrics"));
    for response in futures::future::join_all(all).await {
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(made.load(Relaxed), 1);
    tokio::time::advance(FRESH).await;
    scrape(&router, "/metrics").await;
    assert_eq!(made.load(Relaxed), 2);
}

#[tokio::test]
async fn the_server_ends_with_its_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let stop = CancellationToken::new();
    stop.cancel();
    serve(listener, Metrics::new(), stop).await.expect("well");
}
