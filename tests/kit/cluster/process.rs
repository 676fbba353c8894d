//! A long-running program of the cluster: started, ended, measured, its log kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::apps::client::{self, Answer};
use crate::launch::Launch;
use crate::netns;

/// A program with its way to be started again.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    log: PathBuf,
    netns: String,
    child: Option<Child>,
}

/// What a process used so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// The most of it there ever was.
    pub peak_rss_bytes: u64,
    /// Seconds of CPU, user and system.
    pub cpu_seconds: f64,
}

impl Process {
    /// A program that is not started yet.
    pub fn new(argv: Vec<String>, cgroup: PathBuf, netns: &str, log: PathBuf) -> Self {
        let launch = Launch {
            argv,
            cgroup,
            netns: Some(netns::path(netns)),
            log: Some(log.clone()),
            ..Launch::default()
        };
        Self { launch, log, netns: netns.to_owned(), child: None }
    }

    /// Makes it a process of the node with this first process, from its next start on.
    pub fn set_node(&mut self, first: u32) {
        self.launch.node = Some(first);
    }

    /// Adds to its environment, from its next start on.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.launch.env.retain(|(name, _)| name != key);
        self.launch.env.push((key.to_owned(), value.to_owned()));
    }

    /// Its arguments, which may be changed for its next start.
    pub fn argv_mut(&mut self) -> &mut Vec<String> {
        &mut self.launch.argv
    }

    /// Starts it, if it does not run.
    ///
    /// # Errors
    /// As [`Launch::spawn`].
    pub fn start(&mut self) -> Result<()> {
        if !self.runs() {
            self.child = Some(self.launch.spawn()?);
        }
        Ok(())
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process id, as long as it was not seen to end.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it does not run")?;
        child.kill().await.context("kill")
    }

    /// Waits for a process that was killed by other means; fine if it never ran.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn reap(&mut self) -> Result<()> {
        if let Some(child) = self.child.as_mut() {
            child.wait().await.context("wait")?;
        }
        Ok(())
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// It does not run, or does not end within `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let pid = i32::try_from(self.pid().context("it does not run")?)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("send SIGTERM")?;
        let child = self.child.as_mut().context("it does not run")?;
        let ended = tokio::time::timeout(limit, child.wait()).await;
        ended.with_context(|| format!("it does not end within {limit:?}"))?.context("wait")
    }

    /// GETs `path` at `port` of its own loopback address.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, port: u16, path: &str) -> Result<Answer> {
        get_within(&self.netns, port, path).await
    }

    /// Memory and CPU it used so far.
    ///
    /// # Errors
    /// It does not run.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.pid().context("it does not run")?;
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        let status = read("status").context("read its status")?;
        let stat = read("stat").context("read its stat")?;
        parse_usage(&status, &stat).context("understand its status")
    }

    /// Where its output goes.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// All it wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines it wrote.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let skip = log.lines().count().saturating_sub(lines);
        log.lines().skip(skip).map(|line| format!("    {line}\n")).collect()
    }
}

/// GETs `path` of `127.0.0.1:port` inside a network namespace.
async fn get_within(netns: &str, port: u16, path: &str) -> Result<Answer> {
    use std::io::{Read, Write};
    // Of that version, so that no answer comes in pieces.
    let (netns, request) =
        (netns.to_owned(), format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"));
    let ask = move || -> Result<Answer> {
        let limit = Duration::from_secs(5);
        let open = || std::net::TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), limit);
        let mut stream = netns::within(&netns, open)?.context("connect")?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(request.as_bytes())?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).context("read the answer")?;
        client::parse(&String::from_utf8_lossy(&text))
    };
    tokio::task::spawn_blocking(ask).await?.with_context(|| format!("GET :{port}{path}"))
}

fn parse_usage(status: &str, stat: &str) -> Option<Usage> {
    let bytes = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    // USER_HZ is 100 on every architecture that Linux runs Rust on.
    Some(Usage {
        rss_bytes: bytes("VmRSS:")?,
        peak_rss_bytes: bytes("VmHWM:")?,
        cpu_seconds: (user + system) / 100.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "7 (a) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 424242 1000 2";
        let usage = parse_usage("Name:\ta\nVmHWM:\t  20 kB\nVmRSS:\t  10 kB\n", stat).unwrap();
        assert_eq!(usage, Usage { rss_bytes: 10240, peak_rss_bytes: 20480, cpu_seconds: 2.0 });
        assert_eq!(parse_usage("", stat), None);
    }
}
