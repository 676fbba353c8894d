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

/// RST_STREAM with an error, of that stream.
fn broken() -> Vec<u8> {
    frame(RST_STREAM, 0, 1, &10_u32.to_be_bytes())
}

fn flood(what: &'static str, first: Vec<u8>, step: impl Fn(u32) -> Vec<u8> + 'static) -> Abuse {
    let step = Box::new(move |n| (n < FAR_TOO_MANY).then(|| step(n)));
    Abuse { what, first, step, codes: &[ENHANCE_YOUR_CALM] }
}

fn fault(what: &'static str, codes: &'static [u32], bytes: &[u8]) -> Abuse {
    Abuse { what, first: bytes.to_vec(), step: Box::new(|_| None), codes }
}

/// Takes a session.
pub(super) async fn secure(pki: &Pki, listener: &TcpListener) -> server::TlsStream<TcpStream> {
    let (tcp, _) = listener.accept().await.unwrap();
    TlsAcceptor::from(Arc::clone(&pki.server)).accept(tcp).await.unwrap()
}

/// Takes a session, and reads up to our CONNECT.
pub(super) async fn take(pki: &Pki, listener: &TcpListener) -> server::TlsStream<TcpStream> {
    let mut tls = secure(pki, listener).await;
    tls.write_all(&settings(&[])).await.unwrap();
    tls.flush().await.unwrap();
    let mut preface = vec![0; PREFACE.len()];
    tls.read_exact(&mut preface).await.unwrap();
    let (mut reader, mut buffer) = (Reader::default(), [0; 4096]);
    loop {
        let read = tls.read(&mut buffer).await.unwrap();
        assert!(read > 0, "no CONNECT");
        if reader.take(&buffer[..read]).iter().any(|frame| frame.kind == HEADERS) {
            return tls;
        }
    }
}

/// A connection of ours through the listener's tunnel, that `app` uses until it ends.
pub(super) async fn victim(
    pki: &Pki,
    listener: &TcpListener,
    limits: Limits,
    app: impl AsyncFnOnce(TcpStream),
) {
    let dialler = Dialler::new(pki, limits, listener.local_addr().unwrap()).await;
    if let Ok(stream) = dialler.connect("10.0.0.1:80").await {
        let (near, ours) = crate::ends::Pairs::new().await.make().await;
        let relayed = sotto::tunnel::relay(ours, stream, &Rc::default());
        let (relayed, ()) = tokio::join!(relayed, app(near));
        assert!(relayed.is_err(), "it ended in order");
    }
    until("the tunnel is gone", || dialler.pool.tunnels() == 0).await;
}

/// Takes whatever comes.
pub(super) async fn read(mut app: TcpStream) {
    while let Ok(1..) = app.read(&mut [0; 4096]).await {}
}

async fn all(abuses: Vec<Abuse>) {
    all_under(Limits::default(), abuses).await;
}

async fn all_under(limits: Limits, abuses: Vec<Abuse>) {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        for Abuse { what, first, step, codes } in abuses {
            let once = async || {
                let abusing = async {
                    let tls = take(&stand.pki, &listener).await;
                    abuse(tls, first.clone(), &step).await
                };
                let ours = victim(&stand.pki, &listener, limits.clone(), read);
                let (end, ()) = tokio::join!(abusing, ours);
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
        flood("SETTINGS that move the table", answered(), |n| settings(&[(1, n << 31 | n)])),
        flood("PING never asked for", answered(), |_| frame(PING, ACK, 0, &[1; 8])),
        flood("empty DATA", answered(), |_| frame(DATA, 0, 1, &[])),
        flood("DATA of padding alone", answered(), |_| frame(DATA, PADDED, 1, &[3, 0, 0, 0])),
        flood("RST_STREAM", answered(), |_| broken()),
        flood("PRIORITY", answered(), |_| frame(PRIORITY, 0, 1, &[0; 5])),
        flood("WINDOW_UPDATE of the connection", answered(), |_| window_update(0, 1)),
        flood("WINDOW_UPDATE of a stream", answered(), |_| window_update(1, 1)),
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
    let informational = |block: &[u8]| frame(HEADERS, END_HEADERS, 1, block);
    let early = || field(":status", "103");
    // The first of them resets the stream, the others come too late; all must be decoded.
    let bomb = move |n| match n {
        0 => informational(&[early(), remember()].concat()),
        _ => informational(&[early(), copies(1000)].concat()),
    };
    // The table emptied and opened again, as often as fits.
    let sizes = [&[0x20, 0x3f, 0xe1, 0x1f].repeat(4000)[..], &early()].concat();
    all(vec![
        flood("CONTINUATION of a byte", begun(), |_| frame(CONTINUATION, 0, 1, &[0])),
        flood("empty CONTINUATION", begun(), |_| frame(CONTINUATION, 0, 1, &[])),
        flood("CONTINUATION of 16 KiB", begun(), |_| frame(CONTINUATION, 0, 1, &[0; 16_384])),
        flood("copies from the table", vec![], bomb),
        fault("table sizes", &[COMPRESSION_ERROR], &informational(&sizes)),
        fault("a header block of 16 MiB", &[ENHANCE_YOUR_CALM], &head(0xff_ffff, HEADERS, 0, 1)),
        fault("another frame in a header block", &[PROTOCOL_ERROR], &{
            [begun(), frame(PING, 0, 0, &[0; 8])].concat()
        }),
        fault("a table larger than allowed", &[COMPRESSION_ERROR], &table),
        fault("an integer without end", &[COMPRESSION_ERROR], &{
            frame(HEADERS, END_HEADERS, 1, &[0xff; 64])
        }),
    ])
    .await;
}

#[tokio::test]
async fn a_servers_frames_against_the_rules_end_the_tunnel_with_their_code() {
    let answer = frame(HEADERS, END_HEADERS, 2, OK);
    let ended = [frame(HEADERS, END_HEADERS | END_STREAM, 1, OK), broken(), answered()].concat();
    let go_away = |last: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    all(vec![
        fault("PING of 16 MiB", &[FRAME_SIZE_ERROR], &head(0xff_ffff, PING, 0, 0)),
        fault("PUSH_PROMISE", &[PROTOCOL_ERROR], &frame(PUSH_PROMISE, 4, 1, &[0; 4])),
        fault("PUSH_PROMISE with an answer", &[PROTOCOL_ERROR], &{
            [answered(), frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x88])].concat()
        }),
        fault("DATA on a stream never opened", &[PROTOCOL_ERROR], &frame(DATA, 0, 7, b"bytes")),
        fault("an answer to nothing", &[PROTOCOL_ERROR], &answer),
        fault("an answer on a closed stream", &[STREAM_CLOSED], &ended),
        fault("padding longer than HEADERS", &[PROTOCOL_ERROR], &{
            frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0x88])
        }),
        fault("padding longer than DATA", &[PROTOCOL_ERROR], &{
            [answered(), frame(DATA, PADDED, 1, &[9, 0])].concat()
        }),
        fault("GOAWAY that takes back another", &[PROTOCOL_ERROR], &{
            [go_away(1), go_away(3)].concat()
        }),
    ])
    .await;
}

