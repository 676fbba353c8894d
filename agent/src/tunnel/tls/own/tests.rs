//! What a peer with the keys may do to us, and what it may not.

use std::cell::RefCell;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::{Connection, HandshakeKind};

use super::super::tests::{check_carries, name, noise, seal, sessions, shake_by};
use super::super::{Established, Handshake, RecordLayer, Records, Session};
use super::*;
use crate::tunnel::testing::Pki;

const OWN: RecordLayer = RecordLayer::Own;
const RUSTLS: RecordLayer = RecordLayer::Rustls;

pub(super) fn own(session: &mut Session) -> &mut Own {
    match &mut session.0 {
        Records::Own(own) => own,
        Records::Buffered(_) => panic!("the records are rustls'"),
    }
}

pub(super) fn rustls(session: &mut Session) -> &mut Connection {
    match &mut session.0 {
        Records::Buffered(buffered) => &mut buffered.connection,
        Records::Own(_) => panic!("the records are ours"),
    }
}

pub(super) fn pair(pki: &Pki) -> [Session; 2] {
    sessions(pki, [OWN; 2])
}

/// A record as only the peer can make it.
pub(super) fn forge(peer: &mut Session, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    own(peer).sealer.seal(ContentType::from(kind), content, &mut wire).unwrap();
    wire
}

/// The alert by which a session ends.
fn check_dies(session: &mut Session, peer: &mut Session, wire: &mut [u8]) -> AlertDescription {
    let error = session.open(wire).unwrap_err();
    // For good, and said once.
    assert_eq!(session.open(&mut [0; 5]).unwrap_err(), error);
    session.seal(b"more", &mut Vec::new()).unwrap_err();
    let (mut said, mut again) = (Vec::new(), Vec::new());
    session.flush(&mut said).unwrap();
    session.flush(&mut again).unwrap();
    session.close(&mut again).unwrap();
    assert!(again.is_empty());
    match peer.open(&mut said) {
        Err(Error::AlertReceived(alert)) => alert,
        other => panic!("{other:?} after {error}"),
    }
}

const DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;

#[test]
fn each_record_that_has_no_place_gets_its_alert() {
    let pki = Pki::new();
    let check = |records: &[(u8, &[u8])], expected| {
        // To the client.
        let [mut client, mut server] = pair(&pki);
        let mut wire: Vec<u8> =
            records.iter().flat_map(|(kind, content)| forge(&mut server, *kind, content)).collect();
        assert_eq!(check_dies(&mut client, &mut server, &mut wire), expected, "{records:?}");
    };
    use AlertDescription as A;
    check(&[(ALERT, &[])], A::UnexpectedMessage);
    check(&[(ALERT, &[2])], A::DecodeError);
    check(&[(ALERT, &[1, 0, 0])], A::DecodeError);
    check(&[(HANDSHAKE, &[])], A::UnexpectedMessage);
    check(&[(20, &[1])], A::UnexpectedMessage);
    check(&[(24, &[1])], A::UnexpectedMessage);
    check(&[(99, &[])], A::UnexpectedMessage);
    // All zeros: padding without a type.
    check(&[(0, &[0; 100])], A::UnexpectedMessage);
    check(&[(0, &[])], A::UnexpectedMessage);
    // A ClientHello, a ServerHello, a CertificateRequest.
    for kind in [1, 2, 13] {
        check(&[(HANDSHAKE, &[kind])], A::UnexpectedMessage);
    }
    check(&[(HANDSHAKE, &[24, 0, 0, 1, 2])], A::IllegalParameter);
    check(&[(HANDSHAKE, &[24, 0, 0, 0])], A::DecodeError);
    check(&[(HANDSHAKE, &[24, 0, 0, 2])], A::DecodeError);
    check(&[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])], A::UnexpectedMessage);
    check(&[(HANDSHAKE, &[24, 0, 0]), (DATA, b"data")], A::UnexpectedMessage);
    check(&[(HANDSHAKE, &[24, 0, 0]), (DATA, b"")], A::UnexpectedMessage);
    check(&[(HANDSHAKE, &[24, 0, 0]), (ALERT, &[1, 0])], A::UnexpectedMessage);
    check(&[(HANDSHAKE, &[4, 1, 0, 0])], A::DecodeError);
    check(&[(HANDSHAKE, &[4, 0, 0, 3, 1, 2, 3])], A::DecodeError);
}

