//! Sessions of every pair of record layers, and what they make of damage.

use std::cell::RefCell;

use proptest::prelude::*;
use rustls::AlertDescription;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use super::*;
use crate::tunnel::testing::{Pki, tcp_pair};

mod corpus;
mod differential;
mod peer;
mod stranger;

const LAYERS: [RecordLayer; 2] = [RecordLayer::Rustls, RecordLayer::Own];

pub(super) fn name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// Shakes hands in memory, `cut` bytes at a time.
pub(super) fn shake_by(
    mut client: Handshake,
    mut server: Handshake,
    cut: usize,
) -> [Established; 2] {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    loop {
        let (one, other) = (cut.min(down.len()), cut.min(up.len()));
        at_client.extend(down.drain(..one));
        at_server.extend(up.drain(..other));
        let done = client.advance(&mut at_client, &mut up).unwrap();
        if server.advance(&mut at_server, &mut down).unwrap() && done && up.is_empty() {
            break;
        }
    }
    assert_eq!([client.protocol(), server.protocol()], [Some(ALPN); 2]);
    at_client.extend(down);
    [client.finish(at_client).unwrap(), server.finish(at_server).unwrap()]
}

/// The client's session and the server's, after the tickets.
pub(super) fn sessions(pki: &Pki, layers: [RecordLayer; 2]) -> [Session; 2] {
    let client = Handshake::client(Arc::clone(&pki.client), name(), layers[0]).unwrap();
    let server = Handshake::server(Arc::clone(&pki.server), layers[1]).unwrap();
    let [mut client, server] = shake_by(client, server, usize::MAX);
    assert!(server.rest.is_empty());
    assert_eq!([client.peer.len(), server.peer.len()], [1, 1]);
    let tickets = client.session.open(&mut client.rest).unwrap();
    assert_eq!(tickets, Opened { consumed: client.rest.len(), plain: 0, closed: false });
    [client.session, server.session]
}

/// Every pair of layers, the sessions in both orders.
fn each_pair(mut test: impl FnMut(Session, Session)) {
    let pki = Pki::new();
    for one in LAYERS {
        for other in LAYERS {
            let [client, server] = sessions(&pki, [one, other]);
            test(client, server);
            let [client, server] = sessions(&pki, [one, other]);
            test(server, client);
        }
    }
}

pub(super) fn seal(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    session.seal(plain, &mut wire).unwrap();
    wire
}

pub(super) fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251).to_le_bytes()[0]).collect()
}

pub(super) fn check_carries(from: &mut Session, to: &mut Session, plain: &[u8]) {
    let mut wire = seal(from, plain);
    let opened = to.open(&mut wire).unwrap();
    assert_eq!(opened, Opened { consumed: wire.len(), plain: plain.len(), closed: false });
    assert!(wire[..plain.len()] == *plain, "{} bytes", plain.len());
}

/// Opens what comes in parts, as a tunnel does.
fn open_by(session: &mut Session, wire: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut partial, mut plain) = (Vec::new(), Vec::new());
    let (mut rest, mut cuts) = (wire, cuts.iter().cycle());
    while !rest.is_empty() {
        let (part, after) = rest.split_at(cuts.next().map_or(1, |cut| *cut).clamp(1, rest.len()));
        rest = after;
        partial.extend_from_slice(part);
        let opened = session.open(&mut partial).unwrap();
        plain.extend_from_slice(&partial[..opened.plain]);
        partial.drain(..opened.consumed);
    }
    assert!(partial.is_empty());
    plain
}

#[test]
fn every_pair_carries_both_ways() {
    each_pair(|mut one, mut other| {
        for length in [1, 64, 16_383, 16_384, 16_385, 100_000, 0] {
            check_carries(&mut one, &mut other, &noise(length));
            check_carries(&mut other, &mut one, &noise(length));
        }
    });
}

#[test]
fn handshakes_end_however_they_are_cut() {
    let pki = Pki::new();
    for layers in [[LAYERS[0], LAYERS[1]], [LAYERS[1], LAYERS[0]], [LAYERS[1], LAYERS[1]]] {
        for cut in [1, 7, 100, 1000] {
            let client = Handshake::client(Arc::clone(&pki.client), name(), layers[0]).unwrap();
            let server = Handshake::server(Arc::clone(&pki.server), layers[1]).unwrap();
            let [mut client, mut server] = shake_by(client, server, cut);
            let opened = client.session.open(&mut client.rest).unwrap();
            assert_eq!((opened.consumed, opened.plain), (client.rest.len(), 0));
            check_carries(&mut client.session, &mut server.session, b"up");
            check_carries(&mut server.session, &mut client.session, b"down");
        }
    }
}

