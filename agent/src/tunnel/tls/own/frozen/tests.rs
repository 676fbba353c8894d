//! Sessions that go on in another process, which here is this one, from their bytes alone.

use proptest::prelude::*;
use rustls::AlertDescription;

use super::super::super::tests::{check_carries, noise, sessions};
use super::super::super::{RecordLayer, Session};
use super::super::KEY_UPDATE;
use super::super::tests::{check_arrives, forge, own, pair, rustls};
use super::*;
use crate::tunnel::testing::Pki;

const HANDSHAKE: u8 = 22;
const BOTH: [[RecordLayer; 2]; 2] =
    [[RecordLayer::Own, RecordLayer::Rustls], [RecordLayer::Rustls, RecordLayer::Own]];

fn bytes_of(session: Session) -> Vec<u8> {
    session.freeze().unwrap_or_else(|_| panic!("it is not frozen")).as_bytes().to_vec()
}

fn thaw(bytes: &[u8]) -> Result<Session, FrozenError> {
    Session::thaw(&Frozen::from_bytes(bytes.to_vec().into()))
}

/// The same session, of another process.
fn hand_over(session: Session) -> Session {
    thaw(&bytes_of(session)).unwrap()
}

/// Ours and rustls', each of the two once as the client.
fn each(mut test: impl FnMut(Session, Session)) {
    let pki = Pki::new();
    for layers in BOTH {
        let [client, server] = sessions(&pki, layers);
        if layers[0] == RecordLayer::Own { test(client, server) } else { test(server, client) }
    }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Up(usize),
    Down(usize),
    /// rustls updates its keys and asks for ours to be.
    Refresh,
    /// We update ours before the next data.
    Wear,
    HandOver,
}

#[test]
fn whatever_has_been_said_rustls_does_not_notice_that_we_are_another() {
    let act = prop_oneof![
        (0_usize..40_000).prop_map(Act::Up),
        (0_usize..40_000).prop_map(Act::Down),
        Just(Act::Refresh),
        Just(Act::Wear),
        Just(Act::HandOver),
        Just(Act::HandOver),
    ];
    let acts = proptest::collection::vec(act, 1..30);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) };
    proptest!(config, |(acts in acts)| {
        each(|mut ours, mut theirs| {
            for act in &acts {
                match *act {
                    Act::Up(length) => check_arrives(&mut ours, &mut theirs, &noise(length)),
                    Act::Down(length) => check_arrives(&mut theirs, &mut ours, &noise(length)),
                    Act::Refresh => rustls(&mut theirs).refresh_traffic_keys().unwrap(),
                    Act::Wear => own(&mut ours).rekey_after = 0,
                    // Not what is only as a test set it.
                    Act::HandOver => {
                        let layer = std::mem::replace(&mut ours, failed());
                        ours = hand_over(layer);
                    }
                }
            }
            check_arrives(&mut ours, &mut theirs, b"up");
            check_arrives(&mut theirs, &mut ours, b"down");
        });
    });
}

/// Any other session.
fn failed() -> Session {
    let [session, _] = pair(&Pki::new());
    session
}

#[test]
fn a_message_that_came_in_part_is_taken_when_the_rest_does() {
    let [client, mut server] = pair(&Pki::new());
    let mut client = client;
    let (start, rest) = KEY_UPDATE.split_at(3);
    client.open(&mut forge(&mut server, HANDSHAKE, start)).unwrap();
    let mut client = hand_over(client);
    client.open(&mut forge(&mut server, HANDSHAKE, rest)).unwrap();
    own(&mut server).sealer.update().unwrap();
    check_carries(&mut server, &mut client, b"under the next key");
}

#[test]
fn who_was_asked_for_new_keys_answers_in_the_other_process() {
    each(|mut ours, mut theirs| {
        rustls(&mut theirs).refresh_traffic_keys().unwrap();
        check_arrives(&mut theirs, &mut ours, b"data");
        let mut ours = hand_over(ours);
        assert!(own(&mut ours).asked);
        check_carries(&mut ours, &mut theirs, b"the answer, and data");
        assert_eq!(own(&mut ours).sealer.sealed(), 1);
    });
}

