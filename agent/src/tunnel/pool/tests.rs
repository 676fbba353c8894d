//! When tunnels are shared, dialled anew, and let go.

use std::time::Duration;

use futures::future::join_all;
use http::HeaderMap;
use tokio::task::spawn_local;

use super::*;
use crate::tunnel::accept::Incoming;
use crate::tunnel::testing::{Gateway, Pki, caller, local, permit, request, tcp_pair};

/// Answers 200 and holds the stream for a minute.
fn hold(incoming: Incoming) {
    let stream = incoming.accept(&permit(), HeaderMap::new()).unwrap();
    spawn_local(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
}

struct Fixture {
    pki: Pki,
    gateway: Gateway,
    pool: Pool,
}

async fn start(limits: Limits) -> Fixture {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, limits.clone(), hold).await;
    Fixture { pki, gateway, pool: Pool::new(limits) }
}

impl Fixture {
    async fn connect(&self) -> Result<TunnelStream, ConnectError> {
        let tls = Arc::clone(&self.pki.client);
        self.pool.connect(&self.gateway.key(), self.gateway.dial(), caller(tls), &request()).await
    }

    async fn connect_many(&self, count: usize) -> Vec<TunnelStream> {
        let all = join_all((0..count).map(|_| self.connect())).await;
        all.into_iter().map(Result::unwrap).collect()
    }
}

