//! Ends of a connection in memory.

use crate::tunnel::h2::frame::{Head, PREFACE, flag, kind};
use crate::tunnel::h2::{Code, Config, Connection, Event, StreamId, Violation};

/// An event that outlives its input.
pub(super) type Told = Event<'static>;

/// Events, each with the bytes of its DATA.
pub(super) type Tale = Vec<(Told, Vec<u8>)>;

/// All events of an input that comes in pieces of `size`; DATA of one stream in a row is one.
pub(super) fn feed_by(
    connection: &mut Connection,
    input: &[u8],
    size: usize,
) -> Result<Tale, Violation> {
    let mut told = Tale::new();
    for piece in input.chunks(size.max(1)) {
        let mut rest = piece;
        loop {
            let (taken, event) = connection.receive(rest)?;
            rest = &rest[taken..];
            match event {
                None => break,
                Some(Event::Data { id, bytes }) => match told.last_mut() {
                    Some((Event::Data { id: last, .. }, before)) if *last == id => {
                        before.extend_from_slice(bytes);
                    }
                    _ => told.push((Event::Data { id, bytes: &[] }, bytes.to_vec())),
                },
                Some(event) => told.push((own(event), Vec::new())),
            }
        }
        assert!(rest.is_empty(), "all is taken when nothing is told");
    }
    Ok(told)
}

fn own(event: Event<'_>) -> Told {
    match event {
        Event::Data { id, .. } => Event::Data { id, bytes: &[] },
        Event::Request { id, request } => Event::Request { id, request },
        Event::Response { id, status, headers, end } => {
            Event::Response { id, status, headers, end }
        }
        Event::End { id } => Event::End { id },
        Event::Reset { id, code } => Event::Reset { id, code },
        Event::Writable { id } => Event::Writable { id },
        Event::GoAway { last, code } => Event::GoAway { last, code },
        Event::Pong { opaque } => Event::Pong { opaque },
        Event::Settings => Event::Settings,
    }
}

pub(super) fn feed(connection: &mut Connection, input: &[u8]) -> Result<Tale, Violation> {
    feed_by(connection, input, usize::MAX)
}

pub(super) fn output(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection.take_output(&mut bytes);
    assert!(!connection.has_output());
    bytes
}

/// Carries output both ways until there is none; returns what each end was told.
pub(super) fn settle(client: &mut Connection, server: &mut Connection) -> (Tale, Tale) {
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    while client.has_output() || server.has_output() {
        at_server.extend(feed(server, &output(client)).unwrap());
        at_client.extend(feed(client, &output(server)).unwrap());
    }
    (at_client, at_server)
}

/// Both ends, introduced to each other.
pub(super) fn pair(client: Config, server: Config) -> (Connection, Connection) {
    let (mut client, mut server) = (Connection::client(client), Connection::server(server));
    let told = settle(&mut client, &mut server);
    assert_eq!(told, (vec![(Event::Settings, vec![])], vec![(Event::Settings, vec![])]));
    (client, server)
}

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&Head { length, kind, flags, stream }.bytes()[..], payload].concat()
}

/// The frames of an output.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    bytes = bytes.strip_prefix(&PREFACE[..]).unwrap_or(bytes);
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let head = Head::parse(*head);
        let (payload, rest) = rest.split_at(head.length as usize);
        frames.push((head.kind, head.flags, head.stream, payload.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

/// A field as a literal without indexing.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    let (n, v) = ([0, length(name)], [length(value)]);
    [&n[..], name.as_bytes(), &v, value.as_bytes()].concat()
}

/// A header block of literals.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// The smallest CONNECT.
pub(super) fn connect() -> Vec<u8> {
    block(&[(":method", "CONNECT"), (":authority", "a:1")])
}

/// A server whose client sent preface and SETTINGS.
pub(super) fn server(config: Config) -> Connection {
    let mut server = Connection::server(config);
    feed(&mut server, PREFACE).unwrap();
    feed(&mut server, &frame(kind::SETTINGS, 0, 0, &[])).unwrap();
    feed(&mut server, &frame(kind::SETTINGS, flag::ACK, 0, &[])).unwrap();
    output(&mut server);
    server
}

/// The same with a tunnel, stream 1, answered.
pub(super) fn serving(config: Config) -> Connection {
    let mut server = server(config);
    feed(&mut server, &frame(kind::HEADERS, flag::END_HEADERS, 1, &connect())).unwrap();
    server.respond(StreamId(1), http::StatusCode::OK, &http::HeaderMap::new(), false).unwrap();
    output(&mut server);
    server
}

/// A client with a tunnel, stream 1, not answered.
pub(super) fn client(config: Config) -> Connection {
    let mut client = Connection::client(config);
    feed(&mut client, &frame(kind::SETTINGS, 0, 0, &[])).unwrap();
    feed(&mut client, &frame(kind::SETTINGS, flag::ACK, 0, &[])).unwrap();
    client.open("a:1", &http::HeaderMap::new()).unwrap();
    output(&mut client);
    client
}

/// The code that an input ends the connection with, which is also that of the GOAWAY sent.
pub(super) fn broken(mut connection: Connection, input: &[u8]) -> Code {
    let violation = feed(&mut connection, input).expect_err("the connection goes on");
    assert_eq!(connection.receive(&[]), Err(violation), "it stays broken");
    let sent = frames(&output(&mut connection));
    let (kind, _, _, payload) = sent.last().unwrap();
    assert_eq!(*kind, kind::GOAWAY);
    assert_eq!(payload[4..], violation.code.0.to_be_bytes());
    violation.code
}

/// The codes of RST_STREAM that an input causes, by stream. The connection goes on.
pub(super) fn resets(connection: &mut Connection, input: &[u8]) -> Vec<(u32, Code)> {
    feed(connection, input).expect("the connection goes on");
    let resets = frames(&output(connection)).into_iter();
    resets
        .filter(|(kind, ..)| *kind == kind::RST_STREAM)
        .map(|(_, _, id, payload)| (id, Code(u32::from_be_bytes(payload.try_into().unwrap()))))
        .collect()
}
