//! A tunnel from its CONNECT to its end, with both ends ours.

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::support::{block, client, feed, frame, output, pair, settle};
use crate::tunnel::h2::frame::{flag, kind};
use crate::tunnel::h2::{Code, Config, Connection, Event, Request, StreamId};

#[test]
fn a_tunnel_carries_bytes_both_ways_and_ends_by_halves() {
    let (mut client, mut server) = pair(Config::default(), Config::default());
    let mut headers = HeaderMap::new();
    headers.insert("baggage", HeaderValue::from_static("a=b"));
    let id = client.open("10.0.0.1:80", &headers).unwrap();
    let request = Request {
        method: Method::CONNECT,
        authority: "10.0.0.1:80".to_owned(),
        headers: headers.clone(),
        end: false,
    };
    let (_, told) = settle(&mut client, &mut server);
    assert_eq!(told, [(Event::Request { id, request }, vec![])]);

    server.respond(id, StatusCode::OK, &headers, false).unwrap();
    let (told, _) = settle(&mut client, &mut server);
    let response = Event::Response { id, status: StatusCode::OK, headers, end: false };
    assert_eq!(told, [(response, vec![])]);

    let mut wire = client.data(id, 5, true).unwrap().to_vec();
    wire.extend_from_slice(b"hello");
    let told = feed(&mut server, &wire).unwrap();
    assert_eq!(
        told,
        [(Event::Data { id, bytes: &[] }, b"hello".to_vec()), (Event::End { id }, vec![])]
    );
    assert_eq!(
        server.data(id, 0, true).map(|head| feed(&mut client, &head).unwrap()).unwrap(),
        [(Event::End { id }, vec![])]
    );
    assert_eq!(client.open_streams(), 0);
    assert_eq!(server.open_streams(), 1, "its bytes were not taken");
    server.consumed(id, 5, true);
    assert_eq!(server.open_streams(), 0);
    assert!(output(&mut server).is_empty(), "no credit for a stream that ended");
    assert_eq!((client.closed(), server.closed()), (Ok(()), Ok(())));
}

/// A client whose tunnel both ends ended, and 5 bytes of it that were not taken.
fn ended_and_untaken() -> (Connection, StreamId) {
    let mut client = client(Config::default());
    let id = StreamId(1);
    let ok = frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&[(":status", "200")]));
    let last = frame(kind::DATA, flag::END_STREAM, 1, b"hello");
    feed(&mut client, &[ok, last].concat()).unwrap();
    client.data(id, 0, true).unwrap();
    assert_eq!(client.open_streams(), 1);
    (client, id)
}

#[test]
fn what_closed_in_order_is_neither_reset_nor_refused_after_it() {
    let reset = frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 2]);
    let (mut client, id) = ended_and_untaken();
    assert_eq!(feed(&mut client, &reset), Ok(vec![]));
    client.consumed(id, 5, true);
    assert_eq!(client.open_streams(), 0);

    let (mut client, id) = ended_and_untaken();
    let away = Event::GoAway { last: StreamId(0), code: Code::NO_ERROR };
    let told = feed(&mut client, &frame(kind::GOAWAY, 0, 0, &[0; 8])).unwrap();
    assert_eq!(told, [(away, vec![])]);
    client.consumed(id, 5, true);
    assert_eq!(client.open_streams(), 0);
}

#[test]
fn nothing_is_sent_on_a_stream_that_closed_in_order() {
    let (mut client, id) = ended_and_untaken();
    client.reset(id, Code::CONNECT_ERROR);
    assert_eq!((client.open_streams(), output(&mut client)), (0, vec![]));
}
