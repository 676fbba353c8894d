//! Readiness: ready when nothing is pending any more, and what is pending is told by name. What is wrong without
//! being a reason to wait is remarked on.

use std::collections::BTreeMap;
use std::sync::Arc;

use arcstr::ArcStr;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::door::Door;

/// What keeps the agent from being ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// How many of each name are pending.
    pending: Arc<Mutex<BTreeMap<ArcStr, usize>>>,
    /// What is wrong, by what it is about.
    remarks: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Ready, as long as nothing is pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the returned value is dropped.
    #[must_use = "dropping it means ready"]
    pub fn pending(&self, name: impl Into<ArcStr>) -> Pending {
        let name = name.into();
        *self.pending.lock().entry(name.clone()).or_default() += 1;
        Pending { name, readiness: self.clone() }
    }

    /// Names of what is pending, sorted.
    pub fn missing(&self) -> Vec<ArcStr> {
        self.pending.lock().keys().cloned().collect()
    }

    /// Tells what is wrong with a part that nobody has to wait for, or that nothing is any more.
    pub fn remark(&self, about: &'static str, text: Option<String>) {
        let mut remarks = self.remarks.lock();
        match text {
            Some(text) => remarks.insert(about, text),
            None => remarks.remove(about),
        };
    }

    /// What is wrong, sorted by what it is about.
    pub fn remarks(&self) -> Vec<String> {
        self.remarks.lock().values().cloned().collect()
    }

    /// What is wrong, by what it is about.
    pub fn remarks_by_subject(&self) -> BTreeMap<&'static str, String> {
        self.remarks.lock().clone()
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.pending.lock().is_empty()
    }
}

/// Something that must happen before the agent is ready; dropped when it has.
#[derive(Debug)]
pub struct Pending {
    name: ArcStr,
    readiness: Readiness,
}

impl Pending {
    /// It has happened.
    pub fn done(self) {
        drop(self);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self.readiness.pending.lock();
        if let Some(count) = pending.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.name);
            }
        }
    }
}

/// Serves `GET /healthz/ready` until `stop`.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    stop: CancellationToken,
) -> std::io::Result<()> {
    Door::public().serve(listener, router(readiness), stop).await
}

fn router(readiness: Readiness) -> Router {
    Router::new().route("/healthz/ready", get(answer)).with_state(readiness)
}

async fn answer(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let missing = readiness.missing();
    let (status, mut text) = if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let text = format!("not ready, pending: {}", missing.join(", "));
        (StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    for remark in readiness.remarks() {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&remark);
        text.push('\n');
    }
    (status, text)
}

#[cfg(test)]
mod tests;
