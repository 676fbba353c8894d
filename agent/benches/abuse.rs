//! What each abuse of HTTP/2 costs us for a byte of it, in instructions, until it ends the connection.
//!
//! Instructions are counted by callgrind, so the figures say the same on a busy machine:
//! `cargo bench --bench abuse` runs itself under `valgrind`. What an honest peer costs stands first.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use http::{HeaderMap, StatusCode};
use sotto::tunnel::h2::{Config, Connection, Event};

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Instructions for a byte that no peer may exceed. An honest request costs 60; the most is what moves the
/// windows of all streams, which a peer may do 200 times, and then 50 times a second.
const MOST_PER_BYTE: u64 = 400;

/// Steps of an abuse at most: each ends the connection long before.
const MOST_STEPS: u32 = 3000;

/// What a peer does: a name, how many tunnels it has open, and its steps.
struct Load {
    what: &'static str,
    tunnels: u32,
    step: Box<dyn Fn(u32) -> Vec<u8>>,
    steps: u32,
    /// Whether requests are answered at once.
    answered: bool,
}

fn main() -> ExitCode {
    // cargo passes `--bench`.
    let result =
        match std::env::args().find_map(|word| word.strip_prefix("run=").map(str::to_owned)) {
            Some(what) => run(&what),
            None => table(),
        };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one load; prints how many bytes were taken.
fn run(what: &str) -> Result<()> {
    let load = loads().into_iter().find(|load| load.what == what).context("no such load")?;
    let mut server = serving(load.tunnels);
    let first = 2 * load.tunnels + 1;
    let mut taken = 0;
    for n in 0..load.steps {
        let input = (load.step)(first + 2 * n);
        taken += input.len();
        if !suffer(&mut server, &input, load.answered) {
            break;
        }
    }
    println!("{taken}");
    Ok(())
}

/// What is counted: one step. Tells whether the connection goes on.
#[inline(never)]
fn suffer(server: &mut Connection, input: &[u8], answered: bool) -> bool {
    let goes_on = feed(server, input, answered);
    server.take_output(&mut Vec::new());
    goes_on
}

fn feed(server: &mut Connection, mut rest: &[u8], answered: bool) -> bool {
    loop {
        match server.receive(rest) {
            Err(_) => return false,
            Ok((_, None)) => return true,
            Ok((taken, Some(event))) => {
                rest = &rest[taken..];
                match event {
                    Event::Request { id, .. } if answered => {
                        // A stream that is gone needs no answer.
                        server.respond(id, StatusCode::OK, &HeaderMap::new(), false).ok();
                    }
                    Event::Data { id, bytes } => server.consumed(id, bytes.len(), true),
                    _ => {}
                }
            }
        }
    }
}

fn table() -> Result<()> {
    println!("{:<38} {:>9} {:>12} {:>7}", "what a peer does", "bytes", "instructions", "a byte");
    let mut worst = Vec::new();
    for Load { what, .. } in loads() {
        let (bytes, instructions) = counted(what)?;
        let each = instructions / bytes;
        println!("{what:<38} {bytes:>9} {instructions:>12} {each:>7}");
        if each > MOST_PER_BYTE {
            worst.push(what);
        }
    }
    ensure!(
        worst.is_empty(),
        "more than {MOST_PER_BYTE} instructions a byte: {}",
        worst.join(", ")
    );
    Ok(())
}

/// Bytes and instructions of a load, in a process of its own.
fn counted(what: &str) -> Result<(u64, u64)> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*suffer*"])
        .arg(std::env::current_exe()?)
        .arg(format!("run={what}"))
        .output()
        .context("valgrind is needed (Debian's package of that name)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {said}");
    let number = |text: &str| text.trim().parse().with_context(|| format!("{what}: {said}"));
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")).context("no count")?;
    Ok((number(&String::from_utf8_lossy(&output.stdout))?, number(collected.1)?))
}

/// A server with so many tunnels open.
fn serving(tunnels: u32) -> Connection {
    let mut server = Connection::server(Config::default());
    let mut input = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    input.extend(frame(SETTINGS, 0, 0, &[]));
    input.extend(frame(SETTINGS, ACK, 0, &[]));
    input.extend((0..tunnels).flat_map(|n| connect(2 * n + 1)));
    assert!(feed(&mut server, &input, true), "an honest introduction");
    server.take_output(&mut Vec::new());
    server
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal that is not remembered.
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

fn request() -> Vec<u8> {
    [field(":method", "CONNECT"), field(":authority", "10.0.0.1:80")].concat()
}

fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block)
}

fn connect(stream: u32) -> Vec<u8> {
    headers(stream, &request())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &entries.iter().flat_map(entry).collect::<Vec<u8>>())
}

fn honest(what: &'static str, tunnels: u32, steps: u32, step: fn(u32) -> Vec<u8>) -> Load {
    Load { what, tunnels, step: Box::new(step), steps, answered: true }
}

fn abuse(what: &'static str, tunnels: u32, step: impl Fn(u32) -> Vec<u8> + 'static) -> Load {
    Load { what, tunnels, step: Box::new(step), steps: MOST_STEPS, answered: false }
}

