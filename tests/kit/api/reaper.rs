//! Empties namespaces that are on their way out: a little later than asked for, so that a client that deletes a
//! namespace and its contents in one go still finds the contents.

use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::json::{at, string_at};
use super::store::Store;
use super::watch::Event;

/// How long the contents stay.
const PAUSE: Duration = Duration::from_secs(1);

/// Empties namespaces until the server stops.
pub(super) async fn run(store: Store, stop: CancellationToken) {
    while stop.run_until_cancelled(follow(&store)).await.is_some() {
        // The watch fell behind; the next one starts with all namespaces there are.
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(store: &Store) {
    let mut watch = match store.watch("namespaces", "") {
        Ok(watch) => watch,
        Err(error) => return tracing::error!(%error, "namespaces are not served"),
    };
    loop {
        match watch.next().await {
            Ok(Event::Added(namespace) | Event::Modified(namespace)) if ends(&namespace) => {
                tokio::time::sleep(PAUSE).await;
                store.with(|state| state.empty(string_at(&namespace, &["metadata", "name"])));
            }
            Ok(_) => {}
            Err(error) => return tracing::debug!(%error, "following namespaces again"),
        }
    }
}

fn ends(namespace: &Value) -> bool {
    at(namespace, &["metadata", "deletionTimestamp"]).is_some()
}
