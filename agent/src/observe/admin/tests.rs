use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String) {
    let request =
        Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
    let response = router(admin.clone()).oneshot(request).await.expect("a response");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

fn admin() -> Admin {
    Admin::new(ConfigDump::default, LogControl::detached(), CancellationToken::new())
}

#[tokio::test]
async fn the_dump_is_json() {
    let (status, text) = ask(&admin(), Method::GET, "/config_dump").await;
    assert_eq!(status, 200);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(value["workloads"].is_array());
}

#[tokio::test]
async fn log_levels_change_and_reset() {
    let admin = admin();
    let check = |path: &'static str, status: u16, text: &'static str| {
        let admin = admin.clone();
        async move {
            assert_eq!(ask(&admin, Method::POST, path).await, (status, text.to_owned()), "{path}");
        }
    };
    check("/logging", 200, "current log level is info\n").await;
    check("/logging?level=debug", 200, "current log level is debug\n").await;
    check("/logging?level=access=off", 200, "current log level is debug,access=off\n").await;
    check(
        "/logging?level=xds%3Atrace%2Cwarn",
        200,
        "current log level is warn,access=off,xds=trace\n",
    )
    .await;
    check("/logging?reset", 200, "current log level is info\n").await;
    check("/logging?reset&level=error", 200, "current log level is error\n").await;
    check("/logging?loud", 400, "\"loud\" is unknown: use level=... or reset\n").await;
    let (status, text) = ask(&admin, Method::POST, "/logging?level=loud").await;
    assert!(status == 400 && text.contains("loud"), "{text}");
    assert_eq!(ask(&admin, Method::GET, "/logging").await.0, 405);
}

#[tokio::test]
async fn quitting_is_asked_for_by_post_only() {
    let quit = CancellationToken::new();
    let admin = Admin::new(ConfigDump::default, LogControl::detached(), quit.clone());
    assert_eq!(ask(&admin, Method::GET, "/quitquitquit").await.0, 405);
    assert!(!quit.is_cancelled());
    assert_eq!(ask(&admin, Method::POST, "/quitquitquit").await.0, 200);
    assert!(quit.is_cancelled());
}

#[tokio::test]
async fn questions_are_answered_by_who_knows() {
    let admin = admin().answering("/who", "who it is", |asked| {
        Box::pin(async move {
            let name = asked.get("name").ok_or_else(|| Refusal::bad_request("no name"))?;
            Ok(serde_json::json!({ "name": name }))
        })
    });
    assert_eq!(ask(&admin, Method::GET, "/who?name=a/b").await, (200, r#"{"name":"a/b"}"#.into()));
    assert_eq!(ask(&admin, Method::GET, "/who").await, (400, "no name".into()));
    assert!(ask(&admin, Method::GET, "/").await.1.contains("GET  /who            who it is\n"));
}

#[tokio::test]
async fn the_index_tells_what_there_is() {
    let (status, text) = ask(&admin(), Method::GET, "/").await;
    assert!(status == 200 && text.contains("/config_dump"), "{text}");
}
