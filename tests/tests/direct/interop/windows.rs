//! Windows and frames of every size, also while bytes are on their way.

use std::time::Duration;

use super::theirs::{Command, Set, answer};
use super::*;
use crate::local;

/// The crate's windows, one after the other; 0 takes windows in use below 0.
const SIZES: [u32; 9] = [0, 1 << 20, 1, 65_535, 0, 16 << 20, 100, 0, 1 << 20];

/// One byte of window on either side.
fn one_byte_windows() -> Plan {
    let limits = Limits { stream_window: 1, ..Limits::default() };
    let set = Set { window: 1, ..Set::default() };
    Plan { limits, set, streams: 4, total: 4000, ..Plan::default() }
}

/// The crate puts one byte in a frame, and takes no more in one than it must; ours follow from
/// windows of one byte, above.
fn one_byte_frames() -> Plan {
    let set = Set { piece: 1, frame: 1 << 14, ..Set::default() };
    Plan { set, streams: 4, total: 8000, ..Plan::default() }
}

/// Both ends take frames of 2^24-1 bytes, and windows that let them be sent.
fn largest_frames() -> Plan {
    let (stream_window, connection_window) = (64 << 20, 16 << 20);
    let limits =
        Limits { stream_window, connection_window, window_budget: 256 << 20, ..Limits::default() };
    let set = Set { window: 64 << 20, frame: (1 << 24) - 1, ..Set::default() };
    Plan { limits, set, streams: 4, total: 40 << 20, ..Plan::default() }
}

#[tokio::test]
async fn windows_of_one_byte_pass_everything() {
    local(60, async {
        crate_dials(one_byte_windows()).await;
        crate_is_dialled(one_byte_windows()).await;
    })
    .await;
}

#[tokio::test]
async fn frames_of_one_byte_pass_everything() {
    local(60, async {
        crate_dials(one_byte_frames()).await;
        crate_is_dialled(one_byte_frames()).await;
    })
    .await;
}

#[tokio::test]
async fn the_largest_frames_allowed_pass_everything() {
    local(60, async {
        crate_dials(largest_frames()).await;
        crate_is_dialled(largest_frames()).await;
    })
    .await;
}

/// Changes windows until `done`, in pauses long enough for bytes to fill them.
async fn change(window: impl Fn(u32), done: impl Future) {
    let changing = async {
        for size in SIZES.into_iter().cycle() {
            window(size);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = done => {}
        () = changing => {}
    }
}

#[tokio::test]
async fn our_server_follows_windows_that_change_and_close_in_the_middle() {
    const TOTAL: u64 = 32 << 20;
    local(60, async {
        let pki = Pki::new();
        let gateway = exchanging(&pki, TOTAL).await;
        let client = Client::dial(&pki, gateway.address, Set::default()).await;
        let streams = futures::future::join_all((1..=4).map(|number| {
            let (client, authority) = (&client, authority(number));
            async move {
                let (send, body) = client.open(&authority).await;
                exchange(send, body, flows(&authority), (TOTAL, bytes::PART)).await;
            }
        }));
        change(|size| client.tell(Command::Window(size)), streams).await;
        let changes = client.changes.get();
        assert!(changes > SIZES.len(), "{changes} changes are too few");
    })
    .await;
}

#[tokio::test]
async fn our_client_follows_windows_that_change_and_close_in_the_middle() {
    const TOTAL: u64 = 32 << 20;
    local(60, async {
        let pki = Pki::new();
        let serve = |request: http::Request<h2::RecvStream>, mut respond| async move {
            let (up, down) = flows(request.uri().authority().unwrap().as_str());
            let send = answer(&mut respond);
            exchange(send, request.into_body(), (down, up), (TOTAL, bytes::PART)).await;
        };
        let server = Server::start(&pki, Set::default(), serve).await;
        let dialler = Dialler::new(&pki, Limits::default(), server.address).await;
        // The connection to be told exists from here on.
        let (idle, _) = dialler.open(&authority(9)).await;
        let streams = futures::future::join_all((1..=4).map(|number| {
            let (dialler, authority) = (&dialler, authority(number));
            async move {
                let (app, outcome) = dialler.open(&authority).await;
                bytes::exchange(app, flows(&authority), TOTAL).await;
                outcome.await.unwrap().unwrap();
            }
        }));
        change(|size| server.tell(Command::Window(size)), streams).await;
        let changes = server.changes.get();
        assert!(changes > SIZES.len(), "{changes} changes are too few");
        drop(idle);
    })
    .await;
}
