//! `kubectl exec`: the ends of a command as channels of a WebSocket (`v5.channel.k8s.io`).
//!
//! Each message starts with the number of its channel. 0: stdin, 1: stdout, 2: stderr, 3: how it ended, 4: the size
//! of the terminal, 255: the named channel is at its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::request::Params;
use super::runtime::{self, Exec, PodRuntime};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What a pipe holds until its reader takes it.
const PIPE_BYTES: usize = 64 * 1024;
/// What is read of a pipe at once.
const READ_BYTES: usize = 16 * 1024;
/// How long a client may leave a message unread.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers a request to run a command in a pod.
///
/// # Errors
/// `BadRequest` if it is no WebSocket, or the pod has no such container.
pub(super) async fn start(
    runtime: Arc<dyn PodRuntime>,
    pod: &Value,
    params: &Params,
    request: Request<Body>,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let container = runtime::container(pod, params.get("container"))?;
    let command = params.all("command");
    if command.is_empty() {
        return Err(ApiError::bad_request("you must specify at least 1 command for the container"));
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let upgrade = upgrade.protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    let (stdin, to_stdin) = pipe(params.flag("stdin"));
    let (stdout, stderr) = (duplex(PIPE_BYTES), duplex(PIPE_BYTES));
    let (to_size, size) = watch::channel(None);
    let exec = Exec {
        command,
        stdin,
        stdout: stdout.0,
        stderr: stderr.0,
        terminal: params.flag("tty"),
        size,
    };
    let run = move |socket| async move {
        let session = Session {
            socket,
            stdin: to_stdin,
            unwritten: Bytes::new(),
            stdout: Some(stdout.1),
            stderr: Some(stderr.1),
            size: to_size,
        };
        let run = runtime.exec(container, exec);
        if let Some(Err(error)) = stop.run_until_cancelled(session.run(run)).await {
            tracing::debug!("exec: {error:#}");
        }
    };
    Ok(upgrade.on_upgrade(run))
}

fn pipe(wanted: bool) -> (Option<DuplexStream>, Option<DuplexStream>) {
    if !wanted {
        return (None, None);
    }
    let (reader, writer) = duplex(PIPE_BYTES);
    (Some(reader), Some(writer))
}

/// A client and the command it runs.
struct Session {
    socket: WebSocket,
    /// None when the client has no more to say.
    stdin: Option<DuplexStream>,
    /// Of the client's last message; the next one is read when this is written.
    unwritten: Bytes,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    size: watch::Sender<Option<(u16, u16)>>,
}

impl Session {
    async fn run(mut self, mut command: BoxFuture<'static, Result<i32>>) -> Result<()> {
        let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
        let mut ended = None;
        while ended.is_none() || self.stdout.is_some() || self.stderr.is_some() {
            // All branches are cancel safe: bytes are either still in a pipe or already in our hands.
            tokio::select! {
                code = &mut command, if ended.is_none() => ended = Some(code),
                count = read(&mut self.stdout, &mut out), if self.stdout.is_some() => {
                    if count == 0 { self.stdout = None } else { self.send(STDOUT, &out[..count]).await? }
                }
                count = read(&mut self.stderr, &mut err), if self.stderr.is_some() => {
                    if count == 0 { self.stderr = None } else { self.send(STDERR, &err[..count]).await? }
                }
                written = write(&mut self.stdin, &self.unwritten), if !self.unwritten.is_empty() => {
                    match written {
                        Some(count) => self.unwritten.advance(count),
                        None => { self.unwritten.clear(); self.stdin = None }
                    }
                }
                message = self.socket.recv(), if self.unwritten.is_empty() => {
                    self.take(message.context("the client is gone")??)?;
                }
            }
        }
        let status = status(ended.context("the command has ended")?);
        self.send(STATUS, status.to_string().as_bytes()).await?;
        // Without the code of a normal end kubectl takes it for a failure.
        let end = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
        tokio::time::timeout(PATIENCE, self.socket.send(end)).await??;
        // The client closes when it has read all.
        while let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE, self.socket.recv()).await {}
        Ok(())
    }

    async fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        let sent = self.socket.send(Message::Binary(message.into()));
        Ok(tokio::time::timeout(PATIENCE, sent).await.context("the client does not read")??)
    }

    fn take(&mut self, message: Message) -> Result<()> {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => bail!("the client has closed"),
            _ => return Ok(()),
        };
        if data.is_empty() {
            return Ok(());
        }
        match data.get_u8() {
            STDIN if self.stdin.is_some() => self.unwritten = data,
            CLOSE if data.first() == Some(&STDIN) => self.stdin = None,
            RESIZE => {
                let size: Value = serde_json::from_slice(&data)?;
                let of = |key: &str| size[key].as_u64().and_then(|n| u16::try_from(n).ok());
                self.size.send_replace(of("Width").zip(of("Height")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a pipe has to say; 0 at its end.
async fn read(pipe: &mut Option<DuplexStream>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

/// How much of it a pipe took; none if nobody reads it.
async fn write(pipe: &mut Option<DuplexStream>, data: &[u8]) -> Option<usize> {
    pipe.as_mut()?.write(data).await.ok()
}

/// How it ended, as kubectl reads it.
fn status(ended: Result<i32>) -> Value {
    let failure = |reason: &str, message: String, causes: Value| {
        json!({
            "metadata": {}, "status": "Failure", "reason": reason, "message": message,
            "details": {"causes": causes},
        })
    };
    match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            let cause = json!([{"reason": "ExitCode", "message": code.to_string()}]);
            failure("NonZeroExitCode", message, cause)
        }
        Err(error) => failure("InternalError", format!("{error:#}"), json!([])),
    }
}
