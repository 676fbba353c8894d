//! Ends of a connection in memory.

use crate::tunnel::h2::{Config, Connection, Event, Violation};

/// An event that outlives its input.
pub(super) type Told = Event<'static>;

/// All events of an input that comes in pieces of `size`; DATA of one stream in a row is one.
pub(super) fn feed_by(
    connection: &mut Connection,
    input: &[u8],
    size: usize,
) -> Result<Vec<(Told, Vec<u8>)>, Violation> {
    let mut told: Vec<(Told, Vec<u8>)> = Vec::new();
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

pub(super) fn feed(
    connection: &mut Connection,
    input: &[u8],
) -> Result<Vec<(Told, Vec<u8>)>, Violation> {
    feed_by(connection, input, usize::MAX)
}

pub(super) fn output(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection.take_output(&mut bytes);
    assert!(!connection.has_output());
    bytes
}

/// Carries output both ways until there is none; returns what each end was told.
pub(super) fn settle(
    client: &mut Connection,
    server: &mut Connection,
) -> (Vec<(Told, Vec<u8>)>, Vec<(Told, Vec<u8>)>) {
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
