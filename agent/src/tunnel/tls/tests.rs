//! Sessions between two of our own ends, and what they make of damage.

use std::sync::Arc;

use super::*;
use crate::tunnel::testing::{Pki, tcp_pair};

async fn sessions() -> (Session, Session) {
    let pki = Pki::new();
    let (mut near, mut far) = tcp_pair().await;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let (client, server) = tokio::join!(
        connect(&mut near, Arc::clone(&pki.client), name),
        accept(&mut far, Arc::clone(&pki.server)),
    );
    let (client, server) = (client.unwrap(), server.unwrap());
    assert!(server.rest.is_empty());
    // Tickets, which the server sends behind its handshake.
    let mut said = client.rest;
    drop(far);
    near.read_to_end(&mut said).await.unwrap();
    let mut client = client.session;
    assert_eq!(client.open(&mut said).unwrap().plain, 0);
    (client, server.session)
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn records_open_in_place_and_a_partial_one_stays() {
    let (mut client, mut server) = sessions().await;
    let plain = noise(100_000);
    let mut wire = Vec::new();
    client.seal(&plain, &mut wire).unwrap();
    for cut in [0, 1, 4, 5, 6, 16_000, 16_406, 16_407, wire.len() - 1] {
        let mut part = wire[..cut].to_vec();
        let opened = server.open(&mut part).unwrap();
        assert!(opened.consumed <= cut && cut - opened.consumed <= 16_406, "{opened:?} of {cut}");
        assert_eq!(part[..opened.plain], plain[..opened.plain]);
        // Start over with fresh sessions: these have moved on.
        (client, server) = sessions().await;
        wire.clear();
        client.seal(&plain, &mut wire).unwrap();
    }
    let opened = server.open(&mut wire).unwrap();
    assert_eq!((opened.consumed, opened.plain, opened.closed), (wire.len(), plain.len(), false));
    assert_eq!(wire[..opened.plain], plain);
}

#[tokio::test]
async fn the_word_that_no_more_comes_is_told() {
    let (mut client, mut server) = sessions().await;
    let mut wire = Vec::new();
    client.seal(b"last", &mut wire).unwrap();
    client.close(&mut wire).unwrap();
    let opened = server.open(&mut wire).unwrap();
    assert_eq!((opened.plain, opened.closed), (4, true));
    // The other direction goes on.
    let mut wire = Vec::new();
    server.seal(b"more", &mut wire).unwrap();
    assert_eq!(client.open(&mut wire).unwrap().plain, 4);
}

#[tokio::test]
async fn a_damaged_record_is_an_error_and_gets_an_alert() {
    for at in [0, 3, 5, 20] {
        let (mut client, mut server) = sessions().await;
        let mut wire = Vec::new();
        client.seal(b"bytes", &mut wire).unwrap();
        wire[at] ^= 0x80;
        server.open(&mut wire).unwrap_err();
        let mut alert = Vec::new();
        server.flush(&mut alert).unwrap();
        assert!(!alert.is_empty(), "{at}");
        client.open(&mut alert).unwrap_err();
    }
}

#[test]
fn what_is_no_record_is_not_waited_for() {
    let check = |wire: &[u8], expected| assert_eq!(first_record(wire), expected, "{wire:?}");
    check(b"", None);
    check(&[23, 3, 3, 0], None);
    check(&[23, 3, 3, 0, 2, 1], None);
    check(&[23, 3, 3, 0, 2, 1, 1, 9], Some(7));
    check(b"GET / HTTP/1.1", Some(14));
    check(&[23, 3, 3, 0xff, 0xff, 0], Some(6));
}
