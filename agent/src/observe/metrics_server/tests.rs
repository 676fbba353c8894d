use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    for path in ["/metrics", "/stats/prometheus"] {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router(Metrics::new()).oneshot(request).await.expect("a response");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], OPEN_METRICS);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        assert!(text.contains("# TYPE istio_tcp_connections_opened counter\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}

#[tokio::test]
async fn the_server_ends_with_its_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let stop = CancellationToken::new();
    stop.cancel();
    serve(listener, Metrics::new(), stop).await.expect("well");
}