#[test]
fn records_that_were_sealed_count_towards_the_next_key() {
    each(|mut ours, mut theirs| {
        for _ in 0..5 {
            check_carries(&mut ours, &mut theirs, b"data");
        }
        let before = own(&mut ours).sealer.sealed();
        let mut ours = hand_over(ours);
        assert_eq!(own(&mut ours).sealer.sealed(), before);
        own(&mut ours).rekey_after = before;
        check_arrives(&mut ours, &mut theirs, b"under the next key");
        assert_eq!(own(&mut ours).sealer.sealed(), 1);
    });
}

#[test]
fn tickets_that_come_later_are_taken_from_a_server_and_not_from_a_client() {
    let ticket = [4, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let [client, mut server] = pair(&Pki::new());
    let mut client = hand_over(client);
    client.open(&mut forge(&mut server, HANDSHAKE, &ticket)).unwrap();
    check_carries(&mut server, &mut client, b"data");
    let mut server = hand_over(server);
    let error = server.open(&mut forge(&mut client, HANDSHAKE, &ticket)).unwrap_err();
    assert!(matches!(error, Error::InappropriateHandshakeMessage { .. }), "{error}");
}

#[test]
fn last_words_are_not_forgotten() {
    let [mut client, mut server] = pair(&Pki::new());
    let mut said = Vec::new();
    client.close(&mut said).unwrap();
    let mut client = hand_over(client);
    client.seal(b"more", &mut Vec::new()).unwrap_err();
    assert!(server.open(&mut said).unwrap().closed);
    let mut server = hand_over(server);
    assert!(server.open(&mut [0; 30]).unwrap().closed, "what follows is nothing");
    check_carries(&mut server, &mut client, b"the other direction goes on");
}

#[test]
fn what_has_failed_or_is_rustls_stays() {
    let [mut client, mut server] = pair(&Pki::new());
    let mut record = forge(&mut server, 23, b"data");
    record[7] ^= 1;
    client.open(&mut record).unwrap_err();
    let mut client = client.freeze().expect_err("it has failed");
    // The alert is still to be told.
    let mut said = Vec::new();
    client.flush(&mut said).unwrap();
    let told = server.open(&mut said).unwrap_err();
    assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
    each(|mut ours, theirs| {
        let mut theirs = theirs.freeze().expect_err("it is rustls'");
        check_carries(&mut theirs, &mut ours, b"data");
    });
}

#[test]
fn a_state_that_is_none_is_refused_and_told() {
    let [client, _] = pair(&Pki::new());
    let good = bytes_of(client);
    let check = |at: usize, value: u8, expected: FrozenError| {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(thaw(&bytes).err(), Some(expected));
    };
    check(0, 2, FrozenError::Version(2));
    check(1, 3, FrozenError::Unsound("a suite"));
    check(2, 0x80, FrozenError::Unsound("flags"));
    check(3, PATIENCE + 1, FrozenError::Unsound("a count of records"));
    for length in 0..good.len() {
        assert_eq!(thaw(&good[..length]).err(), Some(FrozenError::Short), "{length}");
    }
    for rest in [&KEY_UPDATE[..], &[1], &[24, 0, 0, 2]] {
        let bytes = [&good[..], rest].concat();
        assert_eq!(thaw(&bytes).err(), Some(FrozenError::Unsound("a part of a message")));
    }
}

#[test]
fn any_bytes_are_a_session_or_an_error() {
    let [client, _] = pair(&Pki::new());
    let good = bytes_of(client);
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) };
    proptest!(config, |(bytes in bytes, damaged in 0_usize..130, with: u8)| {
        let mut other = good.clone();
        if let Some(byte) = other.get_mut(damaged) {
            *byte = with;
        }
        for bytes in [bytes, other] {
            if let Ok(mut session) = thaw(&bytes) {
                // What it is made of comes out again.
                prop_assert!(session.open(&mut [0; 4]).is_ok());
                prop_assert_eq!(bytes_of(session), bytes);
            }
        }
    });
}

#[test]
fn secrets_are_not_printed() {
    let [client, _] = pair(&Pki::new());
    assert_eq!(format!("{:?}", client.freeze().ok()), "Some(Frozen)");
}
