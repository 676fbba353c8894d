//! Bytes that go behind a CONNECT before it is answered.

use std::io;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tunnel::testing::{caller, key};
use crate::tunnel::{ConnectError, TunnelStream, relay_aboard};

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// How to reach a peer that does with each request what the test wants.
struct Peer {
    tls: Arc<rustls::ClientConfig>,
    address: std::net::SocketAddr,
    pool: Pool,
}

async fn peer(early_data: usize) -> (Peer, mpsc::Receiver<Asked>) {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::clone(&pki.server));
    let (ask, asked) = mpsc::channel(8);
    spawn_local(async move {
        loop {
            let tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let mut server = h2::server::handshake(tls).await.unwrap();
            let ask = ask.clone();
            spawn_local(async move {
                while let Some(Ok(asked)) = server.accept().await {
                    if ask.send(asked).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let pool = Pool::new(Limits { early_data, ..Limits::default() });
    (Peer { tls: pki.client, address, pool }, asked)
}

impl Peer {
    async fn connect(&self, app: TcpStream) -> Result<TunnelStream, ConnectError> {
        let dial = TcpStream::connect(self.address);
        let aboard = (app, &Rc::default());
        let tls = Arc::clone(&self.tls);
        self.pool.connect_aboard(&key(self.address), dial, caller(tls), &request(), aboard).await
    }
}

/// The next bytes of a request, if they come soon.
async fn body(asked: &mut Asked) -> Option<Bytes> {
    let data = asked.0.body_mut().data();
    let bytes = timeout(Duration::from_millis(200), data).await.ok()??.unwrap();
    asked.0.body_mut().flow_control().release_capacity(bytes.len()).unwrap();
    Some(bytes)
}

async fn assert_reset(client: &mut TcpStream) {
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_first_bytes_do_not_wait_for_the_answer() {
    local(async {
        let (peer, mut requests) = peer(8).await;
        let (mut client, app) = tcp_pair().await;
        client.write_all(b"early and late").await.unwrap();
        let answer = async {
            let mut asked = requests.recv().await.unwrap();
            assert_eq!(body(&mut asked).await.unwrap(), "early an");
            assert_eq!(body(&mut asked).await, None, "no more than allowed");
            let mut send = asked.1.send_response(Response::new(()), false).unwrap();
            assert_eq!(body(&mut asked).await.unwrap(), "d late");
            send.send_data("answer".into(), true).unwrap();
            asked
        };
        let (stream, _asked) = tokio::join!(peer.connect(app), answer);
        let relayed = spawn_local(relay_aboard(stream.unwrap()));
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"answer");
        client.shutdown().await.unwrap();
        relayed.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn without_early_data_nothing_goes_before_the_answer() {
    local(async {
        let (peer, mut requests) = peer(0).await;
        let (mut client, app) = tcp_pair().await;
        client.write_all(b"late").await.unwrap();
        let answer = async {
            let mut asked = requests.recv().await.unwrap();
            assert_eq!(body(&mut asked).await, None);
            let send = asked.1.send_response(Response::new(()), false).unwrap();
            assert_eq!(body(&mut asked).await.unwrap(), "late");
            (asked, send)
        };
        let (stream, _asked) = tokio::join!(peer.connect(app), answer);
        stream.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_and_resets_the_application() {
    local(async {
        let (peer, mut requests) = peer(1 << 14).await;
        let (mut client, app) = tcp_pair().await;
        client.write_all(b"early").await.unwrap();
        let answer = async {
            let mut asked = requests.recv().await.unwrap();
            assert_eq!(body(&mut asked).await.unwrap(), "early");
            let refusal = Response::builder().status(StatusCode::UNAUTHORIZED).body(()).unwrap();
            let mut send = asked.1.send_response(refusal, false).unwrap();
            send.send_data("why".into(), true).unwrap();
            asked
        };
        let (error, _asked) = tokio::join!(peer.connect(app), answer);
        let error = error.unwrap_err();
        let unauthorized = StatusCode::UNAUTHORIZED;
        assert!(
            matches!(error, ConnectError::Refused { status, .. } if status == unauthorized),
            "{error:?}"
        );
        assert_reset(&mut client).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_was_not_processed_is_sent_again_whole() {
    local(async {
        let (peer, mut requests) = peer(1 << 14).await;
        // One that is answered, so that there is a tunnel: a fresh one is not given up for another.
        let accept = async {
            let mut asked = requests.recv().await.unwrap();
            (asked.1.send_response(Response::new(()), false).unwrap(), asked)
        };
        let idle = tcp_pair().await;
        let (_stream, _asked) = tokio::join!(peer.connect(idle.1), accept);
        let (mut client, app) = tcp_pair().await;
        client.write_all(b"early").await.unwrap();
        let answer = async {
            let mut first = requests.recv().await.unwrap();
            assert_eq!(body(&mut first).await.unwrap(), "early");
            first.1.send_reset(Reason::REFUSED_STREAM);
            let mut second = requests.recv().await.unwrap();
            assert_eq!(body(&mut second).await.unwrap(), "early");
            let send = second.1.send_response(Response::new(()), false).unwrap();
            client.write_all(b" and late").await.unwrap();
            assert_eq!(body(&mut second).await.unwrap(), " and late");
            (second, send)
        };
        let (stream, _asked) = tokio::join!(peer.connect(app), answer);
        stream.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_a_broken_tunnel_may_have_passed_on_is_not_sent_again() {
    local(async {
        let (peer, mut requests) = peer(1 << 14).await;
        let (mut client, app) = tcp_pair().await;
        client.write_all(b"early").await.unwrap();
        let broken = async {
            let mut asked = requests.recv().await.unwrap();
            assert_eq!(body(&mut asked).await.unwrap(), "early");
            peer.pool.abort();
        };
        let (error, ()) = tokio::join!(peer.connect(app), broken);
        let error = error.unwrap_err();
        assert!(matches!(error, ConnectError::H2 { .. }), "{error:?}");
        assert_reset(&mut client).await;
        assert!(requests.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn an_application_that_leaves_before_the_answer_ends_the_request() {
    local(async {
        let (peer, mut requests) = peer(1 << 14).await;
        let (client, app) = tcp_pair().await;
        let leave = async {
            let mut asked = requests.recv().await.unwrap();
            client.set_zero_linger().unwrap();
            drop(client);
            asked.0.body_mut().data().await.unwrap().unwrap_err()
        };
        let (error, told) = tokio::join!(peer.connect(app), leave);
        let error = error.unwrap_err();
        assert!(matches!(error, ConnectError::App { .. }), "{error:?}");
        assert_eq!(told.reason(), Some(Reason::CONNECT_ERROR));
    })
    .await;
}
