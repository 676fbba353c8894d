//! A connection of ours that is fed anything, with an owner that does anything.
//!
//! Also part of the agent's tests, which replay the corpus.

use std::collections::BTreeMap;

use crate::tunnel::h2::{Code, Config, Connection, Event, SendError, StreamId};

/// Limits so small that they are often met.
pub const CONFIG: Config = Config {
    initial_window: 1000,
    max_window: 4000,
    window_budget: 6000,
    connection_window: 1 << 20,
    max_frame: 1 << 14,
    max_streams: 8,
    max_header_list: 2000,
};

/// What one input may make us queue while the owner takes nothing.
const MOST_OUTPUT: usize = 200_000;

/// Header blocks, each with its length before it.
pub fn blocks(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first()?;
        let (block, after) = rest.split_at(rest.len().min(usize::from(*length)));
        data = after;
        Some(block)
    })
}

/// The first byte chooses the end, the second how the owner behaves and how large the pieces are.
pub fn bytes(data: &[u8]) {
    let Some(([end, manner], input)) = data.split_first_chunk() else { return };
    let mut connection = match end % 3 {
        0 => Connection::client(CONFIG),
        1 => Connection::server(CONFIG),
        _ => {
            let mut server = Connection::server(CONFIG);
            introduce(&mut server);
            server
        }
    };
    if end % 3 == 0 {
        for _ in 0..*end / 64 {
            connection.open("a:1", &http::HeaderMap::new()).expect("the first streams open");
        }
    }
    let mut owner = Owner { manner: *manner, ..Owner::default() };
    for piece in input.chunks(usize::from(*manner) % 50 + 1) {
        if !owner.feed(&mut connection, piece) {
            break;
        }
    }
    let mut out = Vec::new();
    connection.take_output(&mut out);
    assert!(out.len() <= MOST_OUTPUT, "{} bytes queued", out.len());
    connection.closed().ok();
}

fn introduce(server: &mut Connection) {
    let input = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut rest = &input[..];
    while let (taken, Some(_)) = server.receive(rest).expect("an honest start") {
        rest = &rest[taken..];
    }
}

#[derive(Default)]
struct Owner {
    manner: u8,
    untaken: BTreeMap<StreamId, usize>,
}

impl Owner {
    /// Whether the connection goes on.
    fn feed(&mut self, connection: &mut Connection, mut rest: &[u8]) -> bool {
        loop {
            let Ok((taken, event)) = connection.receive(rest) else {
                assert!(connection.has_output() && connection.open_streams() == 0);
                assert!(connection.receive(rest).is_err());
                return false;
            };
            rest = &rest[taken..];
            match event {
                Some(event) => self.act(connection, event),
                None => break,
            }
        }
        assert!(rest.is_empty());
        self.check(connection);
        true
    }

    fn act(&mut self, connection: &mut Connection, event: Event<'_>) {
        let has = |bit: u8| self.manner & (1 << bit) != 0;
        match event {
            Event::Request { id, request } if has(0) => {
                match connection.respond(id, http::StatusCode::OK, &request.headers, has(1)) {
                    Ok(()) => send(connection, id, has(2)),
                    // The peer may have said that it takes less than it sends.
                    Err(SendError::HeadersTooLarge) => connection.reset(id, Code::CANCEL),
                    Err(error) => panic!("it was just opened: {error}"),
                }
            }
            Event::Request { id, .. } if has(1) => connection.reset(id, Code::CANCEL),
            Event::Data { id, bytes } => {
                assert!(!bytes.is_empty());
                if has(3) {
                    connection.consumed(id, bytes.len(), has(4));
                } else {
                    *self.untaken.entry(id).or_default() += bytes.len();
                }
            }
            Event::Reset { id, .. } => {
                self.untaken.remove(&id);
            }
            Event::Response { id, .. } => send(connection, id, has(2)),
            Event::Writable { id: Some(id) } => send(connection, id, false),
            Event::Pong { .. } if has(5) => connection.go_away(Code::NO_ERROR),
            _ => {}
        }
        if has(6) {
            connection.take_output(&mut Vec::new());
        }
        if has(7) {
            connection.refill();
        }
    }

    fn check(&self, connection: &Connection) {
        assert!(connection.open_streams() <= CONFIG.max_streams as usize);
        // Until our settings are acknowledged, a stream may have the default window.
        let most = u64::from(CONFIG.max_streams) * 65_535 + CONFIG.window_budget;
        assert!(self.untaken.values().sum::<usize>() as u64 <= most);
    }
}

fn send(connection: &mut Connection, id: StreamId, end: bool) {
    let count = connection.capacity(id).min(connection.max_send_frame());
    match connection.data(id, count, end) {
        Ok(_) => assert!(connection.capacity(id) == 0 || count == connection.max_send_frame()),
        Err(_) => assert_eq!(count, 0),
    }
}
