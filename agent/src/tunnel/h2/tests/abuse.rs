//! Floods: what is allowed once is not allowed for ever, and never costs memory without bound.

use http::{HeaderMap, StatusCode};

use super::support::{block, broken, connect, feed, frame, output, server, serving};
use crate::tunnel::h2::frame::{flag, kind};
use crate::tunnel::h2::{Code, Config, Connection, StreamId};

const WHOLE: u8 = flag::END_HEADERS;

fn open_and_reset(id: u32) -> Vec<u8> {
    let reset = frame(kind::RST_STREAM, 0, id, &Code::CANCEL.0.to_be_bytes());
    [frame(kind::HEADERS, WHOLE, id, &connect()), reset].concat()
}

/// How many of the inputs are taken until the connection ends with ENHANCE_YOUR_CALM.
fn endured(connection: &mut Connection, inputs: impl IntoIterator<Item = Vec<u8>>) -> usize {
    for (count, input) in inputs.into_iter().take(1_000_000).enumerate() {
        if let Err(violation) = feed(connection, &input) {
            assert_eq!(violation.code, Code::ENHANCE_YOUR_CALM, "{violation}");
            return count;
        }
        output(connection);
    }
    panic!("a million taken");
}

#[test]
fn floods_of_frames_without_use_end_the_connection() {
    for (flood, most) in [
        (frame(kind::PING, 0, 0, &[0; 8]), 2000),
        (frame(kind::PING, flag::ACK, 0, &[0; 8]), 2000),
        (frame(kind::SETTINGS, 0, 0, &[]), 200),
        (frame(kind::PRIORITY, 0, 9, &[0; 5]), 2000),
        (frame(kind::DATA, 0, 1, &[]), 2000),
        (frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]), 2000),
        (frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), 2000),
        (frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 2000),
        (frame(kind::GOAWAY, 0, 0, &[0; 8]), 2000),
        (frame(0xaa, 0, 0, &[0; 8]), 2000),
    ] {
        let mut server = serving(Config::default());
        // The introduction took a little of it.
        let taken = endured(&mut server, std::iter::repeat(flood.clone()));
        assert!((most * 9 / 10..=most).contains(&taken), "{taken} of {flood:?}");
    }
}

#[test]
fn time_and_useful_work_bring_the_budget_back() {
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let mut server = serving(Config::default());
    for _ in 0..1_000 {
        feed(&mut server, &ping.repeat(500)).unwrap();
        output(&mut server);
        server.refill();
    }
    let mut server = serving(Config::default());
    for _ in 0..10_000 {
        feed(&mut server, &ping).unwrap();
        feed(&mut server, &frame(kind::DATA, 0, 1, &[0])).unwrap();
        server.consumed(StreamId(1), 1, true);
        output(&mut server);
    }
}

#[test]
fn window_updates_for_what_we_send_are_no_flood() {
    let mut server = serving(Config::default());
    for _ in 0..10_000 {
        server.data(StreamId(1), 1, false).unwrap();
        for id in [0, 1] {
            feed(&mut server, &frame(kind::WINDOW_UPDATE, 0, id, &[0, 0, 0, 1])).unwrap();
        }
    }
}

#[test]
fn rapid_reset_ends_the_connection() {
    let mut server = server(Config::default());
    let taken = endured(&mut server, (1..).step_by(2).map(open_and_reset));
    assert_eq!(taken, 1000);
}

#[test]
fn streams_that_were_answered_may_be_reset() {
    let mut server = server(Config::default());
    for id in (1..20_000).step_by(2) {
        feed(&mut server, &frame(kind::HEADERS, WHOLE, id, &connect())).unwrap();
        server.respond(StreamId(id), StatusCode::OK, &HeaderMap::new(), false).unwrap();
        feed(&mut server, &frame(kind::RST_STREAM, 0, id, &[0, 0, 0, 8])).unwrap();
        output(&mut server);
    }
    assert_eq!(server.open_streams(), 0);
}

#[test]
fn making_us_reset_streams_ends_the_connection_even_if_they_were_answered() {
    let mut server = server(Config::default());
    let mut count = 0;
    for id in (1..20_000).step_by(2) {
        feed(&mut server, &frame(kind::HEADERS, WHOLE, id, &connect())).unwrap();
        server.respond(StreamId(id), StatusCode::OK, &HeaderMap::new(), false).unwrap();
        // An increment of 0 is a stream error.
        if feed(&mut server, &frame(kind::WINDOW_UPDATE, 0, id, &[0; 4])).is_err() {
            break;
        }
        output(&mut server);
        count += 1;
    }
    assert_eq!(count, 100);
}

