//! GOAWAY and the end of the transport (RFC 9113 section 6.8).

use http::HeaderMap;

use super::support::{connect, feed, frame, frames, output, pair, server, serving, settle};
use crate::tunnel::h2::frame::{flag, kind};
use crate::tunnel::h2::{Code, Config, Event, OpenError, StreamId};

const WHOLE: u8 = flag::END_HEADERS;

fn go_away(last: u32, code: Code) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

#[test]
fn a_server_leaves_in_two_steps() {
    let mut server = serving(Config::default());
    server.go_away(Code::NO_ERROR);
    assert!(server.is_going_away());
    let sent = frames(&output(&mut server));
    assert_eq!(sent[0].3[..4], [0x7f, 0xff, 0xff, 0xff]);
    let (ping, _, _, opaque) = &sent[1];
    assert_eq!(*ping, kind::PING);
    // Opened before the client knew.
    let told = feed(&mut server, &frame(kind::HEADERS, WHOLE, 3, &connect())).unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(feed(&mut server, &frame(kind::PING, flag::ACK, 0, opaque)), Ok(vec![]));
    assert_eq!(output(&mut server), go_away(3, Code::NO_ERROR));
    // Later ones are ignored, and all of the old ones go on.
    let late = [frame(kind::HEADERS, WHOLE, 5, &connect()), frame(kind::DATA, 0, 5, &[0; 9])];
    assert_eq!(feed(&mut server, &late.concat()), Ok(vec![]));
    assert!(!server.has_output());
    assert_eq!(server.open_streams(), 2);
    assert_eq!(feed(&mut server, &frame(kind::DATA, 0, 3, &[0; 9])).unwrap().len(), 1);
}

#[test]
fn a_second_call_ends_the_grace_and_an_error_has_none() {
    let mut server = serving(Config::default());
    server.go_away(Code::NO_ERROR);
    output(&mut server);
    server.go_away(Code::NO_ERROR);
    assert_eq!(output(&mut server), go_away(1, Code::NO_ERROR));
    server.go_away(Code::NO_ERROR);
    assert!(!server.has_output());
    let mut server = serving(Config::default());
    server.go_away(Code::INTERNAL_ERROR);
    assert_eq!(output(&mut server), go_away(1, Code::INTERNAL_ERROR));
}

#[test]
fn a_client_opens_nothing_after_either_end_leaves() {
    let (mut client, mut server) = pair(Config::default(), Config::default());
    server.go_away(Code::NO_ERROR);
    settle(&mut client, &mut server);
    assert_eq!(client.open("a:1", &HeaderMap::new()), Err(OpenError::GoingAway));
    assert!(!client.can_open());
    let (mut client, _) = pair(Config::default(), Config::default());
    client.go_away(Code::NO_ERROR);
    assert_eq!(output(&mut client), go_away(0, Code::NO_ERROR));
    assert_eq!(client.open("a:1", &HeaderMap::new()), Err(OpenError::GoingAway));
}

#[test]
fn streams_above_the_last_are_told_as_refused() {
    let (mut client, _) = pair(Config::default(), Config::default());
    for _ in 0..3 {
        client.open("a:1", &HeaderMap::new()).unwrap();
    }
    let told = feed(&mut client, &go_away(1, Code::NO_ERROR)).unwrap();
    let refused = |id| (Event::Reset { id: StreamId(id), code: Code::REFUSED_STREAM }, vec![]);
    let first = (Event::GoAway { last: StreamId(1), code: Code::NO_ERROR }, vec![]);
    assert_eq!(told, [first, refused(3), refused(5)]);
    assert_eq!(client.open_streams(), 1);
}

#[test]
fn go_away_with_text_is_taken_in_any_pieces() {
    let (mut client, _) = pair(Config::default(), Config::default());
    let text = [&[0u8; 8][..], &[b'x'; 300]].concat();
    for byte in frame(kind::GOAWAY, 0, 0, &text) {
        feed(&mut client, &[byte]).unwrap();
    }
    assert_eq!(feed(&mut client, &frame(kind::PING, 0, 0, &[0; 8])), Ok(vec![]));
    assert!(client.is_going_away());
}

#[test]
fn a_transport_that_ends_early_is_told() {
    assert_eq!(server(Config::default()).closed(), Ok(()));
    assert!(serving(Config::default()).closed().is_err(), "a stream is open");
    for partial in [&frame(kind::PING, 0, 0, &[0; 8])[..3], &frame(kind::HEADERS, 0, 1, &[])] {
        let mut server = server(Config::default());
        feed(&mut server, partial).unwrap();
        assert!(server.closed().is_err(), "{partial:?}");
    }
}

#[test]
fn a_ping_of_ours_is_told_when_answered_and_theirs_is_answered() {
    let (mut client, mut server) = pair(Config::default(), Config::default());
    client.ping(*b"12345678");
    let (told, other) = settle(&mut client, &mut server);
    assert_eq!(told, [(Event::Pong { opaque: *b"12345678" }, vec![])]);
    assert_eq!(other, []);
}

#[test]
fn as_many_streams_as_the_peer_allows_are_opened() {
    let limited = Config { max_streams: 1, ..Config::default() };
    let (mut client, mut server) = pair(Config::default(), limited);
    assert_eq!(client.max_open(), 1);
    let id = client.open("a:1", &HeaderMap::new()).unwrap();
    assert_eq!(client.open("a:1", &HeaderMap::new()), Err(OpenError::TooManyStreams));
    client.reset(id, Code::CANCEL);
    settle(&mut client, &mut server);
    client.open("a:1", &HeaderMap::new()).unwrap();
}

#[test]
fn headers_larger_than_the_peer_takes_are_not_sent() {
    let small = Config { max_header_list: 100, ..Config::default() };
    let (mut client, _) = pair(Config::default(), small);
    let long = "a".repeat(100);
    assert_eq!(client.open(&long, &HeaderMap::new()), Err(OpenError::HeadersTooLarge));
    assert!(!client.has_output());
}
