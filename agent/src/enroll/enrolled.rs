//! The node's list of enrolled namespaces, on its disk: what the CNI plugin, which has no credentials,
//! goes by while it cannot ask the agent.
//!
//! The agent writes it whenever it changes, for the first time once it is ready. It survives the agent
//! and reboots, so that a pod of an enrolled namespace waits for the agent from the node's first moment
//! on. Its being there tells the plugin's installer that this node's agent has been ready once.
//!
//! A pod counts by its namespace alone: that is all the runtime tells of it. So a pod that opted out of
//! an enrolled namespace waits too, as do its neighbours where a pod of this node is enrolled by its own
//! label. What becomes enrolled while the agent is away is not on the list: such a pod starts at once,
//! and is captured when the agent is back, as one that ran before its namespace was labelled. The other
//! choice, to hold every pod back, would also hold back what the agent needs to come back.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Status;
use crate::error::chain;
use crate::sys::file;

/// Where the list is unless configured.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/sotto";
/// Its file.
const FILE: &str = "enrolled.json";
/// Pause before another try, and between looks while the agent is not ready yet.
const PAUSE: Duration = Duration::from_millis(500);

/// Namespaces with enrolled pods.
pub type Namespaces = Arc<BTreeSet<ArcStr>>;

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    namespaces: Namespaces,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The agent has not written it yet, or somebody removed it.
    #[error("{} is not there: the agent of this node writes it once it is ready", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what the agent writes.
    #[error("{} is no list of namespaces: the agent writes it anew once it is ready", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The list's file in the agent's directory of state.
pub fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Reads the list.
///
/// # Errors
/// It is not there, or not sound.
pub fn read(path: &Path) -> Result<Namespaces, ListError> {
    let bytes = std::fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ListError::Missing(path.to_owned()),
        _ => ListError::Read { path: path.to_owned(), source },
    })?;
    let content = serde_json::from_slice::<Content>(&bytes);
    let content = content.map_err(|source| ListError::Broken { path: path.to_owned(), source })?;
    Ok(content.namespaces)
}

fn write(path: &Path, namespaces: Namespaces) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    file::replace(path, &serde_json::to_vec(&Content { namespaces })?, 0o600)
}

/// Keeps the list in step with enrolment until `stop`; a node that has none gets it once `ready` says so.
pub async fn keep(
    path: PathBuf,
    mut status: watch::Receiver<Status>,
    ready: impl Fn() -> bool,
    stop: CancellationToken,
) {
    let mut written = read(&path).ok();
    let mut may_write = path.exists();
    loop {
        let wanted = status.borrow_and_update().namespaces.clone();
        may_write = may_write || ready();
        let mut pending = !may_write;
        if let Some(wanted) = wanted.filter(|wanted| may_write && written.as_ref() != Some(wanted))
        {
            let (file, list) = (path.clone(), Arc::clone(&wanted));
            // A disk may take its time.
            match tokio::task::spawn_blocking(move || write(&file, list)).await {
                Ok(Ok(())) => written = Some(wanted),
                Ok(Err(error)) => {
                    pending = true;
                    tracing::warn!(error = chain(&error), path = %path.display(),
                        "failed to write the list of enrolled namespaces, trying again");
                }
                Err(error) => tracing::error!(%error, "writing the list of namespaces panicked"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PAUSE), if pending => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(names: &[&str]) -> Namespaces {
        Arc::new(names.iter().map(|name| ArcStr::from(*name)).collect())
    }

    #[test]
    fn what_was_written_is_read_by_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_in(&dir.path().join("state"));
        assert!(matches!(read(&path), Err(ListError::Missing(_))));
        write(&path, namespaces(&["b", "a"])).unwrap();
        assert_eq!(read(&path).unwrap(), namespaces(&["a", "b"]));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        for broken in ["", "{", "[]", "{}", r#"{"namespaces":"shop"}"#] {
            std::fs::write(&path, broken).unwrap();
            assert!(matches!(read(&path), Err(ListError::Broken { .. })), "{broken}");
        }
    }

    /// Runs until `keep` has nothing more to do.
    async fn kept(path: &Path, status: &watch::Sender<Status>, ready: bool) {
        let stop = CancellationToken::new();
        let keep = keep(path.to_owned(), status.subscribe(), move || ready, stop.clone());
        let end = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            stop.cancel();
        };
        tokio::join!(keep, end);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_begun_by_an_agent_that_is_ready_and_carried_on_by_any() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_in(dir.path());
        let known =
            |names: &[&str]| Status { namespaces: Some(namespaces(names)), ..Status::default() };
        let (status, _) = watch::channel(known(&["shop"]));
        kept(&path, &status, false).await;
        assert!(matches!(read(&path), Err(ListError::Missing(_))), "never ready");
        kept(&path, &status, true).await;
        assert_eq!(read(&path).unwrap(), namespaces(&["shop"]));
        status.send_replace(known(&["shop", "bank"]));
        kept(&path, &status, false).await;
        assert_eq!(read(&path).unwrap(), namespaces(&["bank", "shop"]));
        status.send_replace(Status::default());
        kept(&path, &status, true).await;
        assert_eq!(
            read(&path).unwrap(),
            namespaces(&["bank", "shop"]),
            "nothing is known: it stays"
        );
    }
}
