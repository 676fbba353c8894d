//! The plugin's program on the node: put there, and proved to answer.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
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

/// What is read or written at a time, in bytes. A kernel that is not preempted within a call keeps a processor from
/// everybody else until a large one is done.
const PIECE: usize = 256 << 10;

/// Makes `to` the program `from`; tells whether it was not. Blocks.
pub(super) fn copy(from: &Path, to: &Path) -> Result<bool, InstallError> {
    let mut program = File::open(from).map_err(read(from))?;
    let is_there = match File::open(to) {
        Ok(found) => is_same(&mut program, found).map_err(read(to))? && mode(to)? & 0o111 != 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(read(to)(error)),
    };
    if !is_there {
        program.rewind().map_err(read(from))?;
        file::replace_with(to, 0o755, |file| in_pieces(&mut program, file)).map_err(write(to))?;
    }
    Ok(!is_there)
}

fn is_same(program: &mut File, mut found: File) -> io::Result<bool> {
    if program.metadata()?.len() != found.metadata()?.len() {
        return Ok(false);
    }
    let (mut piece, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = program.read(&mut piece)?;
        match found.read_exact(&mut other[..length]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if length == 0 || piece[..length] != other[..length] {
            return Ok(length == 0);
        }
    }
}

fn in_pieces(from: &mut File, to: &mut File) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            length => to.write_all(&piece[..length])?,
        }
    }
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

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::*;

    #[test]
    fn a_program_is_copied_unless_it_is_there_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for length in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let program: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            std::fs::write(&from, &program).unwrap();
            let mut others = vec![program.clone(), program.clone(), vec![], program.clone()];
            others[0][0] ^= 1;
            others[1][length - 1] ^= 1;
            others[3].push(0);
            for other in others {
                std::fs::write(&to, &other).unwrap();
                assert!(copy(&from, &to).unwrap(), "{length} and {} bytes", other.len());
                assert!(std::fs::read(&to).unwrap() == program, "{length} bytes");
                assert!(!copy(&from, &to).unwrap(), "{length} bytes");
            }
            set_permissions(&to, Permissions::from_mode(0o644)).unwrap();
            assert!(copy(&from, &to).unwrap(), "nobody may run it");
            assert_eq!(mode(&to).unwrap(), 0o755);
            std::fs::remove_file(&to).unwrap();
            assert!(copy(&from, &to).unwrap());
        }
    }
}
