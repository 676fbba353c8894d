//! Connections from bytes of another process.

use http::HeaderMap;
use proptest::prelude::*;
use prost::Message as _;
use sotto_proto::handover::Http2;

use super::support::{feed, output, pair, settle};
use crate::tunnel::h2::{Config, Connection, Event};

/// Both ends of a connection with two streams, some of whose bytes are not taken.
fn connection() -> (Connection, Connection) {
    let (mut client, mut server) = pair(Config::default(), Config::default());
    for _ in 0..2 {
        let id = client.open("10.0.0.1:80", &HeaderMap::new()).unwrap();
        settle(&mut client, &mut server);
        server.respond(id, http::StatusCode::OK, &HeaderMap::new(), false).unwrap();
        settle(&mut client, &mut server);
        let mut sent = client.data(id, 1000, false).unwrap().to_vec();
        sent.resize(sent.len() + 1000, 7);
        feed(&mut server, &sent).unwrap();
        server.consumed(id, 400, false);
    }
    (client, server)
}

/// Whatever it is, it is one or it is refused; and if it is one, a peer does it no harm.
fn check(frozen: Http2, said: &[u8]) {
    let Ok(mut connection) = Connection::thaw(frozen) else { return };
    let streams: Vec<_> = connection.streams().collect();
    for id in streams {
        connection.consumed(id, connection.untaken(id.value()) as usize, true);
        let most = connection.capacity(id).min(connection.max_send_frame());
        if most > 0 {
            connection.data(id, most, false).unwrap();
        }
    }
    let mut rest = said;
    while let Ok((taken, event)) = connection.receive(rest) {
        rest = &rest[taken..];
        if let Some(Event::Data { id, bytes }) = event {
            connection.consumed(id, bytes.len(), true);
        } else if event.is_none() {
            break;
        }
    }
    output(&mut connection);
}

#[test]
fn a_connection_is_the_same_after_it_was_bytes() {
    for connection in <[Connection; 2]>::from(connection()) {
        let frozen = connection.freeze().unwrap();
        let thawed = Connection::thaw(Http2::decode(&*frozen.encode_to_vec()).unwrap()).unwrap();
        assert_eq!(thawed.freeze().unwrap(), frozen);
    }
}

#[test]
fn one_within_a_header_block_stays_where_it_is() {
    let (mut client, mut server) = pair(Config::default(), Config::default());
    client.open("10.0.0.1:80", &HeaderMap::new()).unwrap();
    let sent = output(&mut client);
    feed(&mut server, &sent[..sent.len() - 1]).unwrap();
    assert!(server.freeze().is_none());
    feed(&mut server, &sent[sent.len() - 1..]).unwrap();
    assert!(server.freeze().is_none(), "the request is not answered");
}

proptest! {
    #[test]
    fn what_is_cut_or_changed_is_refused_or_does_no_harm(
        is_server: bool,
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<usize>()),
        said in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let (client, server) = connection();
        let mut bytes = if is_server { server } else { client }.freeze().unwrap().encode_to_vec();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % bytes.len());
        }
        if let Ok(frozen) = Http2::decode(&*bytes) {
            check(frozen, &said);
        }
    }

    #[test]
    fn windows_of_any_size_do_no_harm(
        send: (u32, i32), recv: (u32, i32), stream: (u32, u32, u32), at: (u32, u32, u32),
        said in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut frozen = connection().1.freeze().unwrap();
        (frozen.send_window, frozen.recv_window) = (send.0, recv.0);
        let one = &mut frozen.streams[0];
        (one.send_window, one.recv_window) = (send.1, recv.1);
        (one.target, one.credit, one.untaken) = stream;
        check(frozen.clone(), &said);
        let (id, left, padding) = at;
        let within = sotto_proto::handover::WithinData { id, left, padding, end: true };
        frozen.at = Some(sotto_proto::handover::http2::At::Data(within));
        check(frozen, &said);
    }
}
