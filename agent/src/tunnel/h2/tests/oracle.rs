//! Against the `h2` crate, as client and as server, over a transport in memory.

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::io::DuplexStream;

use super::endpoint::Endpoint;
use crate::tunnel::h2::{Code, Config, Connection};

/// A transport with little room, so that both ends often wait.
fn transport() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(10_000)
}

/// How the ends are set up.
#[derive(Debug, Clone, Copy)]
struct Set {
    config: Config,
    /// Of our reads and our frames.
    piece: usize,
    /// Of the crate's end.
    window: u32,
    frame: u32,
    streams: usize,
    most: usize,
    /// Our end is another process's after each step.
    moves: bool,
}

const COMMON: Set = Set {
    config: Config {
        initial_window: 20_000,
        max_window: 100_000,
        window_budget: 200_000,
        connection_window: 1 << 20,
        max_frame: (1 << 24) - 1,
        max_streams: 200,
        max_header_list: 1 << 16,
    },
    piece: 5_000,
    window: 30_000,
    frame: 16_384,
    streams: 50,
    most: 100_000,
    moves: false,
};

fn tiny() -> Set {
    let config = Config { initial_window: 1, max_window: 1, ..COMMON.config };
    Set { config, piece: 1, window: 1, streams: 5, most: 50, ..COMMON }
}

fn large() -> Set {
    let config = Config { initial_window: 1 << 20, max_window: 1 << 20, ..COMMON.config };
    let (piece, window, frame) = (1 << 20, 1 << 20, (1 << 24) - 1);
    Set { config, piece, window, frame, streams: 4, most: 3 << 20, ..COMMON }
}

fn one_byte_frames() -> Set {
    Set { piece: 1, streams: 10, most: 3_000, ..COMMON }
}

/// Bytes that differ by stream and place.
fn payload(stream: usize, most: usize) -> Vec<u8> {
    let length = stream.wrapping_mul(7919) % (most + 1);
    (0..length).map(|at| (at.wrapping_mul(31) ^ stream.wrapping_mul(17)).to_le_bytes()[0]).collect()
}

fn headers(stream: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-stream", HeaderValue::from(stream));
    headers
        .insert("baggage", HeaderValue::from_static("k8s.namespace.name=shop,service.name=cart"));
    headers
}

fn request(stream: usize) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "10.0.0.1:80".parse().unwrap();
    *request.headers_mut() = headers(stream);
    request
}

/// Sends a part of a body whenever the windows allow it.
async fn send_all(
    mut send: ::h2::SendStream<Bytes>,
    mut rest: Bytes,
    end: bool,
) -> ::h2::SendStream<Bytes> {
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
        let part = rest.split_to(room.min(rest.len()));
        send.send_data(part, false).unwrap();
    }
    if end {
        send.send_data(Bytes::new(), true).unwrap();
    }
    send
}

async fn receive_all(mut body: ::h2::RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        all.extend_from_slice(&part);
    }
    all
}

fn crate_client(set: Set) -> ::h2::client::Builder {
    let mut builder = ::h2::client::Builder::new();
    builder.initial_window_size(set.window).max_frame_size(set.frame);
    // It takes few small frames by itself.
    builder.data_frame_budget(usize::MAX / 2);
    builder
}

fn crate_server(set: Set) -> ::h2::server::Builder {
    let mut builder = ::h2::server::Builder::new();
    builder.initial_window_size(set.window).max_frame_size(set.frame);
    // It takes few small frames by itself.
    builder.data_frame_budget(usize::MAX / 2);
    builder
}

/// The crate's client, our server: all bytes come back on every stream.
async fn crate_to_ours(set: Set) {
    let (near, far) = transport();
    let ours = async {
        let mut server = Endpoint::new(Connection::server(set.config), far, set.piece, true);
        server.moves = set.moves.then_some(0);
        server.run(|_| false).await;
        assert_eq!(server.resets, []);
        assert!(server.moves.is_none_or(|moves| moves > 100), "{:?}", server.moves);
        server.connection.open_streams()
    };
    let theirs = async {
        let (sender, connection) = crate_client(set).handshake::<_, Bytes>(near).await.unwrap();
        let streams = (0..set.streams).map(|stream| {
            let sender = sender.clone();
            async move {
                let mut sender = sender.ready().await.unwrap();
                let (response, send) = sender.send_request(request(stream), false).unwrap();
                let bytes = payload(stream, set.most);
                let answer = async {
                    let (head, body) = response.await.unwrap().into_parts();
                    assert_eq!(head.headers, headers(stream));
                    receive_all(body).await
                };
                let (_, echo) = tokio::join!(send_all(send, bytes.clone().into(), true), answer);
                assert!(echo == bytes, "stream {stream}: {} of {}", echo.len(), bytes.len());
            }
        });
        let all = futures::future::join_all(streams);
        tokio::select! {
            _ = all => {}
            ended = connection => panic!("connection ended: {ended:?}"),
        }
    };
    let (open, ()) = tokio::join!(ours, theirs);
    assert!(open <= set.streams);
}