fn loads() -> Vec<Load> {
    let mut all = vec![
        honest("honest: CONNECT, then closed", 0, 1000, |id| [connect(id), reset(id)].concat()),
        honest("honest: DATA of 1 KiB", 1, 1000, |_| frame(DATA, 0, 1, &[7; 1024])),
        honest("honest: DATA of a byte", 1, 1000, |_| frame(DATA, 0, 1, &[7])),
    ];
    all.extend(frames_without_use());
    all.extend(header_blocks());
    all.extend(streams());
    all
}

fn frames_without_use() -> Vec<Load> {
    let windows: Vec<(u16, u32)> = (0..100).map(|n| (4, 1 << 16 | n)).collect();
    let table: Vec<(u16, u32)> = (0..100).map(|n| (1, n % 2 * 4096)).collect();
    vec![
        abuse("PING", 0, |_| frame(PING, 0, 0, &[0; 8])),
        abuse("PING never asked for", 0, |_| frame(PING, ACK, 0, &[0; 8])),
        abuse("empty SETTINGS", 0, |_| settings(&[])),
        abuse("SETTINGS: 100 windows, 1 stream", 1, {
            let windows = windows.clone();
            move |_| settings(&windows)
        }),
        abuse("SETTINGS: 100 windows, 199 streams", 199, move |_| settings(&windows)),
        abuse("SETTINGS: a window, 199 streams", 199, |id| settings(&[(4, 1 << 16 | id)])),
        abuse("SETTINGS: 100 table sizes", 0, move |_| settings(&table)),
        abuse("empty DATA", 1, |_| frame(DATA, 0, 1, &[])),
        abuse("PRIORITY", 0, |id| frame(PRIORITY, 0, id, &[0; 5])),
        abuse("WINDOW_UPDATE, connection", 1, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        abuse("WINDOW_UPDATE, stream", 1, |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        abuse("GOAWAY, 199 streams", 199, |_| frame(GOAWAY, 0, 0, &[0; 8])),
        abuse("a kind that nobody knows", 0, |_| frame(0xfa, 0, 0, &[])),
    ]
}

fn header_blocks() -> Vec<Load> {
    let with = |more: &[u8]| [&request()[..], more].concat();
    // One entry as large as the table: its name, or its value, is referred to again and again.
    let name = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000], &[0]].concat();
    let value = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let names = with(&[name.clone(), [0x7e, 0].repeat(25_000)].concat());
    let plain_names = with(&[name, [0x0f, 62 - 15, 0].repeat(18_000)].concat());
    let values = with(&[value, vec![0x80 | 62; 60_000]].concat());
    let small = with(&[0x80 | 15; 60_000]);
    let inserted = with(&[0x40, 0, 0].repeat(20_000));
    let sizes = [&[0x20, 0x3f, 0xe1, 0x1f].repeat(15_000)[..], &request()].concat();
    // Codes of 30 bits, the longest there are.
    let huffman = with(&[&[0, 1, b'a', 0x7f | 0x80, 0x81, 0x7d][..], &[0xff; 16_384]].concat());
    let letters = with(&[&[0, 1, b'a', 0x7f | 0x80, 0x81, 0x7d][..], &[0; 16_384]].concat());
    let long = with(&field("a", &"x".repeat(100)).repeat(500));
    let begun = |id| frame(HEADERS, 0, id, &request());
    vec![
        abuse("table sizes", 0, move |id| headers(id, &sizes)),
        abuse("a large name, inserted again", 0, move |id| headers(id, &names)),
        abuse("a large name, not inserted", 0, move |id| headers(id, &plain_names)),
        abuse("a large value, referred to", 0, move |id| headers(id, &values)),
        abuse("small fields, referred to", 0, move |id| headers(id, &small)),
        abuse("empty fields, inserted", 0, move |id| headers(id, &inserted)),
        abuse("Huffman, not a code", 0, move |id| headers(id, &huffman)),
        abuse("Huffman, short codes", 0, move |id| headers(id, &letters)),
        abuse("500 fields of 100 bytes", 0, move |id| headers(id, &long)),
        abuse("CONTINUATION of nothing", 0, move |id| {
            [begun(id), frame(CONTINUATION, 0, id, &[]).repeat(31)].concat()
        }),
        abuse("CONTINUATION of a byte", 0, move |id| {
            let last = frame(CONTINUATION, END_HEADERS, id, &[]);
            [begun(id), frame(CONTINUATION, 0, id, &[0x80 | 15]).repeat(31), last].concat()
        }),
    ]
}

fn streams() -> Vec<Load> {
    let zero = |id| frame(WINDOW_UPDATE, 0, id, &[0; 4]);
    vec![
        abuse("rapid reset", 0, |id| [connect(id), reset(id)].concat()),
        abuse("more streams than allowed", 200, connect),
        abuse("WINDOW_UPDATE by 0", 0, move |id| [connect(id), zero(id)].concat()),
        abuse("no method", 0, |id| headers(id, &field(":authority", "a:1"))),
        abuse("HEADERS in a tunnel", 0, |id| [connect(id), headers(id, &request())].concat()),
        abuse("DATA beyond the window", 0, |id| {
            [connect(id), frame(DATA, 0, id, &[0; 300_000])].concat()
        }),
        abuse("DATA for a stream that was reset", 0, move |id| {
            [connect(id), zero(id), frame(DATA, 0, id, &[0])].concat()
        }),
    ]
}
