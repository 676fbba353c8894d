//! The admin page on localhost: `/config_dump`, `/logging`, `/quitquitquit`, as istioctl uses them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::dump::ConfigDump;
use super::log::LogControl;

/// What the admin page shows and changes.
#[derive(Clone)]
pub struct Admin {
    dump: Arc<dyn Fn() -> ConfigDump + Send + Sync>,
    log: LogControl,
    quit: CancellationToken,
}

impl Admin {
    /// `dump` is called for each `/config_dump`, off the runtime's threads; `quit` is cancelled by
    /// `/quitquitquit`.
    pub fn new(
        dump: impl Fn() -> ConfigDump + Send + Sync + 'static,
        log: LogControl,
        quit: CancellationToken,
    ) -> Self {
        Self { dump: Arc::new(dump), log, quit }
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
    axum::serve(listener, router(admin)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/config_dump", get(config_dump))
        .route("/logging", post(logging))
        .route("/quitquitquit", post(quit))
        .with_state(admin)
}

async fn index() -> &'static str {
    "GET  /config_dump    what the agent knows, as JSON\n\
     POST /logging        the log levels; ?level=debug, ?level=access=off, ?reset\n\
     POST /quitquitquit   drain and exit\n"
}

async fn config_dump(State(admin): State<Admin>) -> Response {
    let dump = Arc::clone(&admin.dump);
    let text = tokio::task::spawn_blocking(move || serde_json::to_string_pretty(&dump())).await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
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
