//! A tunnel from its CONNECT to its end, with both ends ours.

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::support::{feed, output, pair, settle};
use crate::tunnel::h2::{Config, Event, Request};

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
