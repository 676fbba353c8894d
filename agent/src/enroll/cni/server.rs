//! The HTTP server behind the socket: passes calls on, bounded in number and time.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::wire::{ADD_TIMEOUT, Answer, MAX_MESSAGE_BYTES, Reply, Request, Verb};
use crate::sys::doorstep::Doorstep;

/// A call of the plugin, to be answered.
#[derive(Debug)]
pub struct Call {
    /// What the runtime wants.
    pub verb: Verb,
    /// The sandbox.
    pub request: Request,
    /// Where the answer goes; a caller that gave up does not listen any more.
    pub reply: oneshot::Sender<Reply>,
}

#[derive(Debug, Clone)]
struct Server {
    calls: mpsc::Sender<Call>,
    add_timeout: Duration,
}

/// Serves until `stop`; calls beyond what `calls` holds are turned away, to be tried again.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    socket: Doorstep,
    calls: mpsc::Sender<Call>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let (listener, file) = socket.into_parts();
    let server = Server { calls, add_timeout: ADD_TIMEOUT };
    let served =
        axum::serve(listener, router(server)).with_graceful_shutdown(stop.cancelled_owned()).await;
    drop(file);
    served
}

fn router(server: Server) -> Router {
    let verb = |verb: Verb| {
        post(move |State(server): State<Server>, Json(request): Json<Request>| async move {
            server.call(verb, request).await
        })
    };
    Router::new()
        .route(Verb::Add.path(), verb(Verb::Add))
        .route(Verb::Del.path(), verb(Verb::Del))
        .route(Verb::Check.path(), verb(Verb::Check))
        .route("/status", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
        .with_state(server)
}

impl Server {
    async fn call(&self, verb: Verb, request: Request) -> (StatusCode, Json<Answer>) {
        let (reply, answer) = oneshot::channel();
        if self.calls.try_send(Call { verb, request, reply }).is_err() {
            return respond(Reply::Unsure("the agent is busy or shutting down".to_owned()));
        }
        match tokio::time::timeout(self.add_timeout, answer).await {
            Ok(Ok(reply)) => respond(reply),
            Ok(Err(_)) => respond(Reply::Unsure("the agent is shutting down".to_owned())),
            Err(_) => respond(Reply::Unsure(format!("no result within {:?}", self.add_timeout))),
        }
    }
}

fn respond(reply: Reply) -> (StatusCode, Json<Answer>) {
    let refuse = |reason| Json(Answer { enrolled: false, reason });
    match reply {
        Reply::Proceed(answer) => (StatusCode::OK, Json(answer)),
        Reply::Fail(reason) => (StatusCode::INTERNAL_SERVER_ERROR, refuse(reason)),
        Reply::Unsure(reason) => (StatusCode::SERVICE_UNAVAILABLE, refuse(reason)),
    }
}

#[cfg(test)]
mod tests;
