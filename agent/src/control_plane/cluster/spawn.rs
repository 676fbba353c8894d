//! How the tasks here end: with the token.

use crate::sys::Shutdown;

/// Runs `task` until `shutdown` says so.
pub(super) fn spawn(shutdown: &Shutdown, task: impl Future<Output = ()> + Send + 'static) {
    let stop = shutdown.token.clone();
    // Boxed: a watcher's state machine is large.
    let task = Box::pin(task);
    shutdown.spawn(async move { stop.run_until_cancelled(task).await });
}
