//! The plugin's program on the node: put there, and proved to answer.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{InstallError, read, write};
use crate::enroll::plugin::SUPPORTED_VERSIONS;
use crate::sys::file;

/// Longest wait for its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A file that is busy is tried so often, with this pause.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Why the program would not do as a plugin.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It cannot be run.
    #[error("it cannot be run (is its directory mounted noexec?)")]
    Run(#[source] io::Error),
    /// It does not answer.
    #[error("it does not answer within {ANSWER:?}")]
    Silent,
    /// Its answer is none.
    #[error("it exits with {0} and prints {1:?}")]
    Answer(std::process::ExitStatus, String),
}

/// Makes `to` the program `from`; tells whether it was not.
pub(super) fn copy(from: &Path, to: &Path) -> Result<bool, InstallError> {
    let program = std::fs::read(from).map_err(read(from))?;
    let is_there = match std::fs::read(to) {
        Ok(found) => found == program && mode(to)? & 0o111 != 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(read(to)(error)),
    };
    if !is_there {
        file::replace(to, &program, 0o755).map_err(write(to))?;
    }
    Ok(!is_there)
}

/// Asks it for its versions, as a runtime does: without arguments.
pub(super) async fn prove(program: &Path) -> Result<(), InstallError> {
    ask(program).await.map_err(|source| InstallError::Program { path: program.to_owned(), source })
}

async fn ask(program: &Path) -> Result<(), ProofError> {
    let child = start(program).await.map_err(ProofError::Run)?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    let answer = tokio::task::spawn_blocking(move || answer(child));
    let output = match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(output)) => output.map_err(ProofError::Run)?,
        Ok(Err(_)) => return Err(ProofError::Silent),
        Err(_) => {
            // The thread above still waits for it, so the number is its own.
            let killed = pid.map(|pid| kill(pid, Signal::SIGKILL));
            tracing::debug!(?killed, "the plugin does not answer");
            return Err(ProofError::Silent);
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told: Value = serde_json::from_str(&said).unwrap_or_default();
    if output.status.success() && told["supportedVersions"] == json!(SUPPORTED_VERSIONS) {
        return Ok(());
    }
    Err(ProofError::Answer(output.status, said))
}

/// A file just written is busy for as long as another thread's child, which has not become its program
/// yet, holds it open.
async fn start(program: &Path) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.env("CNI_COMMAND", "VERSION").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    for _ in 0..BUSY_TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
            other => return other,
        }
        tokio::time::sleep(BUSY_PAUSE).await;
    }
    command.spawn()
}

fn answer(mut child: Child) -> io::Result<Output> {
    if let Some(mut stdin) = child.stdin.take() {
        let question = json!({ "cniVersion": "1.0.0" }).to_string();
        let written = stdin.write_all(question.as_bytes());
        tracing::trace!(?written, "one that does not read may still answer");
    }
    child.wait_with_output()
}

pub(super) fn mode(path: &Path) -> Result<u32, InstallError> {
    Ok(std::fs::metadata(path).map_err(read(path))?.permissions().mode() & 0o777)
}

/// The program of this process: it is the plugin, too.
///
/// # Errors
/// `/proc` is not there.
pub fn own() -> Result<PathBuf, InstallError> {
    std::env::current_exe().map_err(read(Path::new("/proc/self/exe")))
}
