use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

async fn check(readiness: &Readiness, status: u16, text: &str) {
    let request = Request::get("/healthz/ready").body(Body::empty()).expect("a request");
    let response = router(readiness.clone()).oneshot(request).await.expect("a response");
    assert_eq!(response.status().as_u16(), status);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, text);
}

#[tokio::test]
async fn ready_when_nothing_is_pending_any_more() {
    let readiness = Readiness::new();
    let xds = readiness.pending("xds");
    let pods = readiness.pending("pods");
    check(&readiness, 500, "not ready, pending: pods, xds").await;
    xds.done();
    check(&readiness, 500, "not ready, pending: pods").await;
    let again = readiness.pending("pods");
    drop(pods);
    check(&readiness, 500, "not ready, pending: pods").await;
    drop(again);
    check(&readiness, 200, "ready\n").await;
    assert!(readiness.is_ready());
}

#[tokio::test]
async fn what_is_wrong_is_remarked_on_whether_ready_or_not() {
    let readiness = Readiness::new();
    readiness.remark("kubelet", Some("no kubelet".to_owned()));
    check(&readiness, 200, "ready\nno kubelet\n").await;
    let xds = readiness.pending("xds");
    check(&readiness, 500, "not ready, pending: xds\nno kubelet\n").await;
    readiness.remark("kubelet", None);
    xds.done();
    check(&readiness, 200, "ready\n").await;
}
