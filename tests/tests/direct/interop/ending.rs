//! How streams and tunnels end.

use std::io::ErrorKind;

use ::bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::theirs::{Command, Set, answer, receive, send};
use super::*;
use crate::ends::Outcome;
use crate::local;

const TOTAL: u64 = 300_000;

/// A tunnel between an application of ours and a stream of the crate's.
struct Path {
    app: TcpStream,
    send: h2::SendStream<Bytes>,
    body: h2::RecvStream,
    /// Ours, where we dialled.
    outcome: Option<Outcome>,
}

/// What a path lives by.
type Keep = Box<dyn std::any::Any>;

/// The crate dials.
async fn to_us() -> (Path, Keep) {
    let pki = Pki::new();
    let (apps, mut app) = mpsc::channel(1);
    let hand = move |_, app| {
        let apps = apps.clone();
        async move { apps.send(app).await.unwrap() }
    };
    let gateway = Gateway::start(&pki, Limits::default(), hand).await;
    let client = Client::dial(&pki, gateway.address, Set::default()).await;
    let (send, body) = client.open("10.0.0.1:1").await;
    let app = app.recv().await.unwrap();
    (Path { app, send, body, outcome: None }, Box::new((gateway, client)))
}

/// We dial.
async fn to_them() -> (Path, Keep) {
    let pki = Pki::new();
    let (streams, mut stream) = mpsc::channel(1);
    let serve = move |request: http::Request<h2::RecvStream>, mut respond| {
        let streams = streams.clone();
        async move { streams.send((answer(&mut respond), request.into_body())).await.unwrap() }
    };
    let server = Server::start(&pki, Set::default(), serve).await;
    let dialler = Dialler::new(&pki, Limits::default(), server.address).await;
    let (app, outcome) = dialler.open("10.0.0.1:1").await;
    let (send, body) = stream.recv().await.unwrap();
    (Path { app, send, body, outcome: Some(outcome) }, Box::new((server, dialler)))
}

/// The check holds whoever dialled.
async fn both<F: Future<Output = ()>>(check: impl Fn(Path) -> F) {
    local(60, async {
        let (path, _keep) = to_us().await;
        check(path).await;
        let (path, _keep) = to_them().await;
        check(path).await;
    })
    .await;
}

