//! What every long-running command does first and last: logs, the crypto provider, the runtime.

use std::process::ExitCode;

use crate::config::LogFormat;
use crate::observe::log::{self, Format, LinesPerPod, LogControl, LostLines};
use crate::sys::{priority, privileges};

/// Threads of the control runtime; data threads are apart.
const CONTROL_THREADS: usize = 2;

/// The process's log, as commands see it.
pub(super) struct Log {
    /// Changes levels.
    pub(super) control: LogControl,
    /// Lines that are not in it.
    pub(super) lost_lines: Box<dyn Fn() -> LostLines + Send + Sync>,
}

/// What is asked of the process's log.
#[derive(Debug, Clone)]
pub(super) struct Logging {
    pub(super) format: LogFormat,
    pub(super) level: String,
    pub(super) lines_per_pod: LinesPerPod,
}

impl Logging {
    /// Of a process that serves no pods.
    pub(super) fn of(format: LogFormat, level: impl Into<String>) -> Self {
        Self { format, level: level.into(), lines_per_pod: LinesPerPod(None) }
    }
}

/// Runs `command` on a runtime of its own; its failure is logged once, with all causes.
pub(super) fn run<F>(name: &str, logging: &Logging, command: impl FnOnce(Log) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    // Keys of the mesh's identities, or of its authority, are in memory.
    if let Err(error) = privileges::conceal() {
        return super::exit(Err(anyhow::Error::from(error).context("failed to forbid core dumps")));
    }
    let format = match logging.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let (control, guard) = match log::init(format, &logging.level, logging.lines_per_pod) {
        Ok(logging) => logging,
        Err(error) => return super::exit(Err(error.into())),
    };
    // Libraries that ask for the process's provider find the one provider there is; a second call
    // finds it installed.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .on_thread_start(step_back)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            runtime.block_on(command(Log { control, lost_lines: Box::new(guard.lost_lines()) }))
        }
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "{name} failed");
            ExitCode::FAILURE
        }
    }
}

/// What is learnt late is held until it is known; bytes that wait are only late. The data threads
/// are made by the main thread, which keeps its place.
fn step_back() {
    if let Err(error) = priority::step_back() {
        tracing::debug!(%error, "a control thread competes with data threads");
    }
}
