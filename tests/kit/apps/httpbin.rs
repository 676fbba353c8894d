//! Tells callers what they sent and where they seem to come from.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::extract::{ConnectInfo, Path};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::listen;

/// Serves on every port for ever.
///
/// # Errors
/// A port is taken.
pub async fn serve(ports: &[u16]) -> Result<()> {
    let mut servers = JoinSet::new();
    for port in ports {
        let service = router().into_make_service_with_connect_info::<SocketAddr>();
        servers.spawn(axum::serve(listen(*port).await?, service).into_future());
    }
    match servers.join_next().await {
        Some(ended) => ended?.context("serve httpbin"),
        None => Ok(()),
    }
}

fn router() -> Router {
    Router::new()
        .route("/get", get(echo))
        .route("/headers", get(echo))
        .route("/ip", get(echo))
        .route("/status/{code}", get(status))
        .fallback(get(echo))
}

async fn echo(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
) -> Json<Value> {
    let headers: BTreeMap<_, _> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let origin = peer.ip().to_canonical();
    Json(json!({ "args": {}, "headers": headers, "origin": origin, "url": uri.to_string() }))
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}
