//! Peers that do not go on: with the handshake, with reading, with their windows.

use tokio::io::AsyncWrite;

use super::frames::*;
use super::peer::{Reader, abuse, dial};
use super::*;
use crate::ends::Pairs;
use crate::local;

/// Patience of milliseconds.
pub(super) fn impatient() -> Limits {
    Limits {
        handshake_timeout: Duration::from_millis(300),
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(400),
        ..Limits::default()
    }
}

/// Writes PINGs and never reads, until that is cut off. A byte of use behind each keeps the budget for
/// useless frames full.
pub(super) async fn pour(mut to: impl AsyncWrite + Unpin) {
    let step = [frame(PING, 0, 0, &[0; 8]), frame(DATA, 0, 1, &[0; 100])].concat();
    let batch = step.repeat(100);
    let mut written = 0_usize;
    while to.write_all(&batch).await.is_ok() && to.flush().await.is_ok() {
        written += batch.len();
        assert!(written < 256 << 20, "it is never cut off");
    }
}

/// Streams a peer may open, each with a window to fill.
const STREAMS: u32 = 200;
const WINDOW: usize = 256 << 10;

#[tokio::test]
async fn handshakes_that_stop_are_closed_in_time() {
    local(100, async {
        let stand = Stand::new(impatient()).await;
        let half = async || {
            // A record's header announces more than comes.
            let mut peers = Vec::new();
            for _ in 0..100 {
                let mut peer = TcpStream::connect(stand.gateway.address).await.unwrap();
                peer.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await.unwrap();
                peers.push(peer);
            }
            for mut peer in peers {
                while let Ok(1..) = peer.read(&mut [0; 64]).await {}
            }
        };
        stand.suffer("half a client hello, 100 times", MOST, half).await;
        for (what, said) in [("silence", 0), ("half a preface", 12), ("no SETTINGS", 24)] {
            let once = async || {
                let tls = dial(&stand.pki, stand.gateway.address).await;
                let end = abuse(tls, PREFACE[..said].to_vec(), |_| None).await;
                assert!(end.resets.is_empty(), "{what}: {end:?}");
            };
            stand.suffer(what, MOST, once).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_never_reads_is_cut_off() {
    local(100, async {
        let stand = Stand::new(impatient()).await;
        // What the application sends back asks for more room than there is.
        let wide = [window_update(0, 1 << 30), settings(&[(4, 1 << 30)])].concat();
        let once = async || {
            let mut tls = dial(&stand.pki, stand.gateway.address).await;
            tls.write_all(&[hello(), wide.clone(), connect(1)].concat()).await.unwrap();
            // Its session has read nothing since the handshake, either.
            pour(tls).await;
        };
        stand.suffer("never reading", MOST, once).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_opens_all_streams_and_falls_silent_is_cut_off() {
    local(100, async {
        let stand = Stand::new(impatient()).await;
        let opened: Vec<u8> = (0..STREAMS).flat_map(|n| connect(odd(n))).collect();
        let once = async || {
            let tls = dial(&stand.pki, stand.gateway.address).await;
            let end = abuse(tls, [hello(), opened.clone()].concat(), |_| None).await;
            assert!(end.resets.is_empty(), "{end:?}");
        };
        stand.suffer("all streams, then silence", MOST, once).await;
    })
    .await;
}

/// Fills every window, answers every PING, and takes nothing for a second; then goes without a word.
async fn hold(stand: &Stand) {
    let mut tls = dial(&stand.pki, stand.gateway.address).await;
    let window = settings(&[(4, 0)]);
    tls.write_all(&[PREFACE, &window, &frame(SETTINGS, ACK, 0, &[])].concat()).await.unwrap();
    for n in 0..STREAMS {
        tls.write_all(&connect(odd(n))).await.unwrap();
        tls.write_all(&frame(DATA, 0, odd(n), &[0; WINDOW])).await.unwrap();
    }
    tls.flush().await.unwrap();
    let (begun, mut reader, mut buffer) = (Instant::now(), Reader::default(), [0; 4096]);
    while begun.elapsed() < Duration::from_secs(1) {
        let pause = Duration::from_millis(100);
        let Ok(read) = tokio::time::timeout(pause, tls.read(&mut buffer)).await else { continue };
        let read = read.unwrap();
        assert!(read > 0, "a tunnel that answers is not cut off");
        for Frame { kind, payload, .. } in reader.take(&buffer[..read]) {
            if kind == PING {
                tls.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
                tls.flush().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_peer_without_windows_holds_no_more_than_its_own() {
    local(100, async {
        let pki = Pki::new();
        // Applications that answer the bystander, and read nothing of the others.
        let app = |authority: String, app| async move {
            if authority == "10.0.0.1:1" {
                echo(app).await;
            } else {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        };
        let gateway = Gateway::start_over(Pairs::narrow().await, &pki, impatient(), app).await;
        let bystander = Bystander::start(&pki, &gateway).await;
        let stand = Stand { pki, gateway, bystander };
        // A queue of bytes takes up to twice what is in it.
        let bound = STREAMS as usize * WINDOW * 2 + MOST;
        let once = async || {
            hold(&stand).await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
        };
        stand.suffer("windows shut and full", bound, once).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_goes_in_the_middle_of_a_frame_leaves_nothing() {
    local(100, async {
        let stand = Stand::new(Limits::default()).await;
        let parts: [(&str, Vec<u8>); 3] = [
            ("half a DATA frame", [connect(1), head(1000, DATA, 0, 1), vec![0; 500]].concat()),
            ("half a header block", frame(HEADERS, 0, 1, &request())),
            ("half a PING", head(8, PING, 0, 0)),
        ];
        for (what, part) in parts {
            let once = async || {
                let mut tls = dial(&stand.pki, stand.gateway.address).await;
                tls.write_all(&[hello(), part.clone()].concat()).await.unwrap();
                tls.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                // No close_notify: the socket just closes.
                drop(tls);
            };
            stand.suffer(what, MOST, once).await;
        }
    })
    .await;
}
