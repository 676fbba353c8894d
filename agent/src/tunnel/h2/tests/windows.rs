//! Flow control (RFC 9113 sections 5.2 and 6.9).

use super::support::{
    broken, client, connect, feed, frame, frames, output, resets, server, serving,
};
use crate::tunnel::h2::frame::{flag, kind};
use crate::tunnel::h2::{Code, Config, Connection, Event, SendError, StreamId};

const ONE: StreamId = StreamId(1);

fn config(initial_window: u32, max_window: u32, window_budget: u64) -> Config {
    Config { initial_window, max_window, window_budget, ..Config::default() }
}

fn data(bytes: usize) -> Vec<u8> {
    frame(kind::DATA, 0, 1, &vec![0; bytes])
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn initial_window(value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[&[0, 4][..], &value.to_be_bytes()].concat())
}

/// WINDOW_UPDATEs in the output: stream and increment.
fn credits(connection: &mut Connection) -> Vec<(u32, u32)> {
    frames(&output(connection))
        .into_iter()
        .filter(|(kind, ..)| *kind == kind::WINDOW_UPDATE)
        .map(|(_, _, id, payload)| (id, u32::from_be_bytes(payload.try_into().unwrap())))
        .collect()
}

#[test]
fn a_peer_beyond_a_streams_window_is_reset() {
    let mut server = serving(config(1000, 1000, 0));
    assert_eq!(resets(&mut server, &data(1000)), []);
    assert_eq!(resets(&mut server, &data(0)), [], "nothing needs no window");
    assert_eq!(resets(&mut server, &data(1)), [(1, Code::FLOW_CONTROL_ERROR)]);
}

#[test]
fn a_peer_beyond_the_connections_window_is_cut_off() {
    // Late frames count for the connection too, but their stream's window is no obstacle here.
    let most = config((1 << 31) - 1, (1 << 31) - 1, 0);
    let mut server = serving(Config { connection_window: 16 << 20, ..most });
    let mut sent = 0usize;
    // Credit comes back at a quarter of the window: one frame larger than all of it is too much.
    while sent < 3 << 20 {
        feed(&mut server, &data(1 << 20)).unwrap();
        sent += 1 << 20;
    }
    let rest = frame(kind::DATA, 0, 1, &vec![0; 14 << 20]);
    assert_eq!(broken(server, &rest), Code::FLOW_CONTROL_ERROR);
}

#[test]
fn credit_comes_back_when_the_application_took_half_a_window() {
    let mut server = serving(config(1000, 1000, 0));
    feed(&mut server, &data(1000)).unwrap();
    assert_eq!(credits(&mut server), [], "receipt gives no credit");
    server.consumed(ONE, 499, true);
    assert_eq!(credits(&mut server), []);
    server.consumed(ONE, 1, true);
    assert_eq!(credits(&mut server), [(1, 500)]);
    assert_eq!(resets(&mut server, &data(500)), []);
    assert_eq!(resets(&mut server, &data(1)), [(1, Code::FLOW_CONTROL_ERROR)]);
}

#[test]
fn no_more_credit_is_given_than_was_received() {
    let mut server = serving(config(1000, 1000, 0));
    feed(&mut server, &data(600)).unwrap();
    server.consumed(ONE, usize::MAX, true);
    assert_eq!(credits(&mut server), [(1, 600)]);
    server.consumed(ONE, 600, true);
    assert_eq!(credits(&mut server), []);
}

#[test]
fn padding_is_credited_at_once() {
    let mut server = serving(config(256, 256, 0));
    let padded = frame(kind::DATA, flag::PADDED, 1, &[[255].as_slice(), &[0; 255]].concat());
    assert_eq!(feed(&mut server, &padded), Ok(vec![]));
    assert_eq!(credits(&mut server), [(1, 256)]);
}

