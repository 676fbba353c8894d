//! What the accepting end makes of good and bad peers.

use std::rc::Rc;

use h2::Reason;
use http::Request;
use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tunnel::connect::{ConnectError, ConnectRequest};
use crate::tunnel::pool::Pool;
use crate::tunnel::testing::{Gateway, Pki, caller, local, permit, request, tcp_pair, terms};

fn quick() -> Limits {
    Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() }
}

/// What `accept` says to a peer that sends these bytes, and what it answers.
async fn speak(bytes: &[u8]) -> (AcceptError, Vec<u8>) {
    let (mut peer, ours) = tcp_pair().await;
    let stop = CancellationToken::new();
    let limits = quick();
    let accepted = accept(ours, Pki::new().server, &limits, terms(stop));
    // The peer closes once it has seen the end.
    let answer = async move {
        peer.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset instead of an end is no answer, and no hang.
        _ = peer.read_to_end(&mut answer).await;
        answer
    };
    let (accepted, answer) = tokio::join!(accepted, answer);
    (accepted.unwrap_err(), answer)
}

#[tokio::test]
async fn what_is_no_tls_gets_an_alert_and_a_close() {
    let http = b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n";
    for bytes in [&http[..], &[0x80; 100], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let (error, answer) = local(speak(bytes)).await;
        assert!(matches!(error, AcceptError::Tls(_)), "{error:?}");
        // Type alert, version, length 2, level fatal.
        assert_eq!(answer[..6], [21, 3, 3, 0, 2, 2], "{bytes:?}");
    }
}