#[test]
fn handshakes_end_however_the_peer_cuts_its_messages() {
    let pki = Pki::new();
    let (mut client, mut server) = ((*pki.client).clone(), (*pki.server).clone());
    client.max_fragment_size = Some(32);
    server.max_fragment_size = Some(32);
    let (client, server) = (Arc::new(client), Arc::new(server));
    for cut in [1, 100, usize::MAX] {
        let one = Handshake::client(Arc::clone(&client), name(), RecordLayer::Own).unwrap();
        let other = Handshake::server(Arc::clone(&server), RecordLayer::Own).unwrap();
        let [mut client, mut server] = shake_by(one, other, cut);
        client.session.open(&mut client.rest).unwrap();
        check_carries(&mut client.session, &mut server.session, b"up");
        check_carries(&mut server.session, &mut client.session, b"down");
    }
}

#[test]
fn a_damaged_handshake_fails_in_order() {
    let pki = Pki::new();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) };
    let damage = (0_usize..4000, any::<u8>(), 0_usize..3, proptest::bool::weighted(0.2));
    proptest!(config, |((at, with, extra, cut) in damage, layer in 0_usize..2)| {
        let mut client =
            Handshake::client(Arc::clone(&pki.client), name(), RecordLayer::Own).unwrap();
        let mut server = Handshake::server(Arc::clone(&pki.server), LAYERS[layer]).unwrap();
        let (mut up, mut down, mut at) = (Vec::new(), Vec::new(), Some(at));
        for _ in 0..4 {
            if client.advance(&mut down, &mut up).is_err() {
                break;
            }
            damage_once(&mut up, &mut at, with, extra, cut);
            if server.advance(&mut up, &mut down).is_err() {
                break;
            }
            damage_once(&mut down, &mut at, with, extra, cut);
        }
    });
}

/// Damages the byte that is the `at`th of all that pass.
fn damage_once(wire: &mut Vec<u8>, at: &mut Option<usize>, with: u8, extra: usize, cut: bool) {
    match *at {
        Some(here) if here < wire.len() => {
            wire[here] ^= with;
            wire.splice(here..here, std::iter::repeat_n(with, extra));
            if cut {
                wire.truncate(here);
            }
            *at = None;
        }
        Some(later) => *at = Some(later - wire.len()),
        None => {}
    }
}

#[tokio::test]
async fn what_comes_right_after_the_handshake_is_left() {
    let pki = Pki::new();
    for layers in [LAYERS, [LAYERS[1], LAYERS[0]], [LAYERS[1]; 2]] {
        let (mut near, mut far) = tcp_pair().await;
        let (client, server) = tokio::join!(
            connect(&mut near, Arc::clone(&pki.client), name(), layers[0]),
            accept(&mut far, Arc::clone(&pki.server), layers[1]),
        );
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        far.write_all(&seal(&mut server.session, b"first")).await.unwrap();
        drop(far);
        near.read_to_end(&mut client.rest).await.unwrap();
        let opened = client.session.open(&mut client.rest).unwrap();
        assert_eq!(opened.consumed, client.rest.len());
        assert_eq!(client.rest[..opened.plain], *b"first");
    }
}

#[tokio::test]
async fn a_client_without_our_protocol_is_told_that_this_is_the_end() {
    let pki = Pki::new();
    for layer in LAYERS {
        let (mut near, mut far) = tcp_pair().await;
        let (client, server) = tokio::join!(
            connect(&mut near, pki.client(&[]), name(), layer),
            accept(&mut far, Arc::clone(&pki.server), layer),
        );
        assert!(matches!(client, Err(HandshakeError::Protocol)));
        assert!(matches!(server, Err(HandshakeError::Protocol)));
    }
}

#[test]
fn a_failed_handshake_is_told_to_the_peer() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    for one in LAYERS {
        for other in LAYERS {
            let client = Arc::clone(&stranger.client);
            let mut client = Handshake::client(client, name(), one).unwrap();
            let mut server = Handshake::server(Arc::clone(&pki.server), other).unwrap();
            let (mut up, mut down) = (Vec::new(), Vec::new());
            assert!(!client.advance(&mut down, &mut up).unwrap());
            assert!(!server.advance(&mut up, &mut down).unwrap());
            // The client does not know the server's root.
            client.advance(&mut down, &mut up).unwrap_err();
            let error = server.advance(&mut up, &mut down).unwrap_err();
            assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error}");
        }
    }
}

#[test]
fn our_records_are_only_for_what_we_know() {
    let pki = Pki::new();
    let is_own = |config: &ClientConfig, layer| {
        let handshake = Handshake::client(Arc::new(config.clone()), name(), layer).unwrap();
        matches!(handshake, Handshake::Own(_))
    };
    let mut config = (*pki.client).clone();
    assert!(is_own(&config, RecordLayer::Own));
    assert!(!is_own(&config, RecordLayer::Rustls));
    config.enable_secret_extraction = false;
    assert!(!is_own(&config, RecordLayer::Own));
    let all = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(all).with_safe_default_protocol_versions();
    let roots = rustls::RootCertStore::empty();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.enable_secret_extraction = true;
    assert!(!is_own(&config, RecordLayer::Own), "it offers ChaCha20");
}