/// Echoes a stream of the crate's server.
async fn echo(request: Request<::h2::RecvStream>, mut respond: ::h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    assert_eq!(head.method, Method::CONNECT);
    let mut response = Response::new(());
    *response.headers_mut() = head.headers;
    let mut send = respond.send_response(response, false).unwrap();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        send = send_all(send, part.clone(), false).await;
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
}

/// Our client, the crate's server.
async fn ours_to_crate(set: Set) {
    let (near, far) = transport();
    let theirs = async {
        let mut connection = crate_server(set).handshake::<_, Bytes>(far).await.unwrap();
        let mut streams = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => { streams.spawn_local(echo(request, respond)); }
                    Some(Err(error)) => panic!("{error}"),
                    None => break,
                },
                Some(done) = streams.join_next() => done.unwrap(),
            }
        }
    };
    let ours = async move {
        let mut client = Endpoint::new(Connection::client(set.config), near, set.piece, false);
        for stream in 0..set.streams {
            client.send(&headers(stream), payload(stream, set.most));
        }
        client.moves = set.moves.then_some(0);
        client.run(|client| client.connection.open_streams() == 0).await;
        assert_eq!(client.resets, []);
        assert!(client.moves.is_none_or(|moves| moves > 100), "{:?}", client.moves);
        for (stream, flow) in client.flows.values().enumerate() {
            assert!(flow.received == payload(stream, set.most), "stream {stream}");
        }
    };
    tokio::join!(theirs, ours);
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = std::time::Duration::from_secs(60);
    let all = async { tokio::time::timeout(limit, test).await.expect("ends in time") };
    tokio::task::LocalSet::new().block_on(&runtime, all);
}

#[test]
fn many_streams_of_any_size_come_back_whole() {
    run(crate_to_ours(COMMON));
    run(ours_to_crate(COMMON));
}

#[test]
fn windows_of_one_byte_pass_everything() {
    run(crate_to_ours(tiny()));
    run(ours_to_crate(tiny()));
}

#[test]
fn frames_of_one_byte_pass_everything() {
    run(crate_to_ours(one_byte_frames()));
    run(ours_to_crate(one_byte_frames()));
}

#[test]
fn the_largest_frames_pass_everything() {
    run(crate_to_ours(large()));
    run(ours_to_crate(large()));
}

#[test]
fn a_connection_that_is_moved_after_each_step_passes_everything() {
    for set in [COMMON, tiny(), Set { most: 300, ..one_byte_frames() }] {
        run(crate_to_ours(Set { moves: true, ..set }));
        run(ours_to_crate(Set { moves: true, ..set }));
    }
}

#[test]
fn streams_beyond_the_limit_wait_for_their_turn() {
    let config = Config { max_streams: 3, ..COMMON.config };
    run(crate_to_ours(Set { config, streams: 60, most: 5_000, ..COMMON }));
}

#[test]
fn headers_larger_than_a_frame_pass_both_ways() {
    run(async {
        let (near, far) = transport();
        let mut server = Endpoint::new(Connection::server(COMMON.config), far, 1000, true);
        let theirs = async {
            let (sender, connection) = crate_client(COMMON)
                .max_header_list_size(1 << 16)
                .handshake::<_, Bytes>(near)
                .await
                .unwrap();
            let exchange = async {
                let mut large = request(1);
                for at in 0..10 {
                    let value = "v".repeat(5_000) + &at.to_string();
                    large.headers_mut().append("x-large", value.parse().unwrap());
                }
                let sent = large.headers().clone();
                let mut sender = sender.ready().await.unwrap();
                let (response, _send) = sender.send_request(large, false).unwrap();
                assert_eq!(*response.await.unwrap().headers(), sent);
            };
            tokio::select! {
                () = exchange => {}
                ended = connection => panic!("connection ended: {ended:?}"),
            }
        };
        tokio::join!(server.run(|_| false), theirs);
    });
}

#[test]
fn a_reset_of_either_end_ends_its_stream_only() {
    run(async {
        let (near, far) = transport();
        let mut server = Endpoint::new(Connection::server(COMMON.config), far, 1000, true);
        let theirs = async {
            let (sender, connection) =
                crate_client(COMMON).handshake::<_, Bytes>(near).await.unwrap();
            let exchange = async {
                let mut sender = sender.ready().await.unwrap();
                let (first, mut reset) = sender.send_request(request(1), false).unwrap();
                let (second, send) = sender.send_request(request(2), false).unwrap();
                first.await.unwrap();
                reset.send_reset(::h2::Reason::CANCEL);
                send_all(send, Bytes::from_static(b"abc"), true).await;
                assert_eq!(receive_all(second.await.unwrap().into_body()).await, b"abc");
            };
            tokio::select! {
                () = exchange => {}
                ended = connection => panic!("connection ended: {ended:?}"),
            }
        };
        tokio::join!(server.run(|_| false), theirs);
        assert_eq!(server.resets.iter().map(|(_, code)| *code).collect::<Vec<_>>(), [Code::CANCEL]);
    });
}

