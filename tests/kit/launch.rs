//! Starts a process where it belongs: in its cgroup first, then its network namespace, then a mount
//! namespace of its own with a few files replaced.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::netns;

/// How a process is started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The cgroup it joins before anything else.
    pub cgroup: PathBuf,
    /// The pin of its network namespace; the host's if none.
    pub netns: Option<PathBuf>,
    /// A process whose mount namespace it joins.
    pub mounts_of: Option<u32>,
    /// A process whose cgroup namespace it joins.
    pub cgroups_of: Option<u32>,
    /// The first process of the node that it is a process of; the host's if none.
    pub node: Option<u32>,
    /// Files to show over others: (source, target); makes a mount namespace of its own.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Environment added to the kit's own.
    pub env: Vec<(String, String)>,
    /// Where stdout and stderr go, appended.
    pub log: Option<PathBuf>,
}

impl Launch {
    /// Starts it and returns at once.
    ///
    /// # Errors
    /// No shell, or the log cannot be opened. A program that is not there is only told in the log.
    pub fn spawn(&self) -> Result<Child> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(path) = &self.log {
            let log = OpenOptions::new().create(true).append(true).open(path);
            let log = log.with_context(|| format!("open {}", path.display()))?;
            command.stderr(log.try_clone()?).stdout(log);
        }
        self.start(&mut command).with_context(|| format!("start {:?}", self.argv))
    }

    /// Starts a command that was made of this, among the processes of its node.
    ///
    /// # Errors
    /// The node is gone, or the command cannot be started.
    pub fn start(&self, command: &mut Command) -> std::io::Result<Child> {
        match self.node {
            Some(init) => netns::start_beside(init, command),
            None => command.spawn(),
        }
    }

    /// The command with its stdout to be read, to start in another way.
    pub fn piped(&self) -> Command {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// Runs it to its end, `input` on its stdin, and returns what it said.
    ///
    /// # Errors
    /// It cannot be started, or runs longer than `limit` (it is killed then).
    pub async fn output(&self, input: &[u8], limit: Duration) -> Result<Output> {
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let started = self.start(&mut command);
        let mut child = started.with_context(|| format!("start {:?}", self.argv))?;
        let mut stdin = child.stdin.take().context("stdin of a child just started")?;
        let work = async {
            // A program that does not read its input is no error: its exit status tells.
            let unread = stdin.write_all(input).await;
            tracing::trace!(?unread, "input given");
            drop(stdin);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(limit, work).await;
        let output =
            output.with_context(|| format!("{:?} runs longer than {limit:?}", self.argv))?;
        output.with_context(|| format!("wait for {:?}", self.argv))
    }

    /// The command for the terminal of the one who asks: to be run as it is.
    pub fn foreground(&self) -> std::process::Command {
        let mut command = std::process::Command::new("sh");
        command.args(self.words());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// The command, to be started with ends of its own.
    pub fn command(&self) -> Command {
        let mut command = Command::from(self.foreground());
        // A group of its own: a ctrl-C at the terminal reaches the kit alone, which then cleans up.
        command.process_group(0);
        command
    }

    /// What `sh` is given: join the cgroup, enter the namespaces, replace files, become the program.
    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#].map(String::from).into();
        words.push(self.cgroup.display().to_string());
        words.extend(self.enter());
        words.extend(self.replace_files());
        words.extend(self.argv.iter().cloned());
        words
    }

    /// `ip netns exec` is not used: it mounts a new /sys, which hides the BPF file system.
    fn enter(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.netns.iter().map(|pin| format!("--net={}", pin.display())));
        words.extend(self.mounts_of.iter().map(|pid| format!("--mount=/proc/{pid}/ns/mnt")));
        words.extend(self.cgroups_of.iter().map(|pid| format!("--cgroup=/proc/{pid}/ns/cgroup")));
        if words.is_empty() {
            return words;
        }
        words.insert(0, String::from("nsenter"));
        words.push(String::from("--"));
        words
    }

    fn replace_files(&self) -> Vec<String> {
        if self.files.is_empty() {
            return Vec::new();
        }
        let script = r#"n=$1; shift; while [ "$n" -gt 0 ]; do mount --bind "$1" "$2" || exit 125; shift 2; n=$((n-1)); done; exec "$@""#;
        let mut words: Vec<String> =
            ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh"]
                .map(String::from)
                .into();
        words.push(self.files.len().to_string());
        for (source, target) in &self.files {
            words.extend([source, target].map(|path| path.display().to_string()));
        }
        words
    }
}