#[test]
fn malformed_requests_end_the_connection() {
    let mut server = server(Config::default());
    let malformed = |id| frame(kind::HEADERS, WHOLE, id, &block(&[("a", "b")]));
    assert_eq!(endured(&mut server, (1..).step_by(2).map(malformed)), 100);
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_cut_off() {
    // Pings among useful work; nothing is ever taken from the output.
    let config = Config { max_streams: 10, ..Config::default() };
    let mut server = serving(config);
    let input = [frame(kind::PING, 0, 0, &[0; 8]), frame(kind::DATA, 0, 1, &[0])].concat();
    let mut result = Ok(Vec::new());
    for _ in 0..100_000 {
        result = feed(&mut server, &input);
        server.consumed(StreamId(1), 1, true);
        if result.is_err() {
            break;
        }
    }
    assert_eq!(result.unwrap_err().code, Code::ENHANCE_YOUR_CALM);
    assert!(output(&mut server).len() < 100_000);
}

#[test]
fn header_blocks_are_bounded_in_bytes_and_frames() {
    let begun = frame(kind::HEADERS, 0, 3, &connect());
    let bomb = [begun.clone(), frame(kind::CONTINUATION, 0, 3, &[0; 16_000]).repeat(5)].concat();
    assert_eq!(broken(serving(Config::default()), &bomb), Code::ENHANCE_YOUR_CALM);
    let many = [begun.clone(), frame(kind::CONTINUATION, 0, 3, &[]).repeat(33)].concat();
    assert_eq!(broken(serving(Config::default()), &many), Code::ENHANCE_YOUR_CALM);
    let at_once = frame(kind::HEADERS, 0, 3, &vec![0; 1 << 20]);
    assert_eq!(broken(serving(Config::default()), &at_once[..9]), Code::ENHANCE_YOUR_CALM);
    let last = frame(kind::CONTINUATION, WHOLE, 3, &[]);
    let enough = [begun, frame(kind::CONTINUATION, 0, 3, &[]).repeat(31), last].concat();
    assert_eq!(feed(&mut serving(Config::default()), &enough).unwrap().len(), 1);
}

/// A request with an entry of 4000 bytes for the table, and that entry so many times again.
fn bomb(copies: usize) -> Vec<u8> {
    let large = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    frame(kind::HEADERS, WHOLE, 1, &[connect(), large, vec![0x80 | 62; copies]].concat())
}

#[test]
fn a_header_list_larger_than_allowed_is_refused_and_the_connection_goes_on() {
    let mut server = server(Config::default());
    assert_eq!(feed(&mut server, &bomb(20)).unwrap(), []);
    assert_eq!(server.open_streams(), 0);
    feed(&mut server, &frame(kind::HEADERS, WHOLE, 3, &connect())).unwrap();
    assert_eq!(server.open_streams(), 1);
}

#[test]
fn a_header_bomb_ends_the_connection_before_it_is_unpacked() {
    // 240 MB if it were.
    assert_eq!(broken(server(Config::default()), &bomb(60_000)), Code::ENHANCE_YOUR_CALM);
    // Nobody waits for the list of a stream that is gone; it costs the same.
    let mut serving = serving(Config::default());
    serving.reset(StreamId(1), Code::CANCEL);
    assert_eq!(broken(serving, &bomb(60_000)), Code::ENHANCE_YOUR_CALM);
}

#[test]
fn settings_with_too_many_entries_are_refused() {
    let many = frame(kind::SETTINGS, 0, 0, &[0, 9, 0, 0, 0, 0].repeat(101));
    assert_eq!(broken(serving(Config::default()), &many), Code::ENHANCE_YOUR_CALM);
}

#[test]
fn data_for_streams_reset_long_ago_ends_the_connection() {
    let mut server = server(Config::default());
    let mut streams = (1..).step_by(2);
    for id in streams.by_ref().take(1100) {
        feed(&mut server, &frame(kind::HEADERS, WHOLE, id, &connect())).unwrap();
        server.reset(StreamId(id), Code::CANCEL);
        output(&mut server);
    }
    let late = frame(kind::DATA, 0, 1, &[0]);
    assert!(endured(&mut server, std::iter::repeat(late)) <= 2000);
}
