//! Who is in charge of a node: one agent at a time writes what is in its kernel and its files.
//!
//! Two locks, which the kernel releases when their holder ends, however it ends. Who has the first is in charge. Who has
//! the second waits to be: a successor gets ready before it takes that, so its predecessor serves until then.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{sleep, timeout};
use tracing::info;

/// Of who is in charge.
const CHARGE: &str = "agent.lock";
/// Of who waits to be.
const SUCCESSOR: &str = "successor.lock";
/// How often a lock is tried that somebody waits for...
const LOOK: Duration = Duration::from_millis(50);
/// ...and how often an agent looks whether somebody waits for it.
const ATTEND: Duration = Duration::from_secs(1);
/// How long another successor may be before us, and how long the agent in charge may take to give way.
const PATIENCE: Duration = Duration::from_secs(30);

/// The right to write a node's state, and the means to hand it on.
#[derive(Debug)]
pub(super) struct Charge {
    directory: PathBuf,
    held: Option<Flock<File>>,
    /// To an agent that knows nothing of this.
    lost: bool,
}

impl Charge {
    /// Takes charge: at once where nobody is in charge, else when `ready` and after the other has given way.
    ///
    /// # Errors
    /// The directory cannot be written, or the other agent does not give way.
    pub(super) async fn take(
        directory: &Path,
        ready: impl Future<Output = ()>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("failed to make {}", directory.display()))?;
        let mut charge = Self { directory: directory.to_owned(), held: None, lost: false };
        charge.held = charge.try_lock(CHARGE, FlockArg::LockExclusiveNonblock)?;
        if charge.held.is_some() {
            return Ok(charge);
        }
        info!("another agent is in charge of this node: getting ready to take over from it");
        ready.await;
        let waiting = charge.wait_for(SUCCESSOR, "another agent waits to take over, too").await?;
        charge.held = Some(charge.wait_for(CHARGE, "the agent in charge does not give way").await?);
        drop(waiting);
        info!("took over from the agent before");
        Ok(charge)
    }

    /// Waits until somebody is ready to take over.
    pub(super) async fn asked(&self) {
        loop {
            sleep(ATTEND).await;
            match self.try_lock(SUCCESSOR, FlockArg::LockSharedNonblock) {
                Ok(Some(_nobody)) => {}
                Ok(None) => return,
                Err(error) => tracing::debug!("who would take over is not known: {error:#}"),
            }
        }
    }

    /// Gives way.
    pub(super) fn give_up(&mut self) {
        self.held = None;
    }

    /// There is no way back from an agent that did not ask: its lock is free while it lives, so two would write.
    pub(super) fn lose(&mut self) {
        self.lost = true;
    }

    /// Waits until nobody is in charge any more, and nobody waits to be; then it is this agent again.
    pub(super) async fn regained(&mut self) {
        if self.lost {
            return std::future::pending().await;
        }
        loop {
            sleep(ATTEND).await;
            let Ok(Some(_nobody)) = self.try_lock(SUCCESSOR, FlockArg::LockSharedNonblock) else {
                continue;
            };
            if let Ok(Some(lock)) = self.try_lock(CHARGE, FlockArg::LockExclusiveNonblock) {
                self.held = Some(lock);
                return;
            }
        }
    }

    async fn wait_for(&self, name: &str, reason: &'static str) -> anyhow::Result<Flock<File>> {
        let waiting = async {
            loop {
                if let Some(lock) = self.try_lock(name, FlockArg::LockExclusiveNonblock)? {
                    return Ok(lock);
                }
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
            Err(anyhow!(
                "{reason}, after {} s: one agent a node ({})",
                PATIENCE.as_secs(),
                self.directory.join(name).display()
            ))
        })
    }

    /// None where somebody else has it.
    fn try_lock(&self, name: &str, how: FlockArg) -> anyhow::Result<Option<Flock<File>>> {
        let path = self.directory.join(name);
        let opened = || -> io::Result<File> {
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)
        };
        let failed = || format!("failed to lock {}", path.display());
        match Flock::lock(opened().with_context(failed)?, how) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// As [`Charge::take`], ready at once.
    async fn take(directory: &Path) -> Charge {
        Charge::take(directory, async {}).await.unwrap()
    }

    #[tokio::test]
    async fn where_nobody_is_in_charge_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        Charge::take(directory.path(), std::future::pending()).await.unwrap();
        // Nor after an agent that has ended.
        Charge::take(directory.path(), std::future::pending()).await.unwrap();
    }

    #[tokio::test]
    async fn a_successor_asks_only_when_it_is_ready_and_takes_what_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = take(directory.path()).await;
        let (ready, is_ready) = oneshot::channel::<()>();
        let path = directory.path().to_owned();
        let second =
            tokio::spawn(
                async move { Charge::take(&path, async { is_ready.await.unwrap() }).await },
            );
        assert!(timeout(ATTEND * 3, first.asked()).await.is_err(), "it is not ready yet");
        ready.send(()).unwrap();
        first.asked().await;
        assert!(!second.is_finished());
        first.give_up();
        let second = second.await.unwrap().unwrap();
        assert!(timeout(ATTEND * 3, first.regained()).await.is_err(), "another is in charge");
        drop(second);
        first.regained().await;
        assert!(timeout(ATTEND * 3, first.asked()).await.is_err(), "nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_lost_to_an_agent_that_did_not_ask_is_not_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = take(directory.path()).await;
        first.give_up();
        first.lose();
        assert!(timeout(ATTEND * 10, first.regained()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_give_way_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let _stuck = take(directory.path()).await;
        let error = Charge::take(directory.path(), async {}).await.unwrap_err();
        assert!(error.to_string().contains("does not give way"), "{error:#}");
    }
}
