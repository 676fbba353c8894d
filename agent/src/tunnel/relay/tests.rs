//! Bytes end to end: an application, a relay, a tunnel, a relay, an application.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use h2::Reason;
use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tunnel::account::{Budget, Share};
use crate::tunnel::limits::Limits;
use crate::tunnel::pool::Pool;
use crate::tunnel::testing::{
    Gateway, Pki, caller, key, local, permit, request, tcp_pair, unbounded,
};

mod moved;

type Outcome = JoinHandle<Result<(), RelayError>>;

/// Two applications with something in between.
struct Path {
    client: TcpStream,
    server: TcpStream,
    /// The relays in between, the client's first.
    relays: Vec<Outcome>,
    progress: Rc<Progress>,
    /// Of the server's relay; of the one relay if there is only one.
    far: Rc<Progress>,
}

fn start(app: TcpStream, tunnel: TunnelStream, progress: &Rc<Progress>) -> Outcome {
    let progress = Rc::clone(progress);
    spawn_local(async move { relay(app, tunnel, &progress).await })
}

/// A tunnel in between, with the same limits at both ends.
async fn tunnelled(limits: Limits) -> Path {
    let pki = Pki::new();
    let (taken, stream) = oneshot::channel();
    let taken = Rc::new(RefCell::new(Some(taken)));
    let gateway = Gateway::start(&pki, limits.clone(), move |incoming| {
        let stream = incoming.accept(&permit(), HeaderMap::new()).unwrap();
        assert!(taken.borrow_mut().take().unwrap().send(stream).is_ok());
    })
    .await;
    let pool = Pool::new(limits);
    let (key, request) = (gateway.key(), request());
    let near = pool.connect(&key, gateway.dial(), caller(pki.client), &request).await.unwrap();
    let far = stream.await.unwrap();
    keep(pool);
    let ((client, client_side), (server, server_side)) = (tcp_pair().await, tcp_pair().await);
    let (progress, counted) = (Rc::default(), Rc::default());
    let relays = vec![start(client_side, near, &progress), start(server_side, far, &counted)];
    Path { client, server, relays, progress, far: counted }
}

/// Lets the tunnels live as long as the test's `LocalSet`.
fn keep(pool: Pool) {
    spawn_local(async move {
        let _pool = pool;
        std::future::pending::<()>().await;
    });
}

/// One plain relay in between.
async fn plain() -> Path {
    let ((client, client_side), (server, server_side)) = (tcp_pair().await, tcp_pair().await);
    let progress = Rc::new(Progress::default());
    let counted = Rc::clone(&progress);
    let relay = spawn_local(async move {
        let permit = permit();
        relay_tcp(
            client_side,
            server_side,
            Passage::Inbound(&permit),
            (&counted, &Rc::default()),
            &unbounded(),
        )
        .await
    });
    let far = Rc::clone(&progress);
    Path { client, server, relays: vec![relay], progress, far }
}

