//! The admin page on localhost: `/config_dump`, `/logging`, `/quitquitquit`, as istioctl uses them,
//! and questions that the agent's other parts answer.

mod written;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::dump::ConfigDump;
use super::log::LogControl;
use crate::door::Door;

/// What the admin page shows and changes.
#[derive(Clone)]
pub struct Admin {
    dump: Arc<dyn Fn() -> ConfigDump + Send + Sync>,
    log: LogControl,
    quit: CancellationToken,
    questions: Vec<Question>,
}

/// What a question is asked with.
pub type Parameters = HashMap<String, String>;

/// What is answered: JSON, or why not.
pub type Answer = BoxFuture<'static, Result<serde_json::Value, Refusal>>;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// In a sentence.
    pub reason: String,
}

impl Refusal {
    /// The question makes no sense.
    pub fn bad_request(reason: impl Into<String>) -> Self {
        Self { status: 400, reason: reason.into() }
    }

    /// It asks for what there is not.
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self { status: 404, reason: reason.into() }
    }

    /// The agent broke while it answered.
    pub fn internal(reason: impl Into<String>) -> Self {
        Self { status: 500, reason: reason.into() }
    }

    /// It may be answered later.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { status: 503, reason: reason.into() }
    }
}

#[derive(Clone)]
struct Question {
    path: &'static str,
    help: &'static str,
    answer: Arc<dyn Fn(Parameters) -> Answer + Send + Sync>,
}

impl Admin {
    /// The same, which also answers `GET path`; `help` is its line on the index.
    #[must_use]
    pub fn answering(
        mut self,
        path: &'static str,
        help: &'static str,
        answer: impl Fn(Parameters) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.questions.push(Question { path, help, answer: Arc::new(answer) });
        self
    }

    /// `dump` is called for each `/config_dump`, off the runtime's threads; `quit` is cancelled by
    /// `/quitquitquit`.
    pub fn new(
        dump: impl Fn() -> ConfigDump + Send + Sync + 'static,
        log: LogControl,
        quit: CancellationToken,
    ) -> Self {
        Self { dump: Arc::new(dump), log, quit, questions: Vec::new() }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Serves the admin page until `stop`.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: CancellationToken,
) -> std::io::Result<()> {
    Door::private().serve(listener, router(admin), stop).await
}

fn router(admin: Admin) -> Router {
    let mut router = Router::new();
    for Question { path, answer, .. } in admin.questions.clone() {
        let ask = move |Query(parameters): Query<Parameters>| told(answer(parameters));
        router = router.route(path, get(ask));
    }
    router
        .route("/", get(index))
        .route("/config_dump", get(config_dump))
        .route("/logging", post(logging))
        .route("/quitquitquit", post(quit))
        .with_state(admin)
}

async fn told(answer: Answer) -> Response {
    match answer.await {
        Ok(value) => axum::Json(value).into_response(),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status);
            (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal.reason).into_response()
        }
    }
}

async fn index(State(admin): State<Admin>) -> String {
    let more = admin.questions.iter();
    let more = more.map(|question| format!("GET  {:<15} {}\n", question.path, question.help));
    INDEX.to_owned() + &more.collect::<String>()
}

const INDEX: &str = "GET  /config_dump    what the agent knows, as JSON\n\
     POST /logging        the log levels; ?level=debug, ?level=access=off, ?reset\n\
     POST /quitquitquit   drain and exit\n";

async fn config_dump(State(admin): State<Admin>) -> Response {
    let dump = Arc::clone(&admin.dump);
    written::json(move || dump()).await
}

async fn logging(State(admin): State<Admin>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let mut result = Ok(());
    for parameter in query.as_deref().unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        result = result.and_then(|()| match name {
            "reset" => admin.log.reset().map_err(|e| e.to_string()),
            "level" => admin.log.change(&unescape(value)).map_err(|e| e.to_string()),
            other => Err(format!("{other:?} is unknown: use level=... or reset")),
        });
    }
    match result {
        Ok(()) => (StatusCode::OK, format!("current log level is {}\n", admin.log.current())),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Undoes what HTTP clients do to `=`, `:` and `,` in a query.
fn unescape(text: &str) -> String {
    let pairs =
        [("%3D", "="), ("%3d", "="), ("%3A", ":"), ("%3a", ":"), ("%2C", ","), ("%2c", ",")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

async fn quit(State(admin): State<Admin>) -> &'static str {
    tracing::info!("asked to quit through the admin page");
    admin.quit.cancel();
    "shutting down\n"
}

#[cfg(test)]
mod tests;
