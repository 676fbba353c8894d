//! `kubectl`, by the user's own configuration. Every call ends by its limit or at the row's deadline.

use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::process::{self, Running, Said};

/// What a call may take if nothing else is said. API servers answer in less, or not at all.
const CALL: Duration = Duration::from_secs(60);

pub(super) struct Kubectl {
    program: String,
    deadline: Cell<Instant>,
}

impl Kubectl {
    pub(super) fn new(program: &str) -> Self {
        let deadline = Cell::new(Instant::now() + Duration::from_secs(3600));
        Self { program: program.to_owned(), deadline }
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// From now on all calls together may take this long.
    pub(super) fn allow(&self, limit: Duration) {
        self.deadline.set(Instant::now() + limit);
    }

    /// What is left of it.
    pub(super) fn left(&self) -> Duration {
        self.deadline.get().saturating_duration_since(Instant::now())
    }

    fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args.iter().map(AsRef::as_ref));
        command
    }

    /// Runs it with these arguments, whatever it says.
    pub(super) fn call<S: AsRef<str>>(&self, args: &[S], input: &str) -> Result<Said> {
        self.call_within(args, input, CALL)
    }

    fn call_within<S: AsRef<str>>(&self, args: &[S], input: &str, limit: Duration) -> Result<Said> {
        process::run(&mut self.command(args), input, limit.min(self.left()))
    }

    /// Starts it with these arguments, and does not wait.
    pub(super) fn start<S: AsRef<str>>(&self, args: &[S]) -> Result<Running> {
        Running::start(&mut self.command(args), "")
    }

    /// Runs it with the words of `line`; returns what it printed.
    ///
    /// # Errors
    /// It fails: its last words are told.
    pub(super) fn ok(&self, line: &str) -> Result<String> {
        self.ok_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub(super) fn ok_args<S: AsRef<str>>(&self, args: &[S]) -> Result<String> {
        Ok(checked(args, self.call(args, "")?)?.out)
    }

    /// Like [`Kubectl::ok`], for what waits for something.
    pub(super) fn ok_within(&self, line: &str, limit: Duration) -> Result<String> {
        let args: Vec<&str> = line.split_whitespace().collect();
        Ok(checked(&args, self.call_within(&args, "", limit)?)?.out)
    }

    /// What an object is, or none if there is none.
    pub(super) fn get(&self, line: &str) -> Result<Option<Value>> {
        let line = format!("get {line} -o json --ignore-not-found");
        let text = self.ok(&line)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text).with_context(|| format!("kubectl {line}: not JSON")).map(Some)
    }

    /// The items of a list.
    pub(super) fn list(&self, line: &str) -> Result<Vec<Value>> {
        let mut list = self.get(line)?.unwrap_or_default();
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Applies objects, in order.
    pub(super) fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let args = ["apply", "-f", "-"];
        checked(&args, self.call(&args, &list.to_string())?)?;
        Ok(())
    }

    /// Runs a command in a pod, whatever it says.
    pub(super) fn exec(&self, (namespace, pod): (&str, &str), argv: &[&str]) -> Result<Said> {
        let limit = Duration::from_secs(120);
        self.call_within(&exec_args((namespace, pod), argv), "", limit)
    }

    /// Runs a command in one of a pod's containers, whatever it says.
    pub(super) fn exec_in(
        &self,
        pod: (&str, &str),
        container: &str,
        argv: &[&str],
    ) -> Result<Said> {
        let mut args = exec_args(pod, argv);
        args.splice(1..1, ["-c", container]);
        self.call_within(&args, "", Duration::from_secs(120))
    }

    /// Starts a command in a pod.
    pub(super) fn exec_start(&self, pod: (&str, &str), argv: &[&str]) -> Result<Running> {
        self.start(&exec_args(pod, argv))
    }
}

fn exec_args<'a>((namespace, pod): (&'a str, &'a str), argv: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["exec", "-n", namespace, pod, "--"];
    args.extend(argv);
    args
}

fn checked<S: AsRef<str>>(args: &[S], said: Said) -> Result<Said> {
    if said.code != 0 {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        bail!("kubectl {}: exit {}: {}", args.join(" "), said.code, said.last_line());
    }
    Ok(said)
}
