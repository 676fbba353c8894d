//! Runs host commands and turns their failures into errors that say what was run and what it said.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command to its end; anything but exit 0 is an error that carries its stderr.
pub fn run<I, S>(program: &str, args: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    checked(&command, output)
}

/// Like [`run`], with `input` on its stdin.
pub fn feed<I, S>(program: &str, args: I, input: &str) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    use std::io::Write;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
    let mut stdin = child.stdin.take().context("stdin of a child just started")?;
    // Not read by a program that fails early: its stderr tells more than the broken pipe.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for {command:?}"))?;
    let said = checked(&command, output)?;
    written.with_context(|| format!("write to {command:?}"))?;
    Ok(said)
}

/// Runs `ip` with the words of `line`.
pub fn ip(line: &str) -> Result<String> {
    run("ip", line.split_whitespace())
}

/// Runs many `ip` commands at once in the network namespace `netns`; stops at the first that fails.
pub fn ip_batch(netns: &str, lines: &[String]) -> Result<()> {
    feed("ip", ["-n", netns, "-batch", "-"], &lines.join("\n"))
        .with_context(|| format!("in {netns}: {lines:?}"))?;
    Ok(())
}

fn checked(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