#[tokio::test]
async fn an_application_that_ends_first_still_gets_everything() {
    both(|mut path| async move {
        let (mut read, mut write) = path.app.split();
        bytes::send(&mut write, 2, TOTAL).await;
        write.shutdown().await.unwrap();
        receive(&mut path.body, 2, TOTAL).await;
        let back = async {
            send(&mut path.send, 3, (TOTAL, bytes::PART)).await;
            path.send.send_data(Bytes::new(), true).unwrap();
        };
        tokio::join!(back, bytes::receive(&mut read, 3, TOTAL));
        if let Some(outcome) = path.outcome {
            outcome.await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_ends_first_still_gets_everything() {
    both(|mut path| async move {
        let (mut read, mut write) = path.app.split();
        let first = async {
            send(&mut path.send, 3, (TOTAL, bytes::PART)).await;
            path.send.send_data(Bytes::new(), true).unwrap();
        };
        tokio::join!(first, bytes::receive(&mut read, 3, TOTAL));
        let back = async {
            bytes::send(&mut write, 2, TOTAL).await;
            write.shutdown().await.unwrap();
        };
        tokio::join!(back, receive(&mut path.body, 2, TOTAL));
        if let Some(outcome) = path.outcome {
            outcome.await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_application_that_resets_resets_the_stream() {
    both(|mut path| async move {
        path.app.write_all(b"bytes").await.unwrap();
        path.app.set_zero_linger().unwrap();
        drop(path.app);
        let error = loop {
            match path.body.data().await.expect("no orderly end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_reset_resets_the_application() {
    for reason in [Reason::CONNECT_ERROR, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        both(|mut path| async move {
            path.app.write_all(b"bytes").await.unwrap();
            path.body.data().await.unwrap().unwrap();
            path.send.send_reset(reason);
            let ended = path.app.read(&mut [0; 8]).await;
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
        })
        .await;
    }
}

#[tokio::test]
async fn trailers_are_refused_and_the_tunnel_goes_on() {
    local(60, async {
        let pki = Pki::new();
        let app = |authority: String, mut app: TcpStream| async move {
            if authority == "10.0.0.1:1" {
                let mut all = Vec::new();
                let ended = app.read_to_end(&mut all).await;
                assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
            } else {
                let (up, down) = flows(&authority);
                bytes::exchange(app, (down, up), TOTAL).await;
            }
        };
        let gateway = Gateway::start(&pki, Limits::default(), app).await;
        let client = Client::dial(&pki, gateway.address, Set::default()).await;
        let (mut into, mut body) = client.open("10.0.0.1:1").await;
        into.send_data("bytes".into(), false).unwrap();
        into.send_trailers(http::HeaderMap::new()).unwrap();
        let error = body.data().await.expect("no orderly end").unwrap_err();
        assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR), "{error}");
        let (into, body) = client.open("10.0.0.1:2").await;
        exchange(into, body, (4, 5), (TOTAL, bytes::PART)).await;
        assert_eq!(gateway.accepted.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn when_our_server_leaves_the_crates_streams_finish() {
    local(60, async {
        let pki = Pki::new();
        let gateway = exchanging(&pki, TOTAL).await;
        let client = Client::dial(&pki, gateway.address, Set::default()).await;
        let streams = futures::future::join_all((1..=20).map(|n| {
            let client = &client;
            async move { client.open(&authority(n)).await }
        }));
        let streams = streams.await;
        gateway.go_away();
        // With the settled GOAWAY it opens no more.
        while client.sender.clone().ready().await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let finish = streams.into_iter().zip(1..).map(|((into, body), n)| {
            exchange(into, body, flows(&authority(n)), (TOTAL, bytes::PART))
        });
        futures::future::join_all(finish).await;
        client.ended.await.unwrap().unwrap();
        crate::ends::until("the tunnel is gone", || gateway.live.get() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn when_the_crates_server_leaves_our_streams_finish_and_the_next_dials() {
    local(60, async {
        let pki = Pki::new();
        let serve = |request: http::Request<h2::RecvStream>, mut respond| async move {
            let (up, down) = flows(request.uri().authority().unwrap().as_str());
            let into = answer(&mut respond);
            exchange(into, request.into_body(), (down, up), (TOTAL, bytes::PART)).await;
        };
        let server = Server::start(&pki, Set::default(), serve).await;
        let dialler = Dialler::new(&pki, Limits::default(), server.address).await;
        let mut open = Vec::new();
        for number in 1..=20 {
            open.push(dialler.open(&authority(number)).await);
        }
        server.tell(Command::Leave);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        open.push(dialler.open(&authority(21)).await);
        assert_eq!(server.connections.get(), 2);
        let finish = open.into_iter().zip(1..).map(|((app, outcome), number)| async move {
            bytes::exchange(app, flows(&authority(number)), TOTAL).await;
            outcome.await.unwrap().unwrap();
        });
        futures::future::join_all(finish).await;
        crate::ends::until("the first is gone", || dialler.pool.tunnels() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_of_the_crates_that_leaves_ends_the_tunnel_with_its_last_stream() {
    local(60, async {
        let pki = Pki::new();
        let gateway = exchanging(&pki, TOTAL).await;
        let client = Client::dial(&pki, gateway.address, Set::default()).await;
        let (into, body) = client.open(&authority(1)).await;
        drop(client.sender);
        exchange(into, body, flows(&authority(1)), (TOTAL, bytes::PART)).await;
        client.ended.await.unwrap().unwrap();
        crate::ends::until("the tunnel is gone", || gateway.live.get() == 0).await;
    })
    .await;
}
