//! Servers that do not go on with our dialling end: with the handshake, with HTTP/2, with reading.

use tokio::net::TcpListener;

use super::dialling::{read, secure, take, victim};
use super::frames::*;
use super::peer::abuse;
use super::stalling::{impatient, pour};
use super::*;
use crate::local;
use crate::pki::LOCALHOST;

/// Lets our dialling end meet `server`, which is to be left in time.
async fn leaves(
    what: &str,
    server: impl AsyncFn(&Pki, &TcpListener),
    app: impl AsyncFn(TcpStream),
) {
    local(100, async {
        let stand = Stand::new(impatient()).await;
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let once = async || {
            let ours = victim(&stand.pki, &listener, impatient(), &app);
            tokio::join!(server(&stand.pki, &listener), ours);
        };
        stand.suffer(what, MOST, once).await;
    })
    .await;
}

/// Writes `said` on a bare connection and waits for the close.
async fn bare(listener: &TcpListener, said: &[u8]) {
    let (mut tcp, _) = listener.accept().await.unwrap();
    tcp.write_all(said).await.unwrap();
    while let Ok(1..) = tcp.read(&mut [0; 4096]).await {}
}

#[tokio::test]
async fn servers_that_stop_in_the_handshake_are_left_in_time() {
    leaves("silence", async |_, listener| bare(listener, &[]).await, read).await;
    // A record's header announces more than comes.
    let half = &[22, 3, 3, 0, 90, 2, 0, 0, 86];
    leaves("half a server hello", async |_, listener| bare(listener, half).await, read).await;
}

#[tokio::test]
async fn servers_that_stop_after_the_handshake_are_left_in_time() {
    let no_settings = async |pki: &Pki, listener: &TcpListener| {
        abuse(secure(pki, listener).await, vec![], |_| None).await;
    };
    leaves("no SETTINGS", no_settings, read).await;
    // It answers the request, and no PING.
    let silent = async |pki: &Pki, listener: &TcpListener| {
        let tls = take(pki, listener).await;
        abuse(tls, frame(HEADERS, END_HEADERS, 1, OK), |_| None).await;
    };
    leaves("an answer, then silence", silent, read).await;
}

#[tokio::test]
async fn a_server_that_never_reads_is_cut_off() {
    // As much as there is room for, both ways.
    let both = async |mut app: TcpStream| {
        let (mut read, mut write) = app.split();
        let taking = async { while let Ok(1..) = read.read(&mut [0; 4096]).await {} };
        let giving = async { while write.write_all(&[7; 4096]).await.is_ok() {} };
        tokio::join!(taking, giving);
    };
    let wide = [window_update(0, 1 << 30), settings(&[(4, 1 << 30)])].concat();
    let server = async |pki: &Pki, listener: &TcpListener| {
        let mut tls = take(pki, listener).await;
        tls.write_all(&[&wide, &frame(HEADERS, END_HEADERS, 1, OK)[..]].concat()).await.unwrap();
        pour(tls).await;
    };
    leaves("never reading", server, both).await;
}
