//! Clients that abuse our accepting end.

use super::frames::*;
use super::peer::{abuse, dial};
use super::*;
use crate::local;

/// An abuse: what it begins with, and its steps.
struct Abuse {
    what: &'static str,
    first: Vec<u8>,
    step: Box<dyn Fn(u32) -> Option<Vec<u8>>>,
    /// The codes that fit it.
    codes: &'static [u32],
}

/// The same or the like, again and again.
fn flood(what: &'static str, first: Vec<u8>, step: impl Fn(u32) -> Vec<u8> + 'static) -> Abuse {
    let step = Box::new(move |n| (n < FAR_TOO_MANY).then(|| step(n)));
    Abuse { what, first, step, codes: &[ENHANCE_YOUR_CALM] }
}

/// One fault is enough.
fn fault(what: &'static str, code: &'static [u32], bytes: &[u8]) -> Abuse {
    Abuse { what, first: [hello(), bytes.to_vec()].concat(), step: Box::new(|_| None), codes: code }
}

/// With a stream open.
fn open() -> Vec<u8> {
    [hello(), connect(1)].concat()
}

async fn all(abuses: Vec<Abuse>) {
    all_under(Limits::default(), abuses).await;
}

async fn all_under(limits: Limits, abuses: Vec<Abuse>) {
    local(100, async {
        let stand = Stand::new(limits).await;
        for Abuse { what, first, step, codes } in abuses {
            let once = async || {
                let tls = dial(&stand.pki, stand.gateway.address).await;
                let end = abuse(tls, first.clone(), &step).await;
                end.is_told(codes, what);
            };
            stand.suffer(what, MOST, once).await;
        }
    })
    .await;
}

#[tokio::test]
async fn floods_of_frames_that_move_nothing_end_the_connection() {
    let many: Vec<(u16, u32)> = (0..32).map(|n| (4, n)).collect();
    all(vec![
        flood("empty SETTINGS", hello(), |_| settings(&[])),
        flood("SETTINGS that move windows", open(), move |_| settings(&many)),
        flood("SETTINGS that move the table", open(), |n| settings(&[(1, n << 31 | n)])),
        flood("PING", hello(), |_| frame(PING, 0, 0, &[0; 8])),
        flood("PING never asked for", hello(), |_| frame(PING, ACK, 0, &[1; 8])),
        flood("empty DATA", open(), |_| frame(DATA, 0, 1, &[])),
        flood("DATA of padding alone", open(), |_| frame(DATA, PADDED, 1, &[3, 0, 0, 0])),
        flood("PRIORITY", hello(), |n| frame(PRIORITY, 0, odd(n), &[0; 5])),
        flood("WINDOW_UPDATE of the connection", hello(), |_| window_update(0, 1)),
        flood("WINDOW_UPDATE of a stream", open(), |_| window_update(1, 1)),
        flood("GOAWAY with a stream open", open(), |_| frame(GOAWAY, 0, 0, &[0; 8])),
        flood("frames of no known kind", hello(), |_| frame(0xfa, 0, 0, &[0; 8])),
    ])
    .await;
}

#[tokio::test]
async fn streams_opened_and_reset_in_a_row_end_the_connection() {
    all(vec![
        flood("rapid reset", hello(), |n| [connect(odd(n)), reset(odd(n))].concat()),
        flood("more streams than allowed", hello(), |n| connect(odd(n))),
    ])
    .await;
}

#[tokio::test]
async fn making_us_reset_streams_ends_the_connection() {
    let each = |what, fault: fn(u32) -> Vec<u8>| {
        flood(what, hello(), move |n| [connect(odd(n)), fault(odd(n))].concat())
    };
    all(vec![
        each("WINDOW_UPDATE by 0", |id| window_update(id, 0)),
        each("a window beyond the largest", |id| window_update(id, 0x7fff_ffff)),
        each("PRIORITY of 4 bytes", |id| frame(PRIORITY, 0, id, &[0; 4])),
        each("HEADERS in a tunnel", |id| frame(HEADERS, END_HEADERS, id, &request())),
        each("DATA beyond the window", |id| frame(DATA, 0, id, &[0; 300_000])),
        flood("requests without a method", hello(), |n| {
            frame(HEADERS, END_HEADERS, odd(n), &field(":authority", "a:1"))
        }),
    ])
    .await;
}

#[tokio::test]
async fn bytes_after_the_end_of_a_stream_end_the_connection() {
    let after = |n| {
        let end = frame(DATA, END_STREAM, odd(n), b"end");
        [connect(odd(n)), end, frame(DATA, 0, odd(n), b"more")].concat()
    };
    let mut abuse = flood("DATA after END_STREAM", hello(), after);
    abuse.codes = &[STREAM_CLOSED, ENHANCE_YOUR_CALM];
    let again = [connect(1), reset(1), connect(1)].concat();
    all(vec![abuse, fault("HEADERS on a closed stream", &[STREAM_CLOSED], &again)]).await;
}