async fn until(what: &str, met: impl Fn() -> bool) {
    for _ in 0..500 {
        if met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_burst_shares_one_dial() {
    local(async {
        let f = start(Limits::default()).await;
        let streams = f.connect_many(50).await;
        assert_eq!((f.gateway.tunnels.get(), streams.len()), (1, 50));
    })
    .await;
}

#[tokio::test]
async fn a_peers_stream_limit_opens_more_tunnels() {
    local(async {
        let f = start(Limits { max_accepted_streams: 2, ..Limits::default() }).await;
        let mut streams = f.connect_many(5).await;
        assert_eq!(f.gateway.tunnels.get(), 3);
        // Room that became free is used before another tunnel is dialled.
        streams.clear();
        tokio::time::sleep(Duration::from_millis(50)).await;
        f.connect_many(6).await;
        assert_eq!(f.gateway.tunnels.get(), 3);
    })
    .await;
}

#[tokio::test]
async fn our_own_stream_limit_opens_more_tunnels() {
    local(async {
        let f = start(Limits { max_opened_streams: 3, ..Limits::default() }).await;
        let _streams = f.connect_many(7).await;
        assert_eq!(f.gateway.tunnels.get(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_failed_dial_fails_all_that_wait_and_no_one_later() {
    local(async {
        let f = start(Limits::default()).await;
        let key = f.gateway.key();
        let dials = std::cell::Cell::new(0);
        let refused = || async {
            dials.set(dials.get() + 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(io::Error::from(io::ErrorKind::ConnectionRefused))
        };
        let request = request();
        let attempt =
            || f.pool.connect(&key, refused(), caller(Arc::clone(&f.pki.client)), &request);
        for result in join_all((0..10).map(|_| attempt())).await {
            let error = result.unwrap_err();
            assert!(matches!(error, ConnectError::Tcp { .. }), "{error:?}");
        }
        assert_eq!(dials.get(), 1);
        assert!(f.pool.inner.slots.borrow().is_empty());
        f.connect().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_dial_that_is_dropped_is_taken_over() {
    local(async {
        let f = start(Limits::default()).await;
        let (key, request) = (f.gateway.key(), request());
        let never = std::future::pending();
        let first = f.pool.connect(&key, never, caller(Arc::clone(&f.pki.client)), &request);
        let first = timeout(Duration::from_millis(50), first);
        let (first, second) = tokio::join!(first, f.connect());
        first.unwrap_err();
        second.unwrap();
    })
    .await;
}

#[tokio::test]
async fn goaway_ends_no_stream_and_the_next_one_dials() {
    local(async {
        let f = start(Limits::default()).await;
        let first = f.connect().await.unwrap();
        f.gateway.go_away();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _second = f.connect().await.unwrap();
        assert_eq!(f.gateway.tunnels.get(), 2);
        assert_eq!(f.pool.tunnels(), 2);
        drop(first);
        until("the old tunnel ends with its stream", || f.pool.tunnels() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_gets_a_new_tunnel() {
    local(async {
        let mut f = start(Limits::default()).await;
        let old = f.connect().await.unwrap();
        f.pki.client = f.pki.client(&[b"h2"]);
        let _new = f.connect_many(2).await;
        assert_eq!((f.gateway.tunnels.get(), f.pool.tunnels()), (2, 2));
        drop(old);
        until("the old tunnel ends with its stream", || f.pool.tunnels() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn an_idle_tunnel_is_let_go() {
    local(async {
        let limits = Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() };
        let f = start(limits).await;
        let stream = f.connect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(f.pool.tunnels(), 1, "a silent stream is no idle tunnel");
        drop(stream);
        until("the tunnel ends", || f.pool.tunnels() == 0).await;
        assert!(f.pool.inner.slots.borrow().is_empty());
        f.connect().await.unwrap();
        assert_eq!(f.gateway.tunnels.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_dead_peer_is_found_by_ping() {
    local(async {
        let quick = Duration::from_millis(100);
        let limits = Limits { ping_interval: quick, ping_timeout: quick, ..Limits::default() };
        // A relay that stops to carry bytes once told.
        let f = start(limits).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (front, back) = (listener.local_addr().unwrap(), f.gateway.address);
        let stall = CancellationToken::new();
        let stalled = stall.clone();
        spawn_local(async move {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(back).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = stalled.cancelled() => std::future::pending().await,
            }
        });
        let (key, request) = (f.gateway.key(), request());
        let dial = TcpStream::connect(front);
        let client = Arc::clone(&f.pki.client);
        let _stream = f.pool.connect(&key, dial, caller(client), &request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(f.pool.tunnels(), 1);
        stall.cancel();
        until("the tunnel is found dead", || f.pool.tunnels() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_the_last_stream_and_takes_no_more() {
    local(async {
        let f = start(Limits::default()).await;
        let stream = f.connect().await.unwrap();
        let (pool, drained) = (f.pool.clone(), CancellationToken::new());
        let done = drained.clone();
        spawn_local(async move {
            pool.drain().await;
            done.cancel();
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!drained.is_cancelled());
        assert!(matches!(f.connect().await, Err(ConnectError::Stopped)));
        drop(stream);
        drained.cancelled().await;
    })
    .await;
}

#[tokio::test]
async fn an_abort_cuts_what_a_drain_would_wait_for() {
    local(async {
        let f = start(Limits::default()).await;
        let _stream = f.connect().await.unwrap();
        f.pool.abort();
        f.pool.drain().await;
        assert_eq!(f.pool.tunnels(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_slow_peer_is_given_up() {
    local(async {
        let limits = Limits { handshake_timeout: Duration::from_millis(100), ..Limits::default() };
        let f = start(limits).await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = TcpStream::connect(silent.local_addr().unwrap());
        let (key, request) = (f.gateway.key(), request());
        let connect = f.pool.connect(&key, dial, caller(Arc::clone(&f.pki.client)), &request);
        let error = connect.await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { step: "TLS handshake", .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_in_wait_is_small() {
    local(async {
        let f = start(Limits::default()).await;
        let (key, request) = (f.gateway.key(), request());
        let dial = f.gateway.dial();
        let dialling = size_of_val(&dial);
        let connect = f.pool.connect(&key, dial, caller(Arc::clone(&f.pki.client)), &request);
        let size = size_of_val(&connect) - dialling;
        assert!(size <= 4096, "{size} bytes");
    })
    .await;
}

#[tokio::test]
async fn a_destination_that_is_late_is_waited_for() {
    local(async {
        let f = start(Limits::default()).await;
        let late = async {
            tokio::time::sleep(Duration::from_secs(35)).await;
            f.gateway.dial().await
        };
        let asked = request();
        let (key, caller) = (f.gateway.key(), caller(Arc::clone(&f.pki.client)));
        let connect = f.pool.connect(&key, late, caller, &asked);
        tokio::time::pause();
        let wait = async {
            for _ in 0..35 {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            tokio::time::resume();
        };
        let (connected, ()) = tokio::join!(connect, wait);
        connected.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_application_that_gives_up_is_not_dialled_for() {
    local(async {
        let f = start(Limits::default()).await;
        let (peer, app) = tcp_pair().await;
        let asked = request();
        let (key, caller) = (f.gateway.key(), caller(Arc::clone(&f.pki.client)));
        let progress = Rc::default();
        let never = std::future::pending();
        let connect = f.pool.connect_aboard(&key, never, caller, &asked, (app, &progress));
        peer.set_zero_linger().unwrap();
        drop(peer);
        let connected = timeout(Duration::from_secs(5), connect).await.expect("no patience");
        assert!(matches!(connected, Err(ConnectError::App { .. })), "{connected:?}");
        // Nobody waits for that dial, and the next one is its own.
        f.connect().await.unwrap();
    })
    .await;
}
