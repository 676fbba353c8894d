//! Keeps a node as wanted.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{InstallError, Node, Wanted, ensure, files, put_list, write};
use crate::error::chain;
use crate::sys::file;

/// How often the network's configuration is looked at. A look reads a few small files.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while our list is not there, so that a network that comes is without it for a moment only.
const LOOK_OFTEN: Duration = Duration::from_millis(100);
/// How long the network's own file may be away before our list follows: installers that remove and
/// write it again must not leave a moment in which pods start without the mesh.
const AWAY: Duration = Duration::from_secs(30);
/// How often a failure that stays is told again.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Makes the node as wanted and keeps it so until stopped; `done` says whether it is. What is installed
/// stays when this stops, so that no pod starts uncaptured while the agent is replaced.
///
/// Reads and writes files where it stands: give it a runtime of its own.
///
/// # Cancel safety
/// Stops between two looks only, so no change is left half done.
pub async fn keep(
    node: &Node,
    wanted: Wanted,
    done: &watch::Sender<bool>,
    stop: &CancellationToken,
) {
    let mut keeper = Keeper { node, wanted, proved: false, away_since: None, told: None };
    loop {
        let looked = keeper.look().await;
        done.send_replace(looked.is_ok());
        keeper.tell(looked);
        let lacks = wanted == Wanted::Installed && !node.list().exists();
        let pause = if lacks { LOOK_OFTEN } else { LOOK_EVERY };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

struct Keeper<'a> {
    node: &'a Node,
    wanted: Wanted,
    /// The program was seen to answer, as it is now.
    proved: bool,
    /// The file that our list was made of is away since then.
    away_since: Option<Instant>,
    /// The last failure, and when it was told.
    told: Option<(String, Instant)>,
}

impl Keeper<'_> {
    async fn look(&mut self) -> Result<bool, InstallError> {
        if self.wanted == Wanted::Removed {
            return ensure(self.node, Wanted::Removed).await;
        }
        if self.is_away()? {
            return Ok(false);
        }
        // A program that is there and was proved is not read again every time.
        let changed = if self.proved && self.node.plugin().exists() {
            put_list(self.node)?
        } else {
            self.proved = false;
            let copied = super::put_program(self.node).await?;
            self.proved = true;
            put_list(self.node)? || copied
        };
        Ok(changed)
    }

    /// Whether the network's file is away and our list stays as it is for now. When it has been away
    /// for long, ours goes if no other takes its place: a node whose network was removed must say so.
    fn is_away(&mut self) -> Result<bool, InstallError> {
        let node = self.node;
        let current = node.current();
        let source = current.as_ref().and_then(|list| list.source());
        if source.is_none_or(|source| node.conf_dir.join(source).exists()) {
            self.away_since = None;
            return Ok(false);
        }
        let since = *self.away_since.get_or_insert_with(Instant::now);
        if since.elapsed() < AWAY {
            return Ok(true);
        }
        if let Err(InstallError::NoNetwork(dir)) = files::primary(node) {
            file::remove(&node.list()).map_err(write(&node.list()))?;
            warn!(conf_dir = %dir.display(), "the network's configuration is gone, and our list with it");
        }
        Ok(false)
    }

    fn tell(&mut self, looked: Result<bool, InstallError>) {
        match looked {
            Ok(changed) => {
                self.told = None;
                if changed {
                    let wanted = self.wanted;
                    info!(?wanted, conf_dir = %self.node.conf_dir.display(), "cni configuration changed");
                }
            }
            Err(error) => {
                let error = chain(&error);
                let old = self.told.as_ref();
                if old.is_none_or(|(told, at)| *told != error || at.elapsed() > TELL_EVERY) {
                    warn!(error, "cni configuration not changed, trying again");
                    self.told = Some((error, Instant::now()));
                }
            }
        }
    }
}