#[tokio::test]
async fn a_handshake_message_too_long_to_hold_is_closed() {
    let mut bytes = vec![0x16, 3, 1, 0x40, 0];
    bytes.extend([0xff; 0x4000]);
    let (error, answer) = local(speak(&bytes)).await;
    assert!(matches!(error, AcceptError::Tls(_)), "{error:?}");
    assert!(answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn a_silent_peer_is_closed_in_time() {
    for bytes in [&[][..], &[0x16, 3, 1]] {
        let (error, answer) = local(speak(bytes)).await;
        assert!(matches!(error, AcceptError::Timeout(_)), "{error:?}");
        assert!(answer.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_peer_of_no_protocol_is_closed() {
    local(async {
        let pki = Pki::new();
        let (peer, ours) = tcp_pair().await;
        let limits = quick();
        let accepted =
            accept(ours, Arc::clone(&pki.server), &limits, terms(CancellationToken::new()));
        let connect = async {
            let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
            let connector = TlsConnector::from(pki.client(&[]));
            let mut tls = connector.connect(name, peer).await.unwrap();
            let mut rest = Vec::new();
            tls.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let (accepted, rest) = tokio::join!(accepted, connect);
        assert!(matches!(accepted.unwrap_err(), AcceptError::Protocol));
        assert!(rest.is_empty(), "{rest:?}");
    })
    .await;
}

#[tokio::test]
async fn the_caller_sees_the_request_and_the_peer_the_answer() {
    local(async {
        let pki = Pki::new();
        let gateway = Gateway::start(&pki, Limits::default(), |incoming| {
            assert_eq!(incoming.authority(), "reviews.bookinfo.svc:9080");
            assert_eq!(incoming.headers()[hbone::BAGGAGE], "service.name=a");
            let mut headers = HeaderMap::new();
            headers.insert(hbone::BAGGAGE, "service.name=b".parse().unwrap());
            let stream = incoming.accept(&permit(), headers).unwrap();
            spawn_local(async move {
                tokio::time::sleep(Duration::from_secs(60)).await;
                drop(stream);
            });
        })
        .await;
        let mut headers = HeaderMap::new();
        headers.insert(hbone::BAGGAGE, "service.name=a".parse().unwrap());
        let request = ConnectRequest { authority: "reviews.bookinfo.svc:9080".to_owned(), headers };
        let pool = Pool::new(Limits::default());
        let key = gateway.key();
        let connect = pool.connect(&key, gateway.dial(), caller(pki.client), &request);
        let mut stream = connect.await.unwrap();
        assert_eq!(stream.take_answer()[hbone::BAGGAGE], "service.name=b");
        assert_eq!(stream.peer_certificates().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_carries_its_status() {
    local(async {
        let pki = Pki::new();
        let refuse = |incoming: Incoming| incoming.refuse(hbone::DENIED);
        let gateway = Gateway::start(&pki, Limits::default(), refuse).await;
        let pool = Pool::new(Limits::default());
        for _ in 0..2 {
            let client = Arc::clone(&pki.client);
            let (key, request) = (gateway.key(), request());
            let connect = pool.connect(&key, gateway.dial(), caller(client), &request);
            let error = connect.await.unwrap_err();
            assert!(matches!(error, ConnectError::Refused { status: hbone::DENIED, .. }));
        }
        assert_eq!(gateway.tunnels.get(), 1);
    })
    .await;
}

/// The status that a request gets which the pool would not send.
async fn status_of(request: Request<()>) -> StatusCode {
    let pki = Pki::new();
    let served = |incoming: Incoming| panic!("{incoming:?} is no CONNECT");
    let gateway = Gateway::start(&pki, Limits::default(), served).await;
    let tcp = gateway.dial().await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let tls = TlsConnector::from(pki.client).connect(name, tcp).await.unwrap();
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    spawn_local(connection);
    let (answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
    answer.await.unwrap().status()
}

#[tokio::test]
async fn what_is_no_connect_is_a_bad_request() {
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        let request =
            Request::builder().method(method).uri("https://10.0.0.1:80/").body(()).unwrap();
        assert_eq!(local(status_of(request)).await, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let request = Request::connect("10.0.0.1:80").header("a", "x".repeat(70_000)).body(()).unwrap();
    let status = local(status_of(request)).await;
    assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn a_stop_during_the_handshake_ends_it() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let accepted = accept(ours, Pki::new().server, &Limits::default(), terms(stop)).await;
        assert!(matches!(accepted, Err(AcceptError::Stopped)));
    })
    .await;
}

/// Sends these bytes inside TLS and ends; true if a tunnel came of it that ended by itself.
async fn speak_inside_tls(pki: &Pki, bytes: &[u8]) -> bool {
    let (peer, ours) = tcp_pair().await;
    let limits = quick();
    let served = async {
        let server = Arc::clone(&pki.server);
        let accepted = accept(ours, server, &limits, terms(CancellationToken::new())).await;
        match accepted {
            Ok(mut server) => {
                while let Some(incoming) = server.next().await {
                    incoming.refuse(hbone::UNAVAILABLE);
                }
                true
            }
            Err(AcceptError::H2(_) | AcceptError::Timeout(_)) => false,
            Err(other) => panic!("{other:?}"),
        }
    };
    let spoken = async {
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut tls =
            TlsConnector::from(Arc::clone(&pki.client)).connect(name, peer).await.unwrap();
        // The server may have closed on what it saw so far.
        _ = tls.write_all(bytes).await;
        _ = tls.shutdown().await;
        _ = tls.read_to_end(&mut Vec::new()).await;
    };
    tokio::join!(served, spoken).0
}

fn block_on<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Box::pin(local(test)))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 5..600)) {
        let (error, _) = block_on(speak(&bytes));
        prop_assert!(matches!(error, AcceptError::Tls(_) | AcceptError::Timeout(_)), "{:?}", error);
    }

    #[test]
    fn any_bytes_inside_tls_end_the_tunnel(
        preface: bool,
        frames in proptest::collection::vec(
            (0_u8..12, any::<u8>(), 0_u32..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..8,
        ),
        tail in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut bytes = if preface { PREFACE.to_vec() } else { Vec::new() };
        for (kind, flags, stream, payload) in frames {
            let length = u8::try_from(payload.len()).unwrap();
            bytes.extend([0, 0, length, kind, flags]);
            bytes.extend(stream.to_be_bytes());
            bytes.extend(payload);
        }
        bytes.extend(tail);
        let tunnel = block_on(speak_inside_tls(&Pki::new(), &bytes));
        prop_assert!(preface || !tunnel);
    }
}

/// Opens and resets up to `count` streams, then closes; fails if the tunnel ended before.
async fn open_and_reset(pki: &Pki, gateway: &Gateway, count: usize) -> Result<(), h2::Error> {
    let tcp = gateway.dial().await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let tls = TlsConnector::from(Arc::clone(&pki.client)).connect(name, tcp).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
    let ended = spawn_local(connection);
    for _ in 0..count {
        let head = Request::connect("10.0.0.1:80").body(()).unwrap();
        poll_fn(|cx| sender.poll_ready(cx)).await?;
        let (_, mut send) = sender.send_request(head, false)?;
        tokio::task::yield_now().await;
        send.send_reset(Reason::CANCEL);
    }
    drop(sender);
    ended.await.unwrap()
}

#[tokio::test]
async fn streams_reset_faster_than_they_are_answered_end_the_tunnel() {
    local(async {
        let pki = Pki::new();
        let held = Rc::new(std::cell::RefCell::new(Vec::new()));
        let hold = Rc::clone(&held);
        let limits = Limits { max_accepted_streams: 20, ..Limits::default() };
        let gateway =
            Gateway::start(&pki, limits, move |incoming| hold.borrow_mut().push(incoming)).await;
        // GOAWAY, or a reset that overtakes it.
        open_and_reset(&pki, &gateway, 2000).await.unwrap_err();
        assert!(held.borrow().len() <= 20, "{} wait for an answer", held.borrow().len());
    })
    .await;
}

/// A peer that opens a stream, and then neither reads nor closes.
async fn fall_silent(pki: &Pki, tcp: TcpStream) -> impl Sized + use<> {
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let tls = TlsConnector::from(Arc::clone(&pki.client)).connect(name, tcp).await.unwrap();
    let (mut sender, mut connection) = h2::client::handshake(tls).await.unwrap();
    let head = Request::connect("10.0.0.1:80").body(()).unwrap();
    let (answer, send) = sender.send_request(head, false).unwrap();
    tokio::select! {
        answer = answer => drop(answer.unwrap()),
        ended = &mut connection => panic!("{ended:?}"),
    }
    (sender, connection, send)
}

#[tokio::test]
async fn the_streams_of_a_dead_peer_end_with_its_tunnel() {
    local(async {
        let pki = Pki::new();
        let (theirs, ours) = tcp_pair().await;
        let (_app, app) = tcp_pair().await;
        let soon = Duration::from_millis(200);
        let limits = Limits { ping_interval: soon, ping_timeout: soon, ..Limits::default() };
        let serve = async {
            let tls = Arc::clone(&pki.server);
            let mut server =
                accept(ours, tls, &limits, terms(CancellationToken::new())).await.unwrap();
            let incoming = server.next().await.unwrap();
            let stream = incoming.accept(&permit(), HeaderMap::new()).unwrap();
            let relayed = spawn_local(async move {
                let progress = Rc::default();
                crate::tunnel::relay(app, stream, &progress).await
            });
            assert!(server.next().await.is_none());
            let ended = timeout(Duration::from_secs(2), relayed).await;
            ended.expect("the stream outlives its tunnel").unwrap().unwrap_err();
        };
        tokio::join!(Box::pin(fall_silent(&pki, theirs)), Box::pin(serve));
    })
    .await;
}

#[tokio::test]
async fn streams_reset_after_their_answer_hurt_nobody() {
    local(async {
        let pki = Pki::new();
        let refuse = |incoming: Incoming| incoming.refuse(hbone::UNAVAILABLE);
        let gateway = Gateway::start(&pki, Limits::default(), refuse).await;
        // h2 may find this many resets too much; other tunnels are served as before.
        _ = open_and_reset(&pki, &gateway, 2000).await;
        let pool = Pool::new(Limits::default());
        let (key, request) = (gateway.key(), request());
        let connect = pool.connect(&key, gateway.dial(), caller(pki.client), &request);
        let error = connect.await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    })
    .await;
}
