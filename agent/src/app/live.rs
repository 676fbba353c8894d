//! Settings that change while the agent runs, and those whom they are for.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::pods::SharedKernel;
use crate::config::{AgentConfig, ConfigErrors, LiveSettings, UnknownDestinations};
use crate::observe::log::LogControl;
use crate::observe::ready::Readiness;
use crate::sys::files;

/// How soon the kernel is told again what it did not take.
const RETRY: Duration = Duration::from_secs(1);
/// What a remark of readiness is about.
const REMARK: &str = "live settings";

/// What counts now.
#[derive(Debug, Clone)]
pub(super) struct Live(watch::Receiver<LiveSettings>);

impl Live {
    pub(super) fn now(&self) -> LiveSettings {
        self.0.borrow().clone()
    }

    /// Tells the programs what becomes of destinations outside the mesh, now and when it changes, until `stop`: only while
    /// this agent is in charge. What they did not take they are told again.
    pub(super) async fn tell_kernel(mut self, kernel: SharedKernel, stop: CancellationToken) {
        loop {
            let mode = self.0.borrow_and_update().unknown_destinations;
            let kernel = kernel.clone();
            let tell = move || kernel.lock().capture_unknown(mode == UnknownDestinations::Proxy);
            let again = match tokio::task::spawn_blocking(tell).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    warn!(%error, "failed to tell the kernel what becomes of destinations outside the mesh; will try again");
                    Some(sleep(RETRY))
                }
                Err(error) => {
                    return warn!(%error, "telling the kernel of destinations outside the mesh panicked");
                }
            };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() { return },
                Some(()) = OptionFuture::from(again) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Follows the folder of settings.
pub(super) struct Follower {
    folder: Option<PathBuf>,
    flags: LiveSettings,
    now: watch::Sender<LiveSettings>,
    log: LogControl,
    readiness: Readiness,
}

impl Follower {
    /// What counts, by the flags until the folder is read.
    pub(super) fn new(config: &AgentConfig, log: LogControl, readiness: Readiness) -> (Self, Live) {
        let flags = LiveSettings::of(config);
        let (now, live) = watch::channel(flags.clone());
        (Self { folder: config.live_settings.clone(), flags, now, log, readiness }, Live(live))
    }

    /// Takes over what is in the folder whenever that changes, and at SIGHUP, until `stop`. With a mistake in it, all stays
    /// as it is.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Some(folder) = self.folder.clone() else { return };
        let watched = LiveSettings::files(&folder);
        let this = Arc::new(self);
        let read = move || this.take(this.flags.read(&folder));
        files::follow(watched, stop, "settings stay as they are", read).await;
    }

    fn take(&self, read: Result<LiveSettings, ConfigErrors>) -> io::Result<()> {
        let read = read.inspect_err(|mistakes| {
            self.readiness.remark(REMARK, Some(mistakes.to_string()));
        });
        let read = read.map_err(io::Error::other)?;
        self.readiness.remark(REMARK, None);
        let before = self.now.borrow().clone();
        if read == before {
            return Ok(());
        }
        if read.log_level != before.log_level {
            self.log.settle(&read.log_level).map_err(io::Error::other)?;
        }
        info!(?read, "settings have changed");
        self.now.send_replace(read);
        Ok(())
    }
}
