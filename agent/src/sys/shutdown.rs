//! Orderly ends: every task is owned by a [`Shutdown`], told to stop, waited for, up to a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns tasks. Clones share the token and the tasks.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled when it is time to stop accepting work.
    pub token: CancellationToken,
    /// The tasks that are waited for.
    pub tracker: TaskTracker,
}

/// Tasks that were still running at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} tasks were still running at the drain deadline")]
pub struct Unfinished(pub usize);

impl Shutdown {
    /// A new, empty owner.
    pub fn new() -> Self {
        Self::default()
    }

    /// An owner of its own tasks that is told to stop together with this one.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tracker: TaskTracker::new() }
    }

    /// Starts a task on the current runtime. It should watch a clone of [`Self::token`].
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Starts a task on the current `LocalSet`.
    pub fn spawn_local<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.tracker.spawn_local(task)
    }

    /// Tells every task to stop and waits for them, at most `deadline`.
    ///
    /// # Errors
    /// Tasks were left; the caller drops their runtime to end them.
    pub async fn drain(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.token.cancel();
        self.tracker.close();
        match tokio::time::timeout(deadline, self.tracker.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Unfinished(self.tracker.len())),
        }
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The signal handlers cannot be installed.
pub async fn requested() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_the_tasks_and_names_the_unfinished() {
        let shutdown = Shutdown::new();
        let token = shutdown.token.clone();
        shutdown.spawn(async move { token.cancelled().await });
        assert_eq!(shutdown.drain(Duration::from_secs(1)).await, Ok(()));

        let stuck = Shutdown::new();
        stuck.spawn(std::future::pending::<()>());
        assert_eq!(stuck.drain(Duration::from_secs(1)).await, Err(Unfinished(1)));
    }
}
