//! Servers that abuse our dialling end.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, server};

use super::frames::*;
use super::peer::{Reader, abuse};
use super::*;
use crate::local;
use crate::pki::LOCALHOST;

/// An abuse: what follows our CONNECT.
struct Abuse {
    what: &'static str,
    first: Vec<u8>,
    step: Box<dyn Fn(u32) -> Option<Vec<u8>>>,
    codes: &'static [u32],
}

/// A 200 on the one stream there is.
fn answered() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, OK)
}

fn flood(what: &'static str, first: Vec<u8>, step: impl Fn(u32) -> Vec<u8> + 'static) -> Abuse {
    let step = Box::new(move |n| (n < FAR_TOO_MANY).then(|| step(n)));
    Abuse { what, first, step, codes: &[ENHANCE_YOUR_CALM] }
}

fn fault(what: &'static str, codes: &'static [u32], bytes: &[u8]) -> Abuse {
    Abuse { what, first: bytes.to_vec(), step: Box::new(|_| None), codes }
}

/// Takes a session, and reads up to our CONNECT.
async fn take(pki: &Pki, listener: &TcpListener) -> server::TlsStream<TcpStream> {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut tls = TlsAcceptor::from(Arc::clone(&pki.server)).accept(tcp).await.unwrap();
    tls.write_all(&settings(&[])).await.unwrap();
    tls.flush().await.unwrap();
    let mut preface = vec![0; PREFACE.len()];
    tls.read_exact(&mut preface).await.unwrap();
    let (mut reader, mut buffer) = (Reader::default(), [0; 4096]);
    loop {
        let read = tls.read(&mut buffer).await.unwrap();
        assert!(read > 0, "no CONNECT");
        if reader.take(&buffer[..read]).iter().any(|(kind, _)| *kind == HEADERS) {
            return tls;
        }
    }
}

/// A connection of ours through the listener's tunnel, that is used until it ends.
async fn victim(pki: &Pki, listener: &TcpListener) {
    let dialler = Dialler::new(pki, Limits::default(), listener.local_addr().unwrap()).await;
    if let Ok(stream) = dialler.connect("10.0.0.1:80").await {
        let (mut app, ours) = crate::ends::Pairs::new().await.make().await;
        let relayed = sotto::tunnel::relay(ours, stream, &Rc::default());
        let (relayed, _) = tokio::join!(relayed, async {
            // Whatever comes, it is taken.
            while let Ok(1..) = app.read(&mut [0; 4096]).await {}
        });
        assert!(relayed.is_err(), "it ended in order");
    }
    until("the tunnel is gone", || dialler.pool.tunnels() == 0).await;
}

async fn all(abuses: Vec<Abuse>) {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        for Abuse { what, first, step, codes } in abuses {
            let once = async || {
                let abusing = async {
                    let tls = take(&stand.pki, &listener).await;
                    abuse(tls, first.clone(), &step).await
                };
                let (end, ()) = tokio::join!(abusing, victim(&stand.pki, &listener));
                end.is_told(codes, what);
            };
            stand.suffer(what, MOST, once).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_servers_floods_of_frames_that_move_nothing_end_the_tunnel() {
    let many: Vec<(u16, u32)> = (0..32).map(|n| (4, n)).collect();
    all(vec![
        flood("SETTINGS before the answer", vec![], |_| settings(&[])),
        flood("SETTINGS that move windows", answered(), move |_| settings(&many)),
        flood("PING", answered(), |_| frame(PING, 0, 0, &[0; 8])),
        flood("empty DATA", answered(), |_| frame(DATA, 0, 1, &[])),
        flood("PRIORITY", answered(), |_| frame(PRIORITY, 0, 1, &[0; 5])),
        flood("WINDOW_UPDATE", answered(), |_| window_update(0, 1)),
        flood("GOAWAY", answered(), |_| frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])),
        flood("frames of no known kind", answered(), |_| frame(0xfa, 0, 0, &[])),
        flood("informational answers", vec![], |_| {
            frame(HEADERS, END_HEADERS, 1, &field(":status", "103"))
        }),
    ])
    .await;
}

#[tokio::test]
async fn a_servers_header_bombs_end_the_tunnel() {
    let begun = || frame(HEADERS, 0, 1, OK);
    let table = frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xe1, 0xff, 0xff, 0x03]);
    all(vec![
        flood("CONTINUATION of a byte", begun(), |_| frame(CONTINUATION, 0, 1, &[0])),
        flood("empty CONTINUATION", begun(), |_| frame(CONTINUATION, 0, 1, &[])),
        flood("CONTINUATION of 16 KiB", begun(), |_| frame(CONTINUATION, 0, 1, &[0; 16_384])),
        fault("a header block of 16 MiB", &[ENHANCE_YOUR_CALM], &head(0xff_ffff, HEADERS, 0, 1)),
        fault("a table larger than allowed", &[COMPRESSION_ERROR], &table),
    ])
    .await;
}

#[tokio::test]
async fn a_servers_frames_against_the_rules_end_the_tunnel_with_their_code() {
    let overflow = [window_update(0, 0x7fff_ffff), window_update(0, 0x7fff_ffff)].concat();
    let beyond = [answered(), frame(DATA, 0, 1, &[0; 300_000]), frame(DATA, 0, 1, &[0; 300_000])];
    let answer = frame(HEADERS, END_HEADERS, 2, OK);
    all(vec![
        fault("a connection's window beyond the largest", &[FLOW_CONTROL_ERROR], &overflow),
        fault("DATA beyond the window of a reset stream", &[FLOW_CONTROL_ERROR], &beyond.concat()),
        fault("PING of 16 MiB", &[FRAME_SIZE_ERROR], &head(0xff_ffff, PING, 0, 0)),
        fault("PUSH_PROMISE", &[PROTOCOL_ERROR], &frame(PUSH_PROMISE, 4, 1, &[0; 4])),
        fault("DATA on a stream never opened", &[PROTOCOL_ERROR], &frame(DATA, 0, 7, b"bytes")),
        fault("an answer to nothing", &[PROTOCOL_ERROR], &answer),
    ])
    .await;
}
