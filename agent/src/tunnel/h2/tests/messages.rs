//! What requests, responses and trailers may look like (RFC 9113 section 8), and stream states.

use http::{HeaderMap, Method, StatusCode};

use super::support::{
    block, client, connect, feed, frame, frames, output, resets, server, serving,
};
use crate::tunnel::h2::frame::{flag, kind};
use crate::tunnel::h2::{Code, Config, Event, Request, StreamId};

const WHOLE: u8 = flag::END_HEADERS;
const END: u8 = flag::END_STREAM;

const CONNECT: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "a:1")];
const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

/// A request that ends with its headers: the reset it causes, if any.
fn request(fields: &[(&str, &str)], end: u8) -> Option<Code> {
    let mut server = server(Config::default());
    let input = frame(kind::HEADERS, WHOLE | end, 1, &block(fields));
    let reset = resets(&mut server, &input).first().map(|(_, code)| *code);
    assert_eq!(server.open_streams(), usize::from(reset.is_none()));
    reset
}

fn response(fields: &[(&str, &str)], end: u8) -> Option<Code> {
    let mut client = client(Config::default());
    let input = frame(kind::HEADERS, WHOLE | end, 1, &block(fields));
    resets(&mut client, &input).first().map(|(_, code)| *code)
}

const MALFORMED: Option<Code> = Some(Code::PROTOCOL_ERROR);

#[test]
fn a_connect_has_method_and_authority_only() {
    assert_eq!(request(&CONNECT, 0), None);
    assert_eq!(request(&CONNECT[..1], 0), MALFORMED);
    assert_eq!(request(&CONNECT[1..], 0), MALFORMED);
    for other in [(":scheme", "http"), (":path", "/"), (":protocol", "x"), (":status", "200")] {
        assert_eq!(request(&[CONNECT[0], CONNECT[1], other], 0), MALFORMED, "{other:?}");
    }
    assert_eq!(request(&[CONNECT[0], CONNECT[1], ("content-length", "0")], 0), MALFORMED);
}

#[test]
fn other_requests_have_method_scheme_and_path() {
    assert_eq!(request(&GET, END), None);
    for missing in 0..GET.len() {
        let mut fields = GET.to_vec();
        fields.remove(missing);
        assert_eq!(request(&fields, END), MALFORMED, "{fields:?}");
    }
    assert_eq!(request(&[GET[0], GET[1], (":path", "")], END), MALFORMED);
}

#[test]
fn pseudo_headers_come_first_and_once_and_are_known() {
    assert_eq!(request(&[CONNECT[0], ("a", "b"), CONNECT[1]], 0), MALFORMED);
    assert_eq!(request(&[CONNECT[0], CONNECT[1], CONNECT[1]], 0), MALFORMED);
    assert_eq!(request(&[CONNECT[0], CONNECT[1], (":what", "x")], 0), MALFORMED);
    assert_eq!(request(&[CONNECT[0], (":authority", "a b")], 0), MALFORMED);
}

#[test]
fn fields_have_lower_case_names_and_clean_values() {
    for field in [
        ("Name", "x"),
        ("na me", "x"),
        ("na:me", "x"),
        ("", "x"),
        ("name", "a\0"),
        ("name", "a\r\nb: c"),
        ("name", " a"),
        ("name", "a\t"),
    ] {
        assert_eq!(request(&[CONNECT[0], CONNECT[1], field], 0), MALFORMED, "{field:?}");
        assert_eq!(response(&[(":status", "200"), field], 0), MALFORMED, "{field:?}");
    }
}