#[tokio::test]
async fn header_bombs_end_the_connection() {
    let begun = || [hello(), frame(HEADERS, 0, 1, &request())].concat();
    let bomb = |n| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &[request(), remember()].concat()),
        _ => frame(HEADERS, END_HEADERS, odd(n), &[request(), copies(60_000)].concat()),
    };
    // The table emptied and opened again, as often as fits.
    let sizes = [&[0x20, 0x3f, 0xe1, 0x1f].repeat(4000)[..], &request()].concat();
    all(vec![
        fault("table sizes", &[COMPRESSION_ERROR], &frame(HEADERS, END_HEADERS, 1, &sizes)),
        flood("CONTINUATION of a byte", begun(), |_| frame(CONTINUATION, 0, 1, &[0])),
        flood("empty CONTINUATION", begun(), |_| frame(CONTINUATION, 0, 1, &[])),
        flood("CONTINUATION of 16 KiB", begun(), |_| frame(CONTINUATION, 0, 1, &[0; 16_384])),
        flood("copies from the table", hello(), bomb),
        fault("a header block of 16 MiB", &[ENHANCE_YOUR_CALM], &head(0xff_ffff, HEADERS, 0, 1)),
        fault("another frame in a header block", &[PROTOCOL_ERROR], &{
            [frame(HEADERS, 0, 1, &request()), frame(PING, 0, 0, &[0; 8])].concat()
        }),
        fault("a table larger than allowed", &[COMPRESSION_ERROR], &{
            frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xe1, 0xff, 0xff, 0x03])
        }),
        fault("an integer without end", &[COMPRESSION_ERROR], &{
            frame(HEADERS, END_HEADERS, 1, &[0xff; 64])
        }),
    ])
    .await;
}

#[tokio::test]
async fn frames_against_the_rules_end_the_connection_with_their_code() {
    let go_away = |last: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    all(vec![
        fault("PING of 16 MiB", &[FRAME_SIZE_ERROR], &head(0xff_ffff, PING, 0, 0)),
        fault("WINDOW_UPDATE of 5 bytes", &[FRAME_SIZE_ERROR], &head(5, WINDOW_UPDATE, 0, 0)),
        fault("PUSH_PROMISE", &[PROTOCOL_ERROR], &frame(PUSH_PROMISE, 4, 1, &[0; 4])),
        fault("DATA on no stream", &[PROTOCOL_ERROR], &frame(DATA, 0, 0, b"bytes")),
        fault("DATA on a stream never opened", &[PROTOCOL_ERROR], &frame(DATA, 0, 7, b"bytes")),
        fault("RST_STREAM of a stream never opened", &[PROTOCOL_ERROR], &reset(7)),
        fault("a stream with an even number", &[PROTOCOL_ERROR], &connect(2)),
        fault("padding longer than HEADERS", &[PROTOCOL_ERROR], &{
            frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0])
        }),
        fault("padding longer than DATA", &[PROTOCOL_ERROR], &{
            [connect(1), frame(DATA, PADDED, 1, &[9, 0])].concat()
        }),
        fault("GOAWAY that takes back another", &[PROTOCOL_ERROR], &{
            [go_away(1), go_away(3)].concat()
        }),
        Abuse {
            what: "no preface",
            first: [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], &[0; 64]].concat(),
            step: Box::new(|_| None),
            codes: &[PROTOCOL_ERROR],
        },
    ])
    .await;
}

#[tokio::test]
async fn windows_that_are_overrun_or_overflow_end_the_connection() {
    let overflow = [window_update(0, 0x7fff_ffff), window_update(0, 0x7fff_ffff)].concat();
    let most = settings(&[(4, 0x8000_0000)]);
    // The window is one byte larger than the largest frame.
    let beyond = [connect(1), frame(DATA, 0, 1, &[0; 2]), head(0xff_ffff, DATA, 0, 1)].concat();
    let moved = [connect(1), window_update(1, 0x7fff_0000), settings(&[(4, 65_536)])].concat();
    all(vec![
        fault("DATA beyond the connection's window", &[FLOW_CONTROL_ERROR], &beyond),
        fault("a connection's window beyond the largest", &[FLOW_CONTROL_ERROR], &overflow),
        fault("an initial window beyond the largest", &[FLOW_CONTROL_ERROR], &most),
        fault("SETTINGS that overflow a stream's window", &[FLOW_CONTROL_ERROR], &moved),
    ])
    .await;
}

#[tokio::test]
async fn settings_against_the_rules_end_the_connection_with_their_code() {
    let ack = frame(SETTINGS, ACK, 0, &[]);
    all(vec![
        fault("SETTINGS of 12 MiB", &[ENHANCE_YOUR_CALM], &head(0xc0_0000, SETTINGS, 0, 0)),
        fault("SETTINGS of half an entry", &[FRAME_SIZE_ERROR], &frame(SETTINGS, 0, 0, &[0; 3])),
        fault("SETTINGS acknowledged twice", &[PROTOCOL_ERROR], &ack.repeat(2)),
        fault("frames too small", &[PROTOCOL_ERROR], &settings(&[(5, 1)])),
        fault("frames too large", &[PROTOCOL_ERROR], &settings(&[(5, 1 << 24)])),
        fault("pushing twice", &[PROTOCOL_ERROR], &settings(&[(2, 2)])),
    ])
    .await;
}

#[tokio::test]
async fn a_frame_one_byte_longer_than_allowed_ends_the_connection() {
    let limits = Limits { max_frame: 100_000, ..Limits::default() };
    let fits = frame(DATA, 0, 1, &[0; 100_000]);
    let kinds = [DATA, HEADERS, 0xfa].map(|kind| {
        let longer = [connect(1), fits.clone(), head(100_001, kind, 0, 1)].concat();
        fault("a frame of one byte too much", &[FRAME_SIZE_ERROR], &longer)
    });
    all_under(limits, kinds.into()).await;
}