/// Runs a check over a tunnel and over a plain relay, also while they go from process to process.
async fn both<F: Future<Output = ()>>(check: impl Fn(Path) -> F) {
    local(async {
        check(tunnelled(Limits::default()).await).await;
        check(plain().await).await;
        let moves = Rc::new(Cell::new(0));
        check(moved::tunnelled(Limits::default(), &moves).await).await;
        check(moved::plain(&moves).await).await;
        assert!(moves.get() > 0, "nothing ever moved");
    })
    .await;
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

async fn ended(relays: Vec<Outcome>) {
    for relay in relays {
        relay.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn megabytes_both_ways_arrive_as_sent() {
    both(|mut path| async move {
        let (up, down) = (noise(1, 5 << 20), noise(2, 3 << 20));
        let (mut client_read, mut client_write) = path.client.split();
        let (mut server_read, mut server_write) = path.server.split();
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        let (sent_up, sent_down, read_up, read_down) = tokio::join!(
            async {
                client_write.write_all(&up).await?;
                client_write.shutdown().await
            },
            async {
                server_write.write_all(&down).await?;
                server_write.shutdown().await
            },
            server_read.read_to_end(&mut got_up),
            client_read.read_to_end(&mut got_down),
        );
        sent_up.unwrap();
        sent_down.unwrap();
        assert_eq!((read_up.unwrap(), read_down.unwrap()), (up.len(), down.len()));
        assert_eq!(Sha256::digest(&got_up), Sha256::digest(&up));
        assert_eq!(Sha256::digest(&got_down), Sha256::digest(&down));
        ended(path.relays).await;
        let moved = (path.progress.sent(), path.progress.received());
        assert_eq!(moved, (5 << 20, 3 << 20));
    })
    .await;
}

#[tokio::test]
async fn small_messages_pass_at_once_and_are_counted_live() {
    both(|mut path| async move {
        let mut answer = [0; 4];
        for round in 1..=50_u64 {
            path.client.write_all(b"ping").await.unwrap();
            path.server.read_exact(&mut answer).await.unwrap();
            path.server.write_all(b"pong").await.unwrap();
            path.client.read_exact(&mut answer).await.unwrap();
            assert_eq!((path.progress.sent(), path.progress.received()), (4 * round, 4 * round));
        }
    })
    .await;
}

#[tokio::test]
async fn either_side_may_end_first_and_still_read() {
    both(|mut path| async move {
        path.client.shutdown().await.unwrap();
        let mut all = Vec::new();
        path.server.read_to_end(&mut all).await.unwrap();
        path.server.write_all(b"late").await.unwrap();
        path.server.shutdown().await.unwrap();
        path.client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"late");
        ended(path.relays).await;
    })
    .await;
    both(|mut path| async move {
        path.server.shutdown().await.unwrap();
        let mut all = Vec::new();
        path.client.read_to_end(&mut all).await.unwrap();
        path.client.write_all(b"late").await.unwrap();
        path.client.shutdown().await.unwrap();
        path.server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"late");
        ended(path.relays).await;
    })
    .await;
}

async fn assert_reset(tcp: &mut TcpStream) {
    let error = tcp.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_on_either_side_is_a_reset_on_the_other() {
    both(|mut path| async move {
        path.client.set_zero_linger().unwrap();
        drop(path.client);
        assert_reset(&mut path.server).await;
        for relay in path.relays {
            relay.await.unwrap().unwrap_err();
        }
    })
    .await;
    both(|mut path| async move {
        path.server.set_zero_linger().unwrap();
        drop(path.server);
        assert_reset(&mut path.client).await;
        for relay in path.relays {
            relay.await.unwrap().unwrap_err();
        }
    })
    .await;
}

#[tokio::test]
async fn a_relay_dropped_midway_resets_both_applications() {
    both(|mut path| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        path.relays[0].abort();
        assert_reset(&mut path.client).await;
        assert_reset(&mut path.server).await;
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer() {
    local(async {
        let (window, buffer) = (1 << 18, 1 << 18);
        let limits = Limits { stream_window: window, send_buffer: buffer, ..Limits::default() };
        let mut path = tunnelled(limits).await;
        let (chunk, pause) = (noise(3, 1 << 16), Duration::from_millis(300));
        let mut on_the_way = 0;
        while let Ok(sent) = tokio::time::timeout(pause, path.client.write(&chunk)).await {
            on_the_way += sent.unwrap();
            assert!(on_the_way < 64 << 20, "nothing stops the writer");
        }
        let held = path.progress.sent() - path.far.received();
        let most = u64::from(window) + (1 << 18);
        assert!(held <= most, "{held} bytes wait in the tunnel, want at most {most}");

        let mut sink = vec![0; 1 << 16];
        while on_the_way > 0 {
            on_the_way -= path.server.read(&mut sink).await.unwrap();
        }
    })
    .await;
}

/// A peer that speaks HTTP/2 as it likes, for what our own end would not do.
async fn with_raw_peer(act: impl FnOnce(h2::SendStream<bytes::Bytes>, h2::RecvStream)) -> Path {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = TlsAcceptor::from(std::sync::Arc::clone(&pki.server));
    let accept = async {
        let tcp = listener.accept().await.unwrap().0;
        let mut server = h2::server::handshake(tls.accept(tcp).await.unwrap()).await.unwrap();
        let (incoming, mut respond) = server.accept().await.unwrap().unwrap();
        let peer = respond.send_response(http::Response::new(()), false).unwrap();
        spawn_local(async move { while server.accept().await.is_some() {} });
        (peer, incoming)
    };
    let pool = Pool::new(Limits::default());
    let (key, request) = (key(address), request());
    let connect = pool.connect(&key, TcpStream::connect(address), caller(pki.client), &request);
    let ((peer, incoming), stream) = tokio::join!(accept, connect);
    let stream = stream.unwrap();
    keep(pool);
    act(peer, incoming.into_body());
    let (client, client_side) = tcp_pair().await;
    let progress: Rc<Progress> = Rc::default();
    let relays = vec![start(client_side, stream, &progress)];
    let (server, _) = tcp_pair().await;
    Path { client, server, relays, far: Rc::clone(&progress), progress }
}

#[tokio::test]
async fn a_peer_that_cancels_has_ended_in_order() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        local(async {
            let mut path = with_raw_peer(|mut send, recv| {
                send.send_data("bye".into(), false).unwrap();
                spawn_local(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    send.send_reset(reason);
                    drop(recv);
                });
            })
            .await;
            let mut all = Vec::new();
            path.client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"bye");
            ended(path.relays).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_peer_that_fails_resets_the_application() {
    local(async {
        let mut path = with_raw_peer(|mut send, _| send.send_reset(Reason::INTERNAL_ERROR)).await;
        assert_reset(&mut path.client).await;
        let error = path.relays.remove(0).await.unwrap().unwrap_err();
        assert!(matches!(error, RelayError::Reset(Code::INTERNAL_ERROR)), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn plain_readers_that_never_read_hold_no_more_than_the_pods_share() {
    local(async {
        let budget = Budget::new(8 << 20);
        let account = Account::new(Share::new(&budget));
        let (mut ends, mut relays) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let ((mut client, client_side), (server, server_side)) =
                (tcp_pair().await, tcp_pair().await);
            let (progress, account) = (Rc::default(), Rc::clone(&account));
            let passage = Passage::Outbound;
            let relay =
                relay_tcp(client_side, server_side, passage, (&progress, &Rc::default()), &account);
            relays.push(spawn_local(relay));
            spawn_local(async move { while client.write_all(&[7; 64 << 10]).await.is_ok() {} });
            ends.push(server);
        }
        // Those that find no room are reset, which says why; the others wait.
        while budget.refused() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(budget.held() <= budget.most() / 4, "{} bytes", budget.held());
        assert!(account.is_tight());
        let ended = relays.iter().filter(|relay| relay.is_finished()).count();
        assert!((1..20).contains(&ended), "{ended} of 20 were reset");
        drop(ends);
        for relay in relays {
            relay.await.unwrap().unwrap_err();
        }
        assert_eq!(budget.held(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_relay_is_small() {
    local(async {
        let mut sizes = Vec::new();
        let path = with_raw_peer(|_, _| {}).await;
        drop(path);
        let (app, peer) = (tcp_pair().await.0, tcp_pair().await.0);
        let progress = Rc::default();
        sizes.push(size_of_val(&relay_tcp(
            app,
            peer,
            Passage::Outbound,
            (&progress, &Rc::default()),
            &unbounded(),
        )));
        fn size<F>(_: impl Fn(TcpStream, TunnelStream, &'static Rc<Progress>) -> F) -> usize {
            size_of::<F>()
        }
        sizes.push(size(relay));
        assert!(sizes.iter().all(|size| *size <= 1024), "{sizes:?} bytes");
    })
    .await;
}