#[test]
fn a_server_takes_no_ticket() {
    let [mut client, mut server] = pair(&Pki::new());
    let mut wire = forge(&mut client, HANDSHAKE, &[4]);
    let alert = check_dies(&mut server, &mut client, &mut wire);
    assert_eq!(alert, AlertDescription::UnexpectedMessage);
}

#[test]
fn records_in_the_clear_are_none() {
    let pki = Pki::new();
    // ChangeCipherSpec, close_notify, a KeyUpdate.
    for record in [&[20, 3, 3, 0, 1, 1][..], &[21, 3, 3, 0, 2, 1, 0], &[22, 3, 3, 0, 1, 24]] {
        let [mut client, mut server] = pair(&pki);
        let alert = check_dies(&mut client, &mut server, &mut record.to_vec());
        assert_eq!(alert, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn a_record_that_is_too_long_is_not_waited_for() {
    let pki = Pki::new();
    let check = |length: u16| {
        let [mut client, _] = pair(&pki);
        let [high, low] = length.to_be_bytes();
        client.open(&mut [23, 3, 3, high, low])
    };
    assert_eq!(check(16_384 + 17), Ok(Opened::default()));
    assert_eq!(check(16_384 + 18), Err(Error::PeerSentOversizedRecord));
    assert_eq!(check(u16::MAX), Err(Error::PeerSentOversizedRecord));
    assert_eq!(check(16), Ok(Opened::default()));
    assert_eq!(check(15), Err(Error::DecryptError));
    assert_eq!(check(0), Err(Error::DecryptError));
}

#[test]
fn padding_is_taken_off() {
    let [mut client, mut server] = pair(&Pki::new());
    for (content, padding) in [(b"".to_vec(), 5), (b"x".to_vec(), 1), (noise(16_000), 384)] {
        // The record's own type is the last byte of the padding.
        let inner = [&content[..], &[DATA], &vec![0; padding - 1]].concat();
        let mut wire = forge(&mut server, 0, &inner);
        let opened = client.open(&mut wire).unwrap();
        assert_eq!((opened.consumed, opened.plain), (wire.len(), content.len()));
        assert!(wire[..content.len()] == content);
    }
    // Content that ends in zeros keeps them.
    check_carries(&mut server, &mut client, &[1, 0, 0]);
    check_carries(&mut server, &mut client, &[0; 50]);
}

#[test]
fn records_without_data_are_taken_only_so_often() {
    let pki = Pki::new();
    for (kind, content) in [(DATA, &b""[..]), (ALERT, &[1, 90]), (HANDSHAKE, &KEY_UPDATE)] {
        let [mut client, mut server] = pair(&pki);
        // The tickets were such records too.
        check_carries(&mut server, &mut client, b"data");
        let send = |times: u8, client: &mut Session, server: &mut Session| {
            for _ in 0..times {
                client.open(&mut forge(server, kind, content)).unwrap();
                if kind == HANDSHAKE {
                    own(server).sealer.update().unwrap();
                }
            }
        };
        send(PATIENCE, &mut client, &mut server);
        check_carries(&mut server, &mut client, b"data");
        send(PATIENCE, &mut client, &mut server);
        let mut wire = forge(&mut server, kind, content);
        let alert = check_dies(&mut client, &mut server, &mut wire);
        assert_eq!(alert, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn alerts_are_errors_but_for_two() {
    let pki = Pki::new();
    for alert in [0, 10, 20, 40, 42, 80, 90, 120, 200] {
        for level in [1, 2, 77] {
            let [mut client, mut server] = pair(&pki);
            let opened = client.open(&mut forge(&mut server, ALERT, &[level, alert]));
            match alert {
                0 => assert!(opened.unwrap().closed),
                90 => assert!(!opened.unwrap().closed),
                _ => {
                    let error = Error::AlertReceived(AlertDescription::from(alert));
                    assert_eq!(opened, Err(error));
                    // The peer is gone: no answer.
                    let mut said = Vec::new();
                    client.flush(&mut said).unwrap();
                    client.close(&mut said).unwrap();
                    assert!(said.is_empty());
                    client.seal(b"more", &mut said).unwrap_err();
                }
            }
        }
    }
}

#[test]
fn after_our_last_word_we_say_nothing() {
    let [mut client, mut server] = pair(&Pki::new());
    let mut wire = Vec::new();
    client.close(&mut wire).unwrap();
    let said = wire.len();
    client.close(&mut wire).unwrap();
    client.seal(b"more", &mut wire).unwrap_err();
    client.open(&mut forge(&mut server, 99, b"")).unwrap_err();
    client.flush(&mut wire).unwrap();
    assert_eq!(wire.len(), said);
    assert!(server.open(&mut wire).unwrap().closed);
}

#[test]
fn a_message_may_come_in_parts() {
    let [mut client, mut server] = pair(&Pki::new());
    for part in KEY_UPDATE.chunks(2) {
        let mut wire = forge(&mut server, HANDSHAKE, part);
        assert_eq!(client.open(&mut wire).unwrap().plain, 0);
    }
    own(&mut server).sealer.update().unwrap();
    check_carries(&mut server, &mut client, b"under the next key");
}

#[test]
fn rustls_may_ask_for_new_keys_as_often_as_it_likes() {
    let pki = Pki::new();
    for layers in [[OWN, RUSTLS], [RUSTLS, OWN]] {
        let [client, server] = sessions(&pki, layers);
        let (mut ours, mut theirs) =
            if layers[0] == OWN { (client, server) } else { (server, client) };
        for _ in 0..100 {
            check_carries(&mut ours, &mut theirs, b"before");
            rustls(&mut theirs).refresh_traffic_keys().unwrap();
            check_arrives(&mut theirs, &mut ours, b"under the next key");
            assert!(own(&mut ours).asked);
            check_carries(&mut ours, &mut theirs, b"the answer, and data");
            assert!(!own(&mut ours).asked);
            assert_eq!(own(&mut ours).sealer.sealed(), 1);
        }
    }
}

/// Perhaps with a key update before it.
pub(super) fn check_arrives(from: &mut Session, to: &mut Session, plain: &[u8]) {
    let mut wire = seal(from, plain);
    let opened = to.open(&mut wire).unwrap();
    assert_eq!((opened.consumed, &wire[..opened.plain]), (wire.len(), plain));
}

#[test]
fn keys_are_updated_before_they_wear_out() {
    let pki = Pki::new();
    for layers in [[OWN, RUSTLS], [RUSTLS, OWN], [OWN, OWN]] {
        let [client, server] = sessions(&pki, layers);
        let (mut ours, mut theirs) =
            if layers[0] == OWN { (client, server) } else { (server, client) };
        own(&mut ours).rekey_after = 3;
        let plain = noise(20 * MAX_CONTENT);
        for _ in 0..3 {
            check_arrives(&mut ours, &mut theirs, &plain);
            check_carries(&mut theirs, &mut ours, b"down");
            assert!(own(&mut ours).sealer.sealed() <= 3);
        }
    }
}

#[test]
fn a_peer_that_asks_and_does_not_read_makes_nothing_pile_up() {
    let [mut client, mut server] = pair(&Pki::new());
    check_carries(&mut server, &mut client, b"data");
    let mut said = Vec::new();
    for _ in 0..PATIENCE {
        let mut wire = forge(&mut server, HANDSHAKE, &[24, 0, 0, 1, 1]);
        own(&mut server).sealer.update().unwrap();
        client.open(&mut wire).unwrap();
        client.flush(&mut said).unwrap();
    }
    assert!(said.is_empty());
    // One answer for all.
    check_arrives(&mut client, &mut server, b"data");
    assert_eq!(own(&mut client).sealer.sealed(), 1);
    check_carries(&mut client, &mut server, b"data");
}

#[test]
fn no_number_is_used_twice() {
    let [mut client, mut server] = pair(&Pki::new());
    let (near, far) = (own(&mut client), own(&mut server));
    near.sealer = Sealer::new(near.sealer.secret().clone(), u64::MAX - 1).unwrap();
    near.rekey_after = u64::MAX;
    far.opener = Opener::new(far.opener.secret().clone(), u64::MAX - 1).unwrap();
    check_carries(&mut client, &mut server, b"the last");
    let mut wire = Vec::new();
    client.seal(b"one more", &mut wire).unwrap_err();
    client.close(&mut wire).unwrap();
    assert!(wire.is_empty());
    let mut record = forge(&mut server, DATA, b"");
    record[5..].fill(1);
    server.open(&mut record).unwrap_err();
}

#[test]
fn tickets_go_to_rustls_and_are_of_use() {
    let pki = Pki::new();
    let resumed = (0..2).map(|_| {
        let client = Handshake::client(Arc::clone(&pki.client), name(), OWN).unwrap();
        let server = Handshake::server(Arc::clone(&pki.server), RUSTLS).unwrap();
        let [mut client, mut server] = shake_by(client, server, usize::MAX);
        assert!(client.rest.len() > 100, "no tickets");
        let Established { session, rest, .. } = &mut client;
        session.open(rest).unwrap();
        rustls(&mut server.session).handshake_kind()
    });
    let full = Some(HandshakeKind::Full);
    assert_eq!(resumed.collect::<Vec<_>>(), [full, Some(HandshakeKind::Resumed)]);
}

#[test]
fn contents_of_any_kind_never_panic() {
    let pki = Pki::new();
    let ends = RefCell::new(pair(&pki));
    let kind = prop_oneof![Just(HANDSHAKE), Just(ALERT), Just(DATA), Just(0), any::<u8>()];
    let start = prop_oneof![
        Just(vec![]),
        Just(vec![24, 0, 0, 1]),
        Just(vec![4, 0, 0]),
        Just(vec![4, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
    ];
    let content = (start, proptest::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(start, rest)| [start, rest].concat());
    let records = proptest::collection::vec((kind, content), 1..6);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) };
    proptest!(config, |(records in records, to_server: bool)| {
        let mut ends = ends.borrow_mut();
        if to_server {
            ends.reverse();
        }
        let [session, peer] = &mut *ends;
        let mut wire: Vec<u8> =
            records.iter().flat_map(|(kind, content)| forge(peer, *kind, content)).collect();
        let length = wire.len();
        if let Ok(opened) = session.open(&mut wire) {
            prop_assert_eq!(opened.consumed, length);
        }
        session.flush(&mut Vec::new()).unwrap();
        *ends = pair(&pki);
    });
}

#[test]
fn arbitrary_bytes_are_an_error_at_most() {
    let pki = Pki::new();
    let byte = |likely: u8| prop_oneof![4 => Just(likely), 1 => any::<u8>()];
    let header =
        (byte(23), byte(3), byte(3), 0_u16..60).prop_map(|(kind, major, minor, length)| {
            let [high, low] = length.to_be_bytes();
            vec![kind, major, minor, high, low]
        });
    let bytes = (header, proptest::collection::vec(any::<u8>(), 0..80));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) };
    proptest!(config, |((header, rest) in bytes, cut in 0_usize..60)| {
        for mut session in pair(&pki) {
            let mut wire = [header.clone(), rest.clone()].concat();
            let cut = cut.min(wire.len());
            for part in [&mut wire[..cut].to_vec(), &mut wire] {
                if let Ok(opened) = session.open(part) {
                    prop_assert_eq!(opened, Opened::default());
                }
            }
        }
    });
}