#[test]
fn windows_grow_with_an_application_that_keeps_up_within_the_budget() {
    let mut server = serving(config(1000, 4000, 2500));
    for expected in [vec![(1, 2000)], vec![(1, 2500)], vec![]] {
        feed(&mut server, &data(1000)).unwrap();
        server.consumed(ONE, 1000, true);
        assert_eq!(credits(&mut server), expected);
    }
    let mut slow = serving(config(1000, 4000, 2500));
    feed(&mut slow, &data(1000)).unwrap();
    slow.consumed(ONE, 1000, false);
    assert_eq!(credits(&mut slow), [(1, 1000)], "what waits shows that no more is needed");
}

#[test]
fn a_closed_stream_returns_its_growth_to_the_budget() {
    let mut server = serving(config(1000, 2000, 1000));
    let id = StreamId(3);
    feed(&mut server, &frame(kind::HEADERS, flag::END_HEADERS, 3, &connect())).unwrap();
    let grow = |server: &mut Connection, id: StreamId| {
        feed(server, &frame(kind::DATA, 0, id.value(), &[0; 1000])).unwrap();
        server.consumed(id, 1000, true);
        credits(server)
    };
    assert_eq!(grow(&mut server, ONE), [(1, 2000)]);
    assert_eq!(grow(&mut server, id), [(3, 1000)], "the budget is used up");
    server.reset(ONE, Code::CANCEL);
    assert_eq!(grow(&mut server, id), [(3, 2000)]);
}

#[test]
fn the_connections_credit_comes_back_on_receipt() {
    let mut server = serving(config(8 << 20, 8 << 20, 0));
    feed(&mut server, &data((1 << 20) - 1)).unwrap();
    assert_eq!(credits(&mut server), []);
    feed(&mut server, &data(1)).unwrap();
    assert_eq!(credits(&mut server), [(0, 1 << 20)], "a quarter of the window");
}

#[test]
fn before_the_acknowledgement_the_default_window_holds() {
    let mut server = Connection::server(config(10, 10, 0));
    let input = [
        crate::tunnel::h2::frame::PREFACE.to_vec(),
        frame(kind::SETTINGS, 0, 0, &[]),
        frame(kind::HEADERS, flag::END_HEADERS, 1, &connect()),
        frame(kind::DATA, 0, 1, &[0; 100]),
    ];
    assert_eq!(resets(&mut server, &input.concat()), []);
    assert_eq!(resets(&mut server, &frame(kind::SETTINGS, flag::ACK, 0, &[])), []);
    assert_eq!(resets(&mut server, &data(1)), [(1, Code::FLOW_CONTROL_ERROR)]);
}

#[test]
fn we_send_no_more_than_both_windows_and_one_frame() {
    let mut server = serving(Config::default());
    assert_eq!(server.capacity(ONE), 65_535);
    assert_eq!(server.max_send_frame(), 16_384);
    assert_eq!(server.data(ONE, 16_385, false), Err(SendError::OverCapacity));
    for _ in 0..3 {
        server.data(ONE, 16_384, false).unwrap();
    }
    assert_eq!(server.capacity(ONE), 65_535 - 3 * 16_384);
    assert_eq!(server.data(ONE, 16_384, false), Err(SendError::OverCapacity));
    server.data(ONE, 16_383, false).unwrap();
    assert_eq!(server.capacity(ONE), 0);
    assert_eq!(feed(&mut server, &update(1, 5)).unwrap().len(), 1);
    assert_eq!(server.capacity(ONE), 0, "the connection's window is shut");
    assert_eq!(feed(&mut server, &update(0, 3)).unwrap(), [(Event::Writable { id: None }, vec![])]);
    assert_eq!(server.capacity(ONE), 3);
    server.data(ONE, 0, true).unwrap();
    assert_eq!(server.data(ONE, 0, false), Err(SendError::State), "it was ended");
}

#[test]
fn a_smaller_initial_window_may_take_windows_below_zero() {
    let mut server = serving(Config::default());
    server.data(ONE, 1000, false).unwrap();
    let told = feed(&mut server, &initial_window(400)).unwrap();
    assert_eq!(told, [(Event::Settings, vec![])]);
    assert_eq!(server.capacity(ONE), 0);
    assert_eq!(feed(&mut server, &update(1, 600)).unwrap(), [], "still none");
    let opened = (Event::Writable { id: Some(ONE) }, vec![]);
    assert_eq!(feed(&mut server, &update(1, 7)).unwrap(), [opened]);
    assert_eq!(server.capacity(ONE), 7);
    feed(&mut server, &initial_window(393)).unwrap();
    assert_eq!(server.capacity(ONE), 0);
    let told = feed(&mut server, &initial_window(394)).unwrap();
    assert_eq!(told, [(Event::Writable { id: None }, vec![]), (Event::Settings, vec![])]);
    assert_eq!(server.capacity(ONE), 1);
}

