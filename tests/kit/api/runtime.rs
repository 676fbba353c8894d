//! What the API server asks of whoever runs the pods: commands in containers, and their output so far.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, copy};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::error::ApiError;
use super::json::{list_at, string_at};

/// Runs pods. Asked on the API server's own thread: nothing here may block.
pub trait PodRuntime: fmt::Debug + Send + Sync {
    /// Runs a command in a container to its end; its exit code. [`run`] does it for a [`Command`].
    ///
    /// # Cancel safety
    /// When the future is dropped, the client is gone: the command is to be killed.
    fn exec(&self, container: ContainerRef, exec: Exec) -> BoxFuture<'static, Result<i32>>;

    /// The file that a container's output goes to.
    ///
    /// # Errors
    /// The container is not here.
    fn log(&self, container: &ContainerRef) -> Result<PathBuf>;
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The node it is on, empty if none yet.
    pub node: String,
    /// The container's name.
    pub container: String,
}

/// A command to run, and its ends.
#[derive(Debug)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// What it is to read, none if nothing.
    pub stdin: Option<DuplexStream>,
    /// Where its output goes.
    pub stdout: DuplexStream,
    /// Where its complaints go.
    pub stderr: DuplexStream,
    /// Did the client ask for a terminal?
    pub terminal: bool,
    /// Columns and lines of the client's terminal, when it has told.
    pub size: watch::Receiver<Option<(u16, u16)>>,
}

/// Runs a command, as `start` starts it, with the ends of an [`Exec`]; its exit code, 128 and the signal if one ended it.
///
/// # Errors
/// It cannot be started.
///
/// # Cancel safety
/// The command is killed when the future is dropped.
pub async fn run(
    mut command: Command,
    exec: Exec,
    start: impl FnOnce(&mut Command) -> std::io::Result<Child>,
) -> Result<i32> {
    let stdin = if exec.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = start(&mut command).with_context(|| format!("start {:?}", exec.command))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let output = async {
        tokio::join!(forward(stdout, Some(exec.stdout)), forward(stderr, Some(exec.stderr)));
    };
    let input = forward(exec.stdin, stdin);
    tokio::pin!(output, input);
    let (mut told, mut fed) = (false, false);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("wait for the command")?,
            () = &mut output, if !told => told = true,
            () = &mut input, if !fed => fed = true,
        }
    };
    if !told {
        output.await;
    }
    Ok(code(status))
}

/// Copies until either end closes, and closes both; an end that is gone early is no error of ours.
async fn forward(from: Option<impl AsyncRead + Unpin>, to: Option<impl AsyncWrite + Unpin>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    if let Err(error) = copy(&mut from, &mut to).await {
        tracing::debug!(%error, "a command's pipe closed");
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// The container a request is about: the named one, or the pod's default.
///
/// # Errors
/// `BadRequest` if the pod has no such container.
pub(super) fn container(pod: &Value, asked: Option<&str>) -> Result<ContainerRef, ApiError> {
    let names: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| list_at(pod, &["spec", list]))
        .map(|container| string_at(container, &["name"]))
        .collect();
    let default =
        string_at(pod, &["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
    let wanted = asked.or_else(|| Some(default).filter(|name| !name.is_empty()));
    let name = string_at(pod, &["metadata", "name"]);
    let container = match wanted {
        Some(wanted) => names.contains(&wanted).then_some(wanted),
        None => names.first().copied(),
    };
    let container = container.ok_or_else(|| {
        let wanted = wanted.unwrap_or_default();
        ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))
    })?;
    Ok(ContainerRef {
        namespace: string_at(pod, &["metadata", "namespace"]).to_owned(),
        pod: name.to_owned(),
        uid: string_at(pod, &["metadata", "uid"]).to_owned(),
        node: string_at(pod, &["spec", "nodeName"]).to_owned(),
        container: container.to_owned(),
    })
}
