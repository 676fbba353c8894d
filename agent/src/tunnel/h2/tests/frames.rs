//! What ends a connection, by frame (RFC 9113 sections 3.4, 4, 5.1 and 6).

use super::support::{block, broken, client, connect, frame, server, serving};
use crate::tunnel::h2::frame::{PREFACE, flag, kind};
use crate::tunnel::h2::{Code, Config, Connection};

const ACK: u8 = flag::ACK;
const END: u8 = flag::END_STREAM;
const WHOLE: u8 = flag::END_HEADERS;
const PADDED: u8 = flag::PADDED;

/// What a server with stream 1 open answers to a frame.
fn at_server(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Code {
    broken(serving(Config::default()), &frame(kind, flags, stream, payload))
}

fn at_client(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Code {
    broken(client(Config::default()), &frame(kind, flags, stream, payload))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

#[test]
fn a_connection_starts_with_preface_and_settings() {
    let fresh = || Connection::server(Config::default());
    assert_eq!(broken(fresh(), b"GET / HTTP/1.1\r\n"), Code::PROTOCOL_ERROR);
    let after = |frame: Vec<u8>| [&PREFACE[..], &frame].concat();
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    assert_eq!(broken(fresh(), &after(ping.clone())), Code::PROTOCOL_ERROR);
    let ack = frame(kind::SETTINGS, ACK, 0, &[]);
    assert_eq!(broken(fresh(), &after(ack)), Code::PROTOCOL_ERROR);
    assert_eq!(broken(Connection::client(Config::default()), &ping), Code::PROTOCOL_ERROR);
}

#[test]
fn a_frame_larger_than_allowed_is_a_frame_size_error() {
    let config = Config { max_frame: 1 << 14, ..Config::default() };
    for kind in 0..=kind::CONTINUATION + 1 {
        let head = &frame(kind, 0, 1, &vec![0; (1 << 14) + 1])[..9];
        assert_eq!(broken(serving(config), head), Code::FRAME_SIZE_ERROR, "{kind}");
    }
}

#[test]
fn frames_of_the_connection_are_refused_on_a_stream() {
    for (kind, payload) in [(kind::SETTINGS, 0), (kind::PING, 8), (kind::GOAWAY, 8)] {
        assert_eq!(at_server(kind, 0, 1, &vec![0; payload]), Code::PROTOCOL_ERROR);
    }
}

#[test]
fn frames_of_streams_are_refused_on_the_connection() {
    for (kind, payload) in
        [(kind::DATA, 1), (kind::HEADERS, 1), (kind::PRIORITY, 5), (kind::RST_STREAM, 4)]
    {
        assert_eq!(at_server(kind, WHOLE, 0, &vec![0; payload]), Code::PROTOCOL_ERROR, "{kind}");
    }
}

#[test]
fn frames_of_a_fixed_size_have_it() {
    for (kind, stream, length) in [
        (kind::RST_STREAM, 1, 3),
        (kind::RST_STREAM, 1, 5),
        (kind::WINDOW_UPDATE, 1, 3),
        (kind::WINDOW_UPDATE, 0, 5),
        (kind::PING, 0, 7),
        (kind::PING, 0, 9),
        (kind::GOAWAY, 0, 7),
        (kind::SETTINGS, 0, 5),
        (kind::PRIORITY, 3, 4),
    ] {
        let code = at_server(kind, 0, stream, &vec![1; length]);
        assert_eq!(code, Code::FRAME_SIZE_ERROR, "{kind} of {length}");
    }
    assert_eq!(at_server(kind::SETTINGS, ACK, 0, &[0; 6]), Code::FRAME_SIZE_ERROR);
}

#[test]
fn settings_out_of_range_are_refused() {
    for (id, value, code) in [
        (0x2, 2, Code::PROTOCOL_ERROR),
        (0x4, 1 << 31, Code::FLOW_CONTROL_ERROR),
        (0x5, (1 << 14) - 1, Code::PROTOCOL_ERROR),
        (0x5, 1 << 24, Code::PROTOCOL_ERROR),
        (0x8, 2, Code::PROTOCOL_ERROR),
    ] {
        assert_eq!(at_server(kind::SETTINGS, 0, 0, &setting(id, value)), code, "{id} {value}");
    }
    let taken_back = [setting(0x8, 1), setting(0x8, 0)].concat();
    assert_eq!(at_server(kind::SETTINGS, 0, 0, &taken_back), Code::PROTOCOL_ERROR);
    assert_eq!(at_client(kind::SETTINGS, 0, 0, &setting(0x2, 1)), Code::PROTOCOL_ERROR);
}

#[test]
fn settings_are_acknowledged_once_by_the_peer() {
    assert_eq!(at_server(kind::SETTINGS, ACK, 0, &[]), Code::PROTOCOL_ERROR);
}

#[test]
fn servers_do_not_push() {
    assert_eq!(at_client(kind::PUSH_PROMISE, WHOLE, 1, &[0; 8]), Code::PROTOCOL_ERROR);
    assert_eq!(at_server(kind::PUSH_PROMISE, WHOLE, 1, &[0; 8]), Code::PROTOCOL_ERROR);
}

#[test]
fn padding_fits_into_its_frame() {
    assert_eq!(at_server(kind::DATA, PADDED, 1, &[]), Code::FRAME_SIZE_ERROR);
    assert_eq!(at_server(kind::DATA, PADDED, 1, &[1]), Code::PROTOCOL_ERROR);
    assert_eq!(at_server(kind::DATA, PADDED, 1, &[3, 0, 0]), Code::PROTOCOL_ERROR);
    assert_eq!(at_server(kind::HEADERS, WHOLE | PADDED, 3, &[]), Code::FRAME_SIZE_ERROR);
    assert_eq!(at_server(kind::HEADERS, WHOLE | PADDED, 3, &[2, 0]), Code::PROTOCOL_ERROR);
    let short = at_server(kind::HEADERS, WHOLE | flag::PRIORITY, 3, &[0; 4]);
    assert_eq!(short, Code::FRAME_SIZE_ERROR);
}

#[test]
fn a_header_block_is_not_interrupted() {
    let begun = frame(kind::HEADERS, 0, 3, &connect());
    for other in [
        frame(kind::DATA, 0, 1, &[0]),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::HEADERS, WHOLE, 3, &[]),
        frame(kind::CONTINUATION, WHOLE, 1, &[]),
        frame(0xfe, 0, 3, &[]),
    ] {
        let input = [begun.clone(), other].concat();
        assert_eq!(broken(serving(Config::default()), &input), Code::PROTOCOL_ERROR);
    }
    assert_eq!(at_server(kind::CONTINUATION, WHOLE, 1, &[]), Code::PROTOCOL_ERROR);
}

#[test]
fn idle_streams_take_nothing_but_headers_and_priority() {
    for (kind, length) in [(kind::DATA, 1), (kind::RST_STREAM, 4), (kind::WINDOW_UPDATE, 4)] {
        // Odd: not opened yet. Even: a server's, which opens none.
        for id in [2, 3] {
            assert_eq!(at_server(kind, 0, id, &vec![1; length]), Code::PROTOCOL_ERROR);
            assert_eq!(at_client(kind, 0, id, &vec![1; length]), Code::PROTOCOL_ERROR);
        }
    }
    for id in [2, 3] {
        let code = at_client(kind::HEADERS, WHOLE, id, &block(&[(":status", "200")]));
        assert_eq!(code, Code::PROTOCOL_ERROR);
    }
    assert_eq!(at_server(kind::HEADERS, WHOLE, 2, &connect()), Code::PROTOCOL_ERROR);
}

#[test]
fn a_stream_closed_by_the_peer_takes_nothing() {
    let reset = frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    for late in [frame(kind::DATA, 0, 1, &[0]), frame(kind::HEADERS, WHOLE, 1, &connect())] {
        let input = [reset.clone(), late].concat();
        assert_eq!(broken(serving(Config::default()), &input), Code::STREAM_CLOSED);
    }
    // Opening 5 closes 3, which was idle (section 5.1.1).
    let skipped = [
        frame(kind::HEADERS, WHOLE | END, 5, &connect()),
        frame(kind::HEADERS, WHOLE | END, 3, &connect()),
    ];
    assert_eq!(broken(server(Config::default()), &skipped.concat()), Code::STREAM_CLOSED);
}

#[test]
fn header_blocks_that_cannot_be_decoded_end_the_connection() {
    // Ends within a string; index 0; an entry that is not; a table larger than allowed; Huffman with EOS.
    for block in [
        &[0x00, 5, b'a'][..],
        &[0x80],
        &[0xff, 0x00],
        &[0x3f, 0xe2, 0x1f],
        &[0, 0x84, 255, 255, 255, 255],
    ] {
        let code = at_server(kind::HEADERS, WHOLE, 3, block);
        assert_eq!(code, Code::COMPRESSION_ERROR, "{block:?}");
        assert_eq!(at_client(kind::HEADERS, WHOLE, 1, block), Code::COMPRESSION_ERROR);
    }
}

#[test]
fn go_away_never_names_a_later_stream_than_before() {
    let input = [1u8, 3].map(|last| frame(kind::GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]));
    assert_eq!(broken(client(Config::default()), &input.concat()), Code::PROTOCOL_ERROR);
}