#[test]
fn fields_of_the_connection_are_refused() {
    for field in [
        ("connection", "close"),
        ("proxy-connection", "close"),
        ("keep-alive", "1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "x"),
        ("te", "gzip"),
    ] {
        assert_eq!(request(&[CONNECT[0], CONNECT[1], field], 0), MALFORMED, "{field:?}");
    }
    assert_eq!(request(&[CONNECT[0], CONNECT[1], ("te", "trailers")], 0), None);
}

#[test]
fn a_host_is_the_authority() {
    assert_eq!(request(&[CONNECT[0], CONNECT[1], ("host", "A:1")], 0), None);
    assert_eq!(request(&[CONNECT[0], CONNECT[1], ("host", "b:1")], 0), MALFORMED);
}

#[test]
fn a_header_list_larger_than_allowed_is_answered_so_and_the_connection_goes_on() {
    let config = Config { max_header_list: 200, ..Config::default() };
    let mut server = server(config);
    let value = "x".repeat(80);
    let large = block(&[CONNECT[0], CONNECT[1], ("a", &value)]);
    assert_eq!(feed(&mut server, &frame(kind::HEADERS, WHOLE, 1, &large)), Ok(vec![]));
    let sent = frames(&output(&mut server));
    assert_eq!(sent[0], (kind::HEADERS, WHOLE | END, 1, [&[8, 3][..], b"431"].concat()));
    assert_eq!(sent[1], (kind::RST_STREAM, 0, 1, vec![0; 4]), "the rest is not wanted");
    // Who takes no answer gets none.
    let nothing = frame(kind::SETTINGS, 0, 0, &[0, 6, 0, 0, 0, 0]);
    let input = [nothing, frame(kind::HEADERS, WHOLE | END, 5, &large)].concat();
    assert_eq!(resets(&mut server, &input), [(5, Code::ENHANCE_YOUR_CALM)]);
    assert_eq!(resets(&mut server, &frame(kind::HEADERS, WHOLE, 7, &connect())), []);
    assert_eq!(server.open_streams(), 1);
}

#[test]
fn a_request_that_is_no_connect_is_passed_on() {
    let mut server = server(Config::default());
    let told = feed(&mut server, &frame(kind::HEADERS, WHOLE | END, 1, &block(&GET))).unwrap();
    let (method, authority) = (Method::GET, String::new());
    let request = Request { method, authority, headers: HeaderMap::new(), end: true };
    assert_eq!(told, [(Event::Request { id: StreamId(1), request }, vec![])]);
}

#[test]
fn a_response_has_one_valid_status() {
    assert_eq!(response(&[(":status", "200")], 0), None);
    for fields in [
        &[][..],
        &[(":status", "20")],
        &[(":status", "101")],
        &[(":status", "200"), (":status", "200")],
        &[(":method", "GET")],
    ] {
        assert_eq!(response(fields, 0), MALFORMED, "{fields:?}");
    }
    assert_eq!(response(&[(":status", "100")], END), MALFORMED);
}

#[test]
fn informational_responses_are_not_told() {
    let mut client = client(Config::default());
    let input = [("100", 0), ("103", 0), ("200", END)]
        .map(|(status, end)| frame(kind::HEADERS, WHOLE | end, 1, &block(&[(":status", status)])));
    let told = feed(&mut client, &input.concat()).unwrap();
    let (status, headers) = (StatusCode::OK, HeaderMap::new());
    let response = Event::Response { id: StreamId(1), status, headers, end: true };
    assert_eq!(told, [(response, vec![])]);
}

#[test]
fn content_is_as_long_as_it_says() {
    let post = [GET[0], GET[1], GET[2], ("content-length", "3")];
    let data = |bytes: &[u8], end| frame(kind::DATA, end, 1, bytes);
    for (then, expected) in [
        (vec![data(b"abc", END)], vec![]),
        (vec![data(b"a", 0), data(b"bc", 0), data(b"", END)], vec![]),
        (vec![data(b"abcd", 0)], vec![(1, Code::PROTOCOL_ERROR)]),
        (vec![data(b"ab", END)], vec![(1, Code::PROTOCOL_ERROR)]),
    ] {
        let mut server = server(Config::default());
        let mut input = frame(kind::HEADERS, WHOLE, 1, &block(&post));
        input.extend(then.concat());
        assert_eq!(resets(&mut server, &input), expected);
    }
    assert_eq!(request(&post, END), MALFORMED);
    for length in ["", "x", "-1", "99999999999999999999"] {
        assert_eq!(request(&[GET[0], GET[1], GET[2], ("content-length", length)], 0), MALFORMED);
    }
    let twice = [GET[0], GET[1], GET[2], ("content-length", "1"), ("content-length", "2")];
    assert_eq!(request(&twice, 0), MALFORMED);
}

#[test]
fn the_length_of_a_tunnel_is_ignored() {
    let mut client = client(Config::default());
    let ok = block(&[(":status", "200"), ("content-length", "1")]);
    let input = [frame(kind::HEADERS, WHOLE, 1, &ok), frame(kind::DATA, END, 1, b"abc")].concat();
    assert_eq!(resets(&mut client, &input), []);
}

#[test]
fn a_tunnel_has_no_trailers() {
    let trailers = frame(kind::HEADERS, WHOLE | END, 1, &block(&[("a", "b")]));
    let reset = vec![(1, Code::PROTOCOL_ERROR)];
    assert_eq!(resets(&mut serving(Config::default()), &trailers), reset);
    let ok = frame(kind::HEADERS, WHOLE, 1, &block(&[(":status", "200")]));
    assert_eq!(resets(&mut client(Config::default()), &[ok, trailers].concat()), reset);
}

#[test]
fn trailers_end_what_is_no_tunnel() {
    let denied = frame(kind::HEADERS, WHOLE, 1, &block(&[(":status", "401")]));
    let end = |fields: &[(&str, &str)], end| {
        let mut client = client(Config::default());
        let trailers = frame(kind::HEADERS, WHOLE | end, 1, &block(fields));
        let told = feed(&mut client, &[denied.clone(), trailers].concat()).unwrap();
        told.last().unwrap().0.clone()
    };
    let id = StreamId(1);
    assert_eq!(end(&[("a", "b")], END), Event::End { id });
    let malformed = Event::Reset { id, code: Code::PROTOCOL_ERROR };
    assert_eq!(end(&[("a", "b")], 0), malformed, "no END_STREAM");
    assert_eq!(end(&[(":status", "200")], END), malformed, "a pseudo-header");
}

#[test]
fn data_before_the_response_is_a_stream_error() {
    let input = frame(kind::DATA, 0, 1, b"x");
    assert_eq!(resets(&mut client(Config::default()), &input), [(1, Code::PROTOCOL_ERROR)]);
}

#[test]
fn a_half_closed_stream_takes_no_data_and_no_headers() {
    let end = frame(kind::DATA, END, 1, b"");
    for late in [frame(kind::DATA, 0, 1, b"x"), frame(kind::HEADERS, WHOLE | END, 1, &connect())] {
        let mut server = serving(Config::default());
        let input = [end.clone(), late].concat();
        assert_eq!(resets(&mut server, &input), [(1, Code::STREAM_CLOSED)]);
    }
}

#[test]
fn what_was_on_its_way_when_we_reset_is_ignored_and_counted() {
    let mut server = serving(Config { initial_window: 100_000, ..Config::default() });
    server.reset(StreamId(1), Code::CANCEL);
    output(&mut server);
    let late = [
        frame(kind::DATA, 0, 1, &[0; 50_000]),
        frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        frame(kind::HEADERS, WHOLE, 1, &block(&[("a", "b")])),
        frame(kind::RST_STREAM, 0, 1, &[0; 4]),
        frame(kind::DATA, 0, 1, &[0; 50_000]),
    ];
    assert_eq!(feed(&mut server, &late.concat()), Ok(vec![]));
    let overrun = feed(&mut server, &frame(kind::DATA, 0, 1, &[0])).unwrap_err();
    assert_eq!(overrun.code, Code::FLOW_CONTROL_ERROR);
}

#[test]
fn a_stream_reset_in_the_middle_of_a_frame_tells_no_more_of_it() {
    let mut server = serving(Config::default());
    let wire = frame(kind::DATA, END, 1, &[7; 100]);
    assert_eq!(feed(&mut server, &wire[..50]).unwrap().len(), 1);
    server.reset(StreamId(1), Code::CANCEL);
    assert_eq!(feed(&mut server, &wire[50..]), Ok(vec![]));
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let mut server = server(Config { max_streams: 2, ..Config::default() });
    let input = [1, 3, 5].map(|id| frame(kind::HEADERS, WHOLE, id, &connect()));
    assert_eq!(resets(&mut server, &input.concat()), [(5, Code::REFUSED_STREAM)]);
    server.reset(StreamId(1), Code::CANCEL);
    assert_eq!(
        resets(&mut server, &frame(kind::HEADERS, WHOLE, 7, &connect())),
        [(1, Code::CANCEL)]
    );
    assert_eq!(server.open_streams(), 2);
}

#[test]
fn priority_and_unknown_frames_change_nothing() {
    let mut server = serving(Config::default());
    let with_priority = [&[0, 0, 0, 1, 9][..], &connect()].concat();
    let input = [
        frame(kind::PRIORITY, 0, 1, &[0; 5]),
        frame(kind::PRIORITY, 0, 99, &[0; 5]),
        frame(0x42, 0xff, 1, &[1; 1000]),
    ];
    assert_eq!(feed(&mut server, &input.concat()), Ok(vec![]));
    let told = feed(&mut server, &frame(kind::HEADERS, WHOLE | flag::PRIORITY, 3, &with_priority));
    assert_eq!(told.unwrap().len(), 1);
    let short = frame(kind::PRIORITY, 0, 1, &[0; 4]);
    assert_eq!(resets(&mut server, &short), [(1, Code::FRAME_SIZE_ERROR)]);
}
