use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;

struct Running {
    directory: tempfile::TempDir,
    calls: mpsc::Receiver<Call>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn start(queue: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (sender, calls) = mpsc::channel(queue);
        let stop = CancellationToken::new();
        let socket = Doorstep::bind(&directory.path().join("run/cni.sock")).expect("a socket");
        let task = tokio::spawn(serve(socket, sender, stop.clone()));
        Self { directory, calls, stop, task }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/cni.sock")
    }
}

async fn send(path: PathBuf, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("answered");
    response
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const ADD: &str = r#"{"Netns":"/n","PodName":"web","PodNamespace":"shop","ContainerID":"c","IPs":[{"Interface":0,"Address":"10.0.0.1/24","Gateway":"10.0.0.254"}]}"#;

#[tokio::test]
async fn an_add_is_passed_on_and_answered() {
    let mut running = Running::start(4);
    let sent = tokio::spawn(send_owned(running.path(), post("/cmdadd", ADD)));
    let call = running.calls.recv().await.expect("a call");
    assert_eq!(call.verb, Verb::Add);
    assert_eq!(call.request.pod_name, "web");
    assert_eq!(call.request.ips[0].address.to_string(), "10.0.0.1/24");
    let answer = Answer { enrolled: true, reason: "done".to_owned() };
    call.reply.send(Reply::Proceed(answer)).expect("heard");
    let response = sent.await.expect("sent");
    assert!(response.starts_with("HTTP/1.0 200"), "{response}");
    assert!(response.ends_with(r#"{"enrolled":true,"reason":"done"}"#), "{response}");
}

async fn send_owned(path: PathBuf, request: String) -> String {
    send(path, &request).await
}

#[tokio::test]
async fn failures_are_told_apart_by_status() {
    for (reply, status) in
        [(Reply::Fail("x".to_owned()), "500"), (Reply::Unsure("x".to_owned()), "503")]
    {
        let mut running = Running::start(4);
        let sent = tokio::spawn(send_owned(running.path(), post("/cmdadd", ADD)));
        let call = running.calls.recv().await.expect("a call");
        call.reply.send(reply).expect("heard");
        let response = sent.await.expect("sent");
        assert!(response.contains(status) && response.contains(r#""reason":"x""#), "{response}");
    }
}

#[tokio::test]
async fn a_full_queue_turns_calls_away() {
    let running = Running::start(1);
    let both = [(); 2].map(|()| Box::pin(send_owned(running.path(), post("/cmdadd", ADD))));
    let (response, ..) = futures::future::select_all(both).await;
    assert!(response.contains("503") && response.contains("busy"), "{response}");
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let running = Running::start(4);
    let huge = "x".repeat(MAX_MESSAGE_BYTES + 1);
    for (request, status) in [
        (post("/cmdadd", "nonsense"), "400"),
        (post("/cmdadd", "{}"), "422"),
        (post("/cmdadd", &huge), "413"),
        (post("/elsewhere", ADD), "404"),
        ("GET /cmdadd HTTP/1.0\r\n\r\n".to_owned(), "405"),
        ("\0\0\0\r\n\r\n".to_owned(), "400"),
    ] {
        let response = send(running.path(), &request).await;
        assert!(response.split(' ').nth(1) == Some(status), "{status}: {response}");
    }
    let status = send(running.path(), "GET /status HTTP/1.0\r\n\r\n").await;
    assert!(status.ends_with("ok\n"), "{status}");
}

#[tokio::test]
async fn only_root_reaches_the_socket() {
    let running = Running::start(1);
    let mode = |path: PathBuf| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(running.path()), 0o600);
    assert_eq!(mode(running.directory.path().join("run")), 0o700);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_newer_one_is_left_at_the_end() {
    let mut old = Running::start(1);
    let path = old.path();
    let (sender, mut calls) = mpsc::channel(1);
    let newer = Doorstep::bind(&path).expect("replaces it");
    old.stop.cancel();
    (&mut old.task).await.expect("ended").expect("well");
    assert!(path.exists(), "the newer socket stays");
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(newer, sender, stop.clone()));
    let sent = tokio::spawn(send_owned(path.clone(), post("/cmddel", ADD)));
    let call = calls.recv().await.expect("reaches the newer one");
    assert_eq!(call.verb, Verb::Del);
    drop(call);
    assert!(sent.await.expect("sent").contains("503"));
    stop.cancel();
    task.await.expect("ended").expect("well");
    assert!(!path.exists(), "its own socket goes with it");
}
