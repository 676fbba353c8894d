//! Files that are read again whenever they change, and at SIGHUP. Kubernetes replaces those that it mounts under our feet, by a link on
//! the way to them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::chain;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is told, in looks, that one cannot be read.
const TELL: u32 = 30;

/// Has `read` read the files now, whenever one of them has changed, and at SIGHUP, until `stop`. It is tried again until it
/// succeeds; `stale` says then and now what counts meanwhile.
pub async fn follow<E>(
    files: Vec<PathBuf>,
    stop: CancellationToken,
    stale: &'static str,
    read: impl Fn() -> Result<(), E> + Clone + Send + 'static,
) where
    E: std::error::Error + Send + 'static,
{
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hangups = signal(SignalKind::hangup())
        .inspect_err(|error| tracing::warn!(%error, "SIGHUP is not heard"))
        .ok();
    let (mut seen, mut failures) = (None, 0u32);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
            Some(Some(())) = OptionFuture::from(hangups.as_mut().map(Signal::recv)) => {
                (seen, failures) = (None, 0);
            }
        }
        let (files, read) = (files.clone(), read.clone());
        let look = move || {
            let now = files.iter().map(|file| stamp(file)).collect::<Vec<_>>();
            let changed = seen.as_ref() != Some(&now);
            let read = changed.then(read);
            (now, read)
        };
        let Ok((now, read)) = tokio::task::spawn_blocking(look).await else { return };
        // What cannot be read is tried again.
        seen = match read {
            Some(Err(error)) => {
                if failures.is_multiple_of(TELL) {
                    tracing::error!(error = chain(&error), "{stale}");
                }
                failures = failures.saturating_add(1);
                None
            }
            Some(Ok(())) => {
                failures = 0;
                Some(now)
            }
            None => Some(now),
        };
    }
}

/// Changes when a file does, also when a link on the way to it leads elsewhere.
fn stamp(file: &Path) -> Option<(u64, u64, i64, i64)> {
    let seen = std::fs::metadata(file).ok()?;
    Some((seen.ino(), seen.size(), seen.mtime(), seen.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Instant;

    use nix::sys::signal::{Signal as Number, raise};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn files_are_read_when_they_change_and_at_a_hangup() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        let (reads, mut read) = mpsc::channel(8);
        let of_read = file.clone();
        let look = move || {
            let content = std::fs::read_to_string(&of_read)?;
            reads.try_send(content).map_err(io::Error::other)
        };
        let stop = CancellationToken::new();
        let following =
            tokio::spawn(follow(vec![file.clone()], stop.clone(), "it is as it was", look));
        std::fs::write(&file, "one").expect("it can be written");
        assert_eq!(read.recv().await.as_deref(), Some("one"));
        std::fs::write(&file, "two!").expect("it can be written");
        assert_eq!(read.recv().await.as_deref(), Some("two!"));
        let asked = Instant::now();
        raise(Number::SIGHUP).expect("it can be raised");
        assert_eq!(read.recv().await.as_deref(), Some("two!"));
        assert!(asked.elapsed() < LOOK, "it waits for no look");
        stop.cancel();
        following.await.expect("it ends");
    }
}
