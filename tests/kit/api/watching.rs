//! Watches over HTTP: a stream of JSON lines.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::reply::View;
use super::request::{Form, Params};
use super::resource::Resource;
use super::selector::Selector;
use super::store::Store;
use super::table::Include;
use super::watch::{Event, Watch};

/// How long a watch lasts if the client does not say.
const LONGEST: Duration = Duration::from_secs(1800);
/// How often a client that wants bookmarks gets one.
const BOOKMARK: Duration = Duration::from_secs(10);

/// The state of a stream: what is watched, how it is shown, when it ends.
struct Stream {
    watch: Watch,
    resource: Arc<Resource>,
    version: String,
    form: Form,
    include: Include,
    bookmarks: bool,
    /// Tell when all that existed has been sent.
    marks_end: bool,
    ends: Instant,
    next_bookmark: Instant,
    stop: CancellationToken,
    over: bool,
}

/// Starts a watch.
///
/// # Errors
/// `BadRequest` for a query that does not parse.
pub(super) fn start(
    store: &Store,
    resource: &Arc<Resource>,
    (view, selector): (&View<'_>, Selector),
    params: &Params,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let initial = params.flag("sendInitialEvents");
    let from = match params.get("resourceVersion") {
        None | Some("0") => None,
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| ApiError::bad_request(format!("invalid resource version {text:?}")))?,
        ),
    };
    let watch = match from {
        Some(revision) if !initial => {
            Watch::from_revision(store, Arc::clone(resource), selector, revision)
        }
        _ => Watch::from_now(store, Arc::clone(resource), selector),
    };
    let asked = params.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok());
    let lasts = asked.filter(|s| *s > 0).map_or(LONGEST, Duration::from_secs).min(LONGEST);
    let now = Instant::now();
    let stream = Stream {
        watch,
        resource: Arc::clone(resource),
        version: view.version.to_owned(),
        form: view.form,
        include: view.include,
        bookmarks: params.flag("allowWatchBookmarks"),
        marks_end: initial,
        ends: now + lasts,
        next_bookmark: now + BOOKMARK,
        stop,
        over: false,
    };
    let lines = stream::unfold(stream, |mut stream| async move {
        let line = stream.next_line().await?;
        Some((Ok::<_, std::convert::Infallible>(line), stream))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

impl Stream {
    /// The next line, or none when the watch is over.
    async fn next_line(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            let wake = if self.bookmarks { self.ends.min(self.next_bookmark) } else { self.ends };
            let event = tokio::select! {
                () = self.stop.cancelled() => return None,
                event = timeout_at(wake, self.watch.next()) => event,
            };
            let Ok(event) = event else {
                if Instant::now() >= self.ends {
                    return None;
                }
                self.next_bookmark = Instant::now() + BOOKMARK;
                return Some(line("BOOKMARK", self.bookmark(false)));
            };
            match event {
                Ok(Event::Added(object)) => return Some(self.show("ADDED", &object)),
                Ok(Event::Modified(object)) => return Some(self.show("MODIFIED", &object)),
                Ok(Event::Deleted(object)) => return Some(self.show("DELETED", &object)),
                Ok(Event::Synced) if self.marks_end && self.bookmarks => {
                    return Some(line("BOOKMARK", self.bookmark(true)));
                }
                Ok(Event::Synced) => {}
                Err(error) => {
                    self.over = true;
                    return Some(line("ERROR", error.to_status()));
                }
            }
        }
    }

    fn show(&self, kind: &str, object: &Value) -> Bytes {
        let view = View {
            resource: &self.resource,
            version: &self.version,
            form: self.form,
            include: self.include,
        };
        line(kind, view.object(object))
    }

    fn bookmark(&self, end_of_initial: bool) -> Value {
        let mut metadata = json!({"resourceVersion": self.watch.cursor().to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let api_version = self.resource.api_version(&self.version);
        json!({"kind": self.resource.kind, "apiVersion": api_version, "metadata": metadata})
    }
}

fn line(kind: &str, object: Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    Bytes::from(line)
}
