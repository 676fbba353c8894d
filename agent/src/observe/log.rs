//! Logs, in Istio's format: `time<TAB>level<TAB>scope<TAB>message<TAB>key=value ...`, or JSON with the same keys.
//!
//! Lines go through a bounded queue to a thread that writes them, so that a slow reader of our
//! output never holds a connection up: when the queue is full, lines are dropped and counted, first those of the
//! pod that has the most ([`of_pod`]). And of one pod only so many are written a second.

mod format;
mod level;
mod queue;
mod writer;

use std::io;
use std::sync::Arc;

use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

pub use self::format::Format;
use self::format::LineFormat;
pub use self::level::{LevelError, LogControl, check_level};
pub(crate) use self::queue::of_pod;
pub use self::queue::{LinesPerPod, LostLines};
pub use self::writer::LogGuard;
use self::writer::QueueWriter;

/// The target of lines about connections.
pub(super) const ACCESS: &str = "access";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is malformed.
    #[error("failed to parse the log level")]
    Level(#[from] LevelError),
    /// The process has a logger already.
    #[error("failed to install the logger")]
    Install(#[from] TryInitError),
    /// No thread to write lines.
    #[error("failed to start the log writer")]
    Thread(#[source] io::Error),
}

/// Sends the process's logs to standard output. `level` is as `info` or `info,access=off`; a pod has no more than
/// `of_pods`.
///
/// Lines still queued are written when the guard is dropped: keep it until the end.
///
/// # Errors
/// The level is malformed, or a logger is installed already.
pub fn init(
    format: Format,
    level: &str,
    of_pods: LinesPerPod,
) -> Result<(LogControl, LogGuard), LogError> {
    let levels = level::Levels::parse(level)?;
    let (filter, handle) = reload::Layer::<_, Registry>::new(levels.targets());
    let (writer, guard) = QueueWriter::start(io::stdout(), of_pods).map_err(LogError::Thread)?;
    let layer = fmt::layer()
        .with_ansi(false)
        .event_format(LineFormat::new(format, SystemTime))
        .with_writer(writer)
        .with_filter(filter);
    tracing_subscriber::registry().with(layer).try_init()?;
    let apply = move |targets| handle.reload(targets).is_ok();
    Ok((LogControl::new(levels, Arc::new(apply)), guard))
}

#[cfg(test)]
mod tests;
