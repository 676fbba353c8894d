//! Commands that end in time: by themselves, at their deadline, or when the suite is interrupted.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Set once, by a signal.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Set once what is left to do is to remove what was made.
static TIDYING: AtomicBool = AtomicBool::new(false);

/// How often a running command is looked at.
const STEP: Duration = Duration::from_millis(20);

/// From now on SIGINT and SIGTERM end the commands that run, and not this program, so that it can tidy up.
pub(super) fn watch_signals() -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("failed to block signals")?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            eprintln!("interrupted: removing what was made");
            INTERRUPTED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Whether the suite was interrupted.
pub(super) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed) && !TIDYING.load(Ordering::Relaxed)
}

/// Lets commands run again, and to their end: what removes the suite's objects is not interrupted.
pub(super) fn tidy_up() {
    TIDYING.store(true, Ordering::Relaxed);
}

/// What a command said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// 0 is success; a signal counts as -1.
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Said {
    /// Its last words, for a table's cell or an error.
    pub(super) fn last_line(&self) -> &str {
        let told = if self.err.trim().is_empty() { &self.out } else { &self.err };
        // What `kubectl exec` adds says no more than the exit code.
        let added = "command terminated with exit code";
        told.trim().lines().rev().find(|line| !line.starts_with(added)).unwrap_or_default()
    }
}

/// Runs a command with `input` on its stdin; it may say what it likes.
///
/// # Errors
/// It cannot be started, or is still running after `limit`: then it is killed.
pub(super) fn run(command: &mut Command, input: &str, limit: Duration) -> Result<Said> {
    let running = Running::start(command, input)?;
    running.finish(limit).with_context(|| format!("{command:?}"))
}

/// A command that has been started. It ends with this, if it has not by itself.
pub(super) struct Running {
    child: Owned,
    out: JoinHandle<String>,
    err: JoinHandle<String>,
}

impl Running {
    pub(super) fn start(command: &mut Command, input: &str) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("failed to run {command:?}"))?;
        let mut stdin = child.stdin.take().context("stdin of a child just started")?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let input = input.to_owned();
        // Of its own: a command that does not read must not hold us up. That it did not read is told by its exit.
        std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        Ok(Self { child: Owned(child), out, err })
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It is still running after `limit`, or the suite is interrupted: then it is killed.
    pub(super) fn finish(mut self, limit: Duration) -> Result<Said> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.0.try_wait().context("failed to wait for it")? {
                let said = |text: JoinHandle<String>| text.join().unwrap_or_default();
                let code = status.code().unwrap_or(-1);
                return Ok(Said { code, out: said(self.out), err: said(self.err) });
            }
            if interrupted() || Instant::now() > deadline {
                self.child.0.kill().context("failed to kill it")?;
                self.child.0.wait().context("failed to wait for it")?;
                if interrupted() {
                    bail!("interrupted");
                }
                bail!("did not end within {} s", limit.as_secs());
            }
            std::thread::sleep(STEP);
        }
    }
}

/// What is forgotten would go on when the suite has ended, with the port that it listens at.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended, and been waited for: then there is nothing to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks ends the text; the exit code tells the rest.
            drop(pipe.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::{Running, run};

    #[test]
    fn what_a_command_says_is_kept_apart() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat; echo wrong >&2; exit 3"]);
        let said = run(&mut shell, "right\n", Duration::from_secs(20)).expect("it runs");
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (3, "right\n", "wrong\n"));
        assert_eq!(said.last_line(), "wrong");
        let err = String::from("curl: (56) reset\ncommand terminated with exit code 56\n");
        assert_eq!(super::Said { err, ..said }.last_line(), "curl: (56) reset");
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let mut shell = Command::new("sleep");
        shell.arg("60");
        let error = run(&mut shell, "", Duration::from_millis(50)).expect_err("it sleeps longer");
        assert!(format!("{error:#}").contains("did not end"), "{error:#}");
    }

    #[test]
    fn a_command_that_nobody_waits_for_ends() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec sleep 60"]);
        let running = Running::start(&mut shell, "").expect("it runs");
        let there = format!("/proc/{}", running.child.0.id());
        assert!(std::path::Path::new(&there).exists());
        drop(running);
        assert!(!std::path::Path::new(&there).exists());
    }
}