#[tokio::test]
async fn a_servers_windows_that_are_overrun_or_overflow_end_the_tunnel() {
    let overflow = [window_update(0, 0x7fff_ffff), window_update(0, 0x7fff_ffff)].concat();
    let beyond = [answered(), frame(DATA, 0, 1, &[0; 300_000]), frame(DATA, 0, 1, &[0; 300_000])];
    // The window is one byte larger than the largest frame.
    let shared = [answered(), frame(DATA, 0, 1, &[0; 2]), head(0xff_ffff, DATA, 0, 1)].concat();
    let moved = [answered(), window_update(1, 0x7fff_0000), settings(&[(4, 65_536)])].concat();
    all(vec![
        fault("DATA beyond the connection's window", &[FLOW_CONTROL_ERROR], &shared),
        fault("DATA beyond the window of a reset stream", &[FLOW_CONTROL_ERROR], &beyond.concat()),
        fault("a connection's window beyond the largest", &[FLOW_CONTROL_ERROR], &overflow),
        fault("SETTINGS that overflow a stream's window", &[FLOW_CONTROL_ERROR], &moved),
    ])
    .await;
}

#[tokio::test]
async fn a_servers_settings_against_the_rules_end_the_tunnel_with_their_code() {
    let ack = frame(SETTINGS, ACK, 0, &[]);
    let most = settings(&[(4, 0x8000_0000)]);
    all(vec![
        fault("an initial window beyond the largest", &[FLOW_CONTROL_ERROR], &most),
        fault("SETTINGS of 12 MiB", &[ENHANCE_YOUR_CALM], &head(0xc0_0000, SETTINGS, 0, 0)),
        fault("SETTINGS of half an entry", &[FRAME_SIZE_ERROR], &frame(SETTINGS, 0, 0, &[0; 3])),
        fault("SETTINGS acknowledged twice", &[PROTOCOL_ERROR], &ack.repeat(2)),
        fault("frames too small", &[PROTOCOL_ERROR], &settings(&[(5, 1)])),
        fault("frames too large", &[PROTOCOL_ERROR], &settings(&[(5, 1 << 24)])),
        fault("pushing turned on", &[PROTOCOL_ERROR], &settings(&[(2, 1)])),
    ])
    .await;
}

#[tokio::test]
async fn a_servers_frame_one_byte_longer_than_allowed_ends_the_tunnel() {
    let limits = Limits { max_frame: 100_000, ..Limits::default() };
    let fits = frame(DATA, 0, 1, &[0; 100_000]);
    let kinds = [DATA, HEADERS, 0xfa].map(|kind| {
        let longer = [answered(), fits.clone(), head(100_001, kind, 0, 1)].concat();
        fault("a frame of one byte too much", &[FRAME_SIZE_ERROR], &longer)
    });
    all_under(limits, kinds.into()).await;
}

#[tokio::test]
async fn a_server_that_does_not_begin_as_one_ends_the_tunnel() {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let starts: [(&str, Vec<u8>, u32); 3] = [
            ("PING before SETTINGS", frame(PING, 0, 0, &[0; 8]), PROTOCOL_ERROR),
            ("SETTINGS acknowledged before its own", frame(SETTINGS, ACK, 0, &[]), PROTOCOL_ERROR),
            // As a frame it has 5,261,652 bytes, and a kind that nobody knows.
            ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\n\r\n".into(), PROTOCOL_ERROR),
        ];
        for (what, start, code) in starts {
            let once = async || {
                let abusing = async {
                    let mut tls = secure(&stand.pki, &listener).await;
                    tls.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                    abuse(tls, start.clone(), |_| None).await
                };
                let ours = victim(&stand.pki, &listener, Limits::default(), read);
                let (end, ()) = tokio::join!(abusing, ours);
                end.is_told(&[code], what);
            };
            stand.suffer(what, MOST, once).await;
        }
    })
    .await;
}