#[test]
fn both_suites_are_ours() {
    for suite in [
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    ] {
        let pki = Pki::with(Arc::new(CryptoProvider {
            cipher_suites: vec![suite],
            ..aws_lc_rs::default_provider()
        }));
        for layers in [LAYERS, [LAYERS[1], LAYERS[0]], [LAYERS[1]; 2]] {
            let [mut client, mut server] = sessions(&pki, layers);
            check_carries(&mut client, &mut server, b"up");
            check_carries(&mut server, &mut client, b"down");
        }
    }
}

#[test]
fn a_partial_record_stays() {
    each_pair(|mut one, mut other| {
        let plain = noise(20_000);
        let wire = seal(&mut one, &plain);
        let mut at = 0;
        for cut in [0, 1, 4, 5, 6, 16_000, 16_405] {
            let mut part = wire[..cut].to_vec();
            assert_eq!(other.open(&mut part).unwrap(), Opened::default(), "{cut}");
        }
        for (cut, consumed, length) in [(16_407, 16_406, 16_384), (wire.len(), wire.len(), 3616)] {
            let mut part = wire[at..cut].to_vec();
            let opened = other.open(&mut part).unwrap();
            assert_eq!((opened.consumed, opened.plain), (consumed - at, length));
            at = consumed;
        }
    });
}

#[test]
fn the_word_that_no_more_comes_is_told_and_the_last() {
    each_pair(|mut one, mut other| {
        let mut wire = seal(&mut one, b"last");
        one.close(&mut wire).unwrap();
        // What follows is nothing, be it a record or not.
        wire.extend_from_slice(&[23, 3, 3, 0, 20]);
        wire.extend_from_slice(&[7; 30]);
        let opened = other.open(&mut wire).unwrap();
        assert_eq!(opened, Opened { consumed: wire.len(), plain: 4, closed: true });
        let opened = other.open(&mut wire).unwrap();
        assert_eq!(opened, Opened { consumed: wire.len(), plain: 0, closed: true });
        // The other direction goes on.
        check_carries(&mut other, &mut one, b"more");
    });
}

#[test]
fn damage_anywhere_is_an_error_and_gets_an_alert() {
    let pki = Pki::new();
    for layers in [[LAYERS[0]; 2], LAYERS, [LAYERS[1], LAYERS[0]], [LAYERS[1]; 2]] {
        for at in 0..5 + 8 + 1 + 16 {
            if layers[1] == RecordLayer::Rustls && matches!(at, 0 | 2) {
                // It authenticates the header that should be there, not the one that is.
                continue;
            }
            let [mut client, mut server] = sessions(&pki, layers);
            let mut wire = seal(&mut client, b"8 bytes!");
            assert_eq!(wire.len(), 30);
            // A length that is longer would be waited for.
            wire[at] ^= if at == 3 { 0x80 } else { 1 };
            server.open(&mut wire).unwrap_err();
            let mut alert = Vec::new();
            server.flush(&mut alert).unwrap();
            let told = client.open(&mut alert).unwrap_err();
            let rustls::Error::AlertReceived(alert) = told else { panic!("{at}: {told:?}") };
            if layers[1] == RecordLayer::Own {
                let expected = match at {
                    0 => AlertDescription::UnexpectedMessage,
                    1 | 2 => AlertDescription::DecodeError,
                    3 => AlertDescription::RecordOverflow,
                    _ => AlertDescription::BadRecordMac,
                };
                assert_eq!(alert, expected, "{at}");
            }
        }
    }
}

#[test]
fn a_record_is_taken_once_and_in_its_turn() {
    let pki = Pki::new();
    for layer in LAYERS {
        let check = |order: &[usize]| {
            let [mut client, mut server] = sessions(&pki, [RecordLayer::Rustls, layer]);
            let records = [seal(&mut client, b"one"), seal(&mut client, b"two")];
            let mut wire: Vec<u8> = order.iter().flat_map(|of| records[*of].clone()).collect();
            server.open(&mut wire).map(|opened| opened.plain)
        };
        assert_eq!(check(&[0, 1]), Ok(6));
        for order in [&[0, 0][..], &[1, 0], &[1], &[0, 1, 0]] {
            assert_eq!(check(order), Err(rustls::Error::DecryptError), "{order:?}");
        }
    }
}

#[test]
fn records_open_whatever_the_chunking() {
    let pairs = RefCell::new(Vec::new());
    each_pair(|one, other| pairs.borrow_mut().push((one, other)));
    let lengths = proptest::collection::vec(0_usize..40_000, 1..6);
    let cuts = proptest::collection::vec(prop_oneof![1_usize..30, 1_usize..50_000], 1..20);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) };
    proptest!(config, |(lengths in lengths, cuts in cuts)| {
        for (one, other) in pairs.borrow_mut().iter_mut() {
            let (mut plain, mut wire) = (Vec::new(), Vec::new());
            for length in &lengths {
                plain.extend(noise(*length));
                one.seal(&noise(*length), &mut wire).unwrap();
            }
            prop_assert!(open_by(other, &wire, &cuts) == plain);
        }
    });
}