#[test]
fn our_reset_is_seen_by_the_peer() {
    run(async {
        let (near, far) = transport();
        let mut client = Endpoint::new(Connection::client(COMMON.config), near, 1000, false);
        let id = client.send(&headers(0), vec![1; 100]);
        let theirs = async {
            let mut connection = crate_server(COMMON).handshake::<_, Bytes>(far).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            let seen = async {
                let reason = poll_fn(|cx| send.poll_reset(cx)).await.unwrap();
                assert_eq!(reason, ::h2::Reason::CONNECT_ERROR);
                drop(request);
            };
            tokio::select! {
                () = seen => {}
                _ = connection.accept() => panic!("connection ended"),
            }
        };
        let ours = async {
            client.run(|client| client.flows.values().all(|flow| flow.status.is_some())).await;
            client.connection.reset(id, Code::CONNECT_ERROR);
            client.flows.clear();
            client.run(|_| false).await;
        };
        tokio::join!(theirs, ours);
    });
}

#[test]
fn the_crates_client_leaves_when_our_server_goes_away() {
    run(async {
        let (near, far) = transport();
        let mut server = Endpoint::new(Connection::server(COMMON.config), far, 1000, true);
        let (sender, connection) = crate_client(COMMON).handshake::<_, Bytes>(near).await.unwrap();
        let theirs = async {
            let exchange = async {
                let mut sender = sender.ready().await.unwrap();
                let (response, send) = sender.send_request(request(1), false).unwrap();
                let response = response.await.unwrap();
                // The server goes away now; what is open goes on.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                send_all(send, Bytes::from_static(b"abc"), true).await;
                assert_eq!(receive_all(response.into_body()).await, b"abc");
            };
            let ((), ended) = tokio::join!(exchange, connection);
            ended.unwrap();
        };
        let ours = async {
            server.run(|server| !server.flows.is_empty()).await;
            server.connection.go_away(Code::NO_ERROR);
            server.run(|_| false).await;
            assert_eq!(server.connection.closed(), Ok(()));
        };
        tokio::join!(theirs, ours);
    });
}

#[test]
fn our_client_is_told_when_the_crates_server_shuts_down() {
    run(async {
        let (near, far) = transport();
        let mut client = Endpoint::new(Connection::client(COMMON.config), near, 1000, false);
        client.send(&headers(0), payload(0, 0));
        let theirs = async {
            let mut connection = crate_server(COMMON).handshake::<_, Bytes>(far).await.unwrap();
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            let stream = tokio::task::spawn_local(echo(request, respond));
            connection.graceful_shutdown();
            assert!(connection.accept().await.is_none());
            stream.await.unwrap();
        };
        tokio::join!(theirs, client.run(|_| false));
        assert!(client.went_away && !client.connection.can_open());
        assert!(client.flows.values().all(|flow| flow.ended));
        assert_eq!(client.connection.closed(), Ok(()));
    });
}

#[test]
fn a_window_changed_in_the_middle_is_followed() {
    run(async {
        let (near, far) = transport();
        let bytes = vec![7u8; 400_000];
        let mut client = Endpoint::new(Connection::client(COMMON.config), near, 5_000, false);
        client.send(&headers(0), bytes.clone());
        let (changed, all_changed) = tokio::sync::oneshot::channel();
        let theirs = async {
            let mut connection = crate_server(COMMON).handshake::<_, Bytes>(far).await.unwrap();
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            let stream = tokio::task::spawn_local(echo(request, respond));
            for window in [1, 100_000, 10, 65_535] {
                let pause = tokio::time::sleep(std::time::Duration::from_millis(5));
                tokio::select! {
                    accepted = connection.accept() => assert!(accepted.is_none(), "{accepted:?}"),
                    () = pause => {}
                }
                // Not while the change before is on its way.
                connection.set_initial_window_size(window).ok();
            }
            changed.send(()).unwrap();
            while connection.accept().await.is_some() {}
            stream.await.unwrap();
        };
        let ours = async {
            client.run(|client| client.connection.open_streams() == 0).await;
            assert!(client.flows.values().all(|flow| flow.received == bytes));
            // To leave earlier would break the server's pipe.
            all_changed.await.unwrap();
            drop(client);
        };
        tokio::join!(theirs, ours);
    });
}

#[test]
fn trailers_of_the_crates_client_end_a_request() {
    run(async {
        let (near, far) = transport();
        let mut server = Endpoint::new(Connection::server(COMMON.config), far, 1000, true);
        let theirs = async {
            let (sender, connection) =
                crate_client(COMMON).handshake::<_, Bytes>(near).await.unwrap();
            let exchange = async {
                let mut sender = sender.ready().await.unwrap();
                let post = Request::post("http://a/").body(()).unwrap();
                let (response, send) = sender.send_request(post, false).unwrap();
                let mut send = send_all(send, Bytes::from_static(b"abc"), false).await;
                send.send_trailers(headers(1)).unwrap();
                assert_eq!(receive_all(response.await.unwrap().into_body()).await, b"abc");
            };
            tokio::select! {
                () = exchange => {}
                ended = connection => panic!("connection ended: {ended:?}"),
            }
        };
        tokio::join!(server.run(|_| false), theirs);
    });
}