#[test]
fn a_new_initial_window_holds_for_new_streams() {
    let mut client = client(Config::default());
    feed(&mut client, &initial_window(1)).unwrap();
    let id = client.open("a:1", &http::HeaderMap::new()).unwrap();
    assert_eq!(client.capacity(id), 1);
}

#[test]
fn windows_never_exceed_their_limit() {
    let most = (1u32 << 31) - 1;
    assert_eq!(broken(serving(Config::default()), &update(0, most)), Code::FLOW_CONTROL_ERROR);
    let mut one = serving(Config::default());
    assert_eq!(resets(&mut one, &update(1, most)), [(1, Code::FLOW_CONTROL_ERROR)]);
    let mut one = serving(Config::default());
    assert_eq!(resets(&mut one, &update(1, most - 65_535)), []);
    assert_eq!(broken(one, &initial_window(65_536)), Code::FLOW_CONTROL_ERROR);
}

#[test]
fn an_increment_of_zero_is_an_error() {
    assert_eq!(broken(serving(Config::default()), &update(0, 0)), Code::PROTOCOL_ERROR);
    assert_eq!(resets(&mut serving(Config::default()), &update(1, 0)), [(1, Code::PROTOCOL_ERROR)]);
}

#[test]
fn nothing_is_sent_before_the_answer_at_a_server() {
    let mut server = server(Config::default());
    feed(&mut server, &frame(kind::HEADERS, flag::END_HEADERS, 1, &connect())).unwrap();
    assert_eq!(server.capacity(ONE), 0);
    assert_eq!(server.data(ONE, 1, false), Err(SendError::State));
    assert_eq!(server.data(StreamId(3), 1, false), Err(SendError::Gone));
}

/// A server with a stream that was sent `bytes`, none of them taken, and a connection's window of 400 kB.
fn holding(bytes: usize, tight: bool) -> Connection {
    let config = Config { connection_window: 400_000, ..config(1 << 20, 1 << 20, 0) };
    let mut server = serving(config);
    server.tighten(tight);
    for _ in 0..bytes / 50_000 {
        feed(&mut server, &data(50_000)).unwrap();
    }
    server
}

#[test]
fn the_connection_gets_credit_for_what_waits_while_there_is_room() {
    let mut server = holding(800_000, false);
    let credits: u32 = credits(&mut server).iter().map(|(_, increment)| increment).sum();
    assert_eq!(credits, 800_000);
}

#[test]
fn a_tight_connection_gets_credit_for_what_was_taken() {
    let mut server = holding(400_000, true);
    assert_eq!(credits(&mut server), []);
    server.consumed(ONE, 99_999, true);
    assert_eq!(credits(&mut server), []);
    server.consumed(ONE, 1, true);
    assert_eq!(credits(&mut server), [(0, 100_000)]);
    server.tighten(false);
    assert_eq!(credits(&mut server), [(0, 300_000)], "all that waits, once there is room");
    let full = holding(400_000, true);
    assert_eq!(broken(full, &data(1)), Code::FLOW_CONTROL_ERROR);
}

#[test]
fn a_tight_connection_grows_no_stream() {
    let mut server = serving(config(1000, 4000, 16 << 20));
    server.tighten(true);
    feed(&mut server, &data(1000)).unwrap();
    server.consumed(ONE, 1000, true);
    assert_eq!(credits(&mut server), [(1, 1000)]);
}

#[test]
fn a_stream_that_is_gone_weighs_no_more() {
    let mut server = holding(400_000, true);
    server.reset(ONE, Code::CANCEL);
    server.tighten(false);
    assert_eq!(credits(&mut server).last(), Some(&(0, 400_000)));
}
