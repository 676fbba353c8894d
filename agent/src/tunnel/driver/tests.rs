//! Whole tunnels: what goes before the answer, what waits for slow applications, how tunnels end.

mod answers;
mod early;

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::tunnel::testing::{Gateway, Pki, caller, local, permit, request, tcp_pair};
use crate::tunnel::{Limits, Pool, relay};

/// A tunnel; each connection comes out at `servers` in order.
struct Mesh {
    pki: Pki,
    gateway: Gateway,
    pool: Pool,
    servers: Rc<RefCell<Vec<TcpStream>>>,
}

async fn mesh(limits: Limits) -> Mesh {
    let pki = Pki::new();
    let servers = Rc::new(RefCell::new(Vec::new()));
    let taken = Rc::clone(&servers);
    let gateway = Gateway::start(&pki, limits.clone(), move |incoming| {
        let taken = Rc::clone(&taken);
        let stream = incoming.accept(&permit(), HeaderMap::new()).unwrap();
        spawn_local(async move {
            let (server, app) = tcp_pair().await;
            taken.borrow_mut().push(server);
            // However it ends: the test looks at the applications.
            _ = relay(app, stream, &Rc::default()).await;
        });
    })
    .await;
    Mesh { pki, gateway, pool: Pool::new(limits), servers }
}

impl Mesh {
    /// The two applications of a new connection.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let (client, app) = tcp_pair().await;
        let (key, tls) = (self.gateway.key(), Arc::clone(&self.pki.client));
        let stream =
            self.pool.connect(&key, self.gateway.dial(), caller(tls), &request()).await.unwrap();
        spawn_local(async move { _ = relay(app, stream, &Rc::default()).await });
        loop {
            if let Some(server) = self.servers.borrow_mut().pop() {
                return (client, server);
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Writes until nothing more is taken; tells how much was.
async fn fill(writer: &mut TcpStream) -> usize {
    let chunk = vec![7; 1 << 16];
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_millis(100), writer.write(&chunk)).await {
        taken += written.unwrap();
    }
    taken
}

async fn echo(client: &mut TcpStream, server: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    let (written, read) = tokio::join!(client.write_all(bytes), server.read_exact(&mut got));
    written.unwrap();
    read.unwrap();
    assert!(got == bytes);
    let (written, read) = tokio::join!(server.write_all(bytes), client.read_exact(&mut got));
    written.unwrap();
    read.unwrap();
    assert!(got == bytes);
}

#[tokio::test]
async fn applications_that_do_not_read_stop_nobody_else() {
    local(async {
        let mesh = mesh(Limits { stream_window: 1 << 17, ..Limits::default() }).await;
        let mut stalled = Vec::new();
        for _ in 0..12 {
            let (mut client, mut server) = mesh.connect().await;
            // In both directions.
            tokio::join!(fill(&mut client), fill(&mut server));
            stalled.push((client, server));
        }
        let (mut client, mut server) = mesh.connect().await;
        echo(&mut client, &mut server, &vec![3; 3 << 20]).await;
        assert_eq!(mesh.gateway.tunnels.get(), 1);
        // They go on where they stopped.
        for (mut client, mut server) in stalled {
            drain(&mut client, &mut server).await;
        }
    })
    .await;
}

/// Reads what is on the way in one direction, to its end.
async fn drain(client: &mut TcpStream, server: &mut TcpStream) {
    client.shutdown().await.unwrap();
    let read = tokio::io::copy(server, &mut tokio::io::sink()).await.unwrap();
    assert!(read > 1 << 17, "{read}");
}

#[tokio::test]
async fn a_bulk_stream_leaves_room_for_small_ones() {
    local(async {
        let mesh = mesh(Limits::default()).await;
        let (mut bulk, mut sink) = mesh.connect().await;
        let (mut client, mut server) = mesh.connect().await;
        spawn_local(async move {
            let chunk = vec![1; 1 << 18];
            while bulk.write_all(&chunk).await.is_ok() {}
        });
        let moved = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&moved);
        spawn_local(async move {
            let mut buffer = vec![0; 1 << 18];
            while let Ok(read) = sink.read(&mut buffer).await {
                count.set(count.get() + read);
            }
        });
        for _ in 0..200 {
            let before = moved.get();
            echo(&mut client, &mut server, b"small").await;
            let ahead = moved.get() - before;
            assert!(ahead < 24 << 20, "{ahead} bytes of another went first");
        }
        assert!(moved.get() > 1 << 20, "{} bytes in bulk", moved.get());
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_a_stream_that_ended_before_its_tunnel() {
    local(async {
        let mesh = mesh(Limits::default()).await;
        let (mut client, mut server) = mesh.connect().await;
        let sent = fill(&mut client).await;
        // Both ends have said all: only the reader is behind.
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        client.shutdown().await.unwrap();
        let mut part = vec![0; 1 << 16];
        let mut read = 0;
        // The tunnel ends once the client's side has sent the rest.
        let mut gone = pin!(mesh.pool.drain());
        while timeout(Duration::from_millis(1), &mut gone).await.is_err() {
            read += server.read(&mut part).await.unwrap();
        }
        assert!(read < sent, "nothing is left to read");
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(read + rest.len(), sent);
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_that_its_peer_leaves_idle_is_let_go() {
    local(async {
        let limits =
            Limits { accepted_idle_timeout: Duration::from_millis(100), ..Limits::default() };
        let mesh = mesh(limits).await;
        let pair = mesh.connect().await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(mesh.pool.tunnels(), 1, "a silent stream is no idle tunnel");
        drop(pair);
        for _ in 0..200 {
            sleep(Duration::from_millis(10)).await;
            if mesh.pool.tunnels() == 0 {
                return;
            }
        }
        panic!("the tunnel stays");
    })
    .await;
}

#[tokio::test]
async fn a_tunnels_end_resets_the_applications_of_its_open_streams() {
    local(async {
        let mesh = mesh(Limits::default()).await;
        let (mut client, mut server) = mesh.connect().await;
        echo(&mut client, &mut server, b"here").await;
        mesh.pool.abort();
        for app in [&mut client, &mut server] {
            let error = app.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    })
    .await;
}
