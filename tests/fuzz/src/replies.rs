//! What a server may send to a client, and what the client does meanwhile, from bytes: most of it
//! makes sense.

use super::script::{
    Bytes, END_HEADERS, END_STREAM, PADDED, PRIORITY, data, field, frame, settings,
};

/// A step of a script.
#[derive(Debug)]
pub enum Step {
    /// The server sends this.
    Frames(Vec<u8>),
    /// The client opens its next tunnel.
    Open,
    /// It sends so many bytes, as far as it may.
    Send(u32, usize),
    /// It ends its side of the stream.
    Finish(u32),
    /// It resets the stream.
    Cancel(u32),
}

/// At most so many steps, so that no budget against abuse is used up.
const MOST: usize = 40;

/// The steps that the bytes stand for.
pub fn replies(data: &[u8]) -> Vec<Step> {
    let mut bytes = Bytes::new(data);
    let mut steps = Vec::new();
    while !bytes.left.is_empty() && steps.len() < MOST {
        steps.push(one(&mut bytes));
    }
    steps
}

fn one(bytes: &mut Bytes<'_>) -> Step {
    let kind = bytes.next() % 24;
    if kind <= 2 || bytes.last == 0 {
        bytes.last += 2;
        return Step::Open;
    }
    let id = bytes.stream();
    Step::Frames(match kind {
        3..=7 => answer(bytes, id),
        8..=11 => data(bytes, id),
        // A tunnel has no trailers; the crate allows them.
        12 if bytes.posts.contains(&id) => trailers(bytes, id),
        12 => data(bytes, id),
        13 | 14 => {
            let id = if bytes.next().is_multiple_of(2) { 0 } else { id };
            let increment = bytes.of(&[1u32, 100, 1000, 65_535, 65_535, 1 << 30, MAX_31, 0]);
            frame(8, 0, id, &increment.to_be_bytes())
        }
        15 => frame(3, 0, id, &[0, 0, 0, bytes.next() % 16]),
        16 => frame(6, bytes.flag(1), 0, &[bytes.next(); 8]),
        17 => settings(bytes),
        18 => of_no_use(bytes, id),
        19 => return Step::Finish(id),
        20 => return Step::Cancel(id),
        _ => {
            let count = usize::from(bytes.next()) * bytes.of(&[1, 100, 100, 1000]);
            return Step::Send(id, count);
        }
    })
}

const MAX_31: u32 = (1 << 31) - 1;

/// What seldom comes, or never should.
fn of_no_use(bytes: &mut Bytes<'_>, id: u32) -> Vec<u8> {
    match bytes.next() % 16 {
        // The end of everything comes but now and then.
        0 => frame(5, END_HEADERS, id, &[&[0, 0, 0, 2, 0x82, 0x84, 0x86][..]].concat()),
        1 => frame(9, END_HEADERS, id, &field("a", "b")),
        // The crate lets a server turn pushing on.
        2 => frame(4, 0, 0, &[0, 2, 0, 0, 0, bytes.of(&[0, 2])]),
        3 => frame(1, END_HEADERS, id, &vec![bytes.next(); usize::from(bytes.next() % 32)]),
        4 => frame(4, 1, 0, &[]),
        5..=8 => {
            let last = bytes.of(&[0, 1, 3, 5, MAX_31, MAX_31]);
            let code = u32::from(bytes.next() % 4);
            frame(7, 0, 0, &[&last.to_be_bytes()[..], &code.to_be_bytes(), b"debug"].concat())
        }
        9 | 10 => frame(2, 0, id, &[0, 0, 0, 0, 9]),
        _ => frame(0x20 + bytes.next() % 64, bytes.next(), id, &vec![1; usize::from(bytes.next())]),
    }
}

/// HEADERS of an answer, final or not, perhaps with a field that must not be, perhaps in pieces.
fn answer(bytes: &mut Bytes<'_>, id: u32) -> Vec<u8> {
    let status = bytes.of(&["200", "200", "200", "200", "201", "404", "503", "100", "103"]);
    let mut block = field(":status", status);
    let no_tunnel = !status.starts_with('2');
    if no_tunnel {
        bytes.posts.push(id);
    }
    match bytes.next() {
        0 => block.extend(field(":status", "200")),
        1 => block.extend(field("Upper", "x")),
        2 => block.extend(field("connection", "close")),
        3 => block.extend(field("te", "gzip")),
        4 => block = [field("name", "value"), block].concat(),
        5 => block.extend(field("name", "a\0b")),
        6 => block = field("a", "b"),
        7..=9 => block.extend(field("x-large", &"v".repeat(250)).repeat(8)),
        10..=60 => block.extend(field("server", "a")),
        // Of a tunnel it means nothing, and nobody asks for it before the last answer; the crate does.
        61..=90 if no_tunnel && !status.starts_with('1') => {
            let length = bytes.of(&["0", "5", "100", "200", "1000", "-1", "18446744073709551616"]);
            block.extend(field("content-length", length));
        }
        _ => {}
    }
    // The crate lets an answer that is not the last be the end.
    let may_end = !status.starts_with('1');
    let end = if bytes.next().is_multiple_of(8) && may_end { END_STREAM } else { 0 };
    in_frames(bytes, id, end, block)
}

fn trailers(bytes: &mut Bytes<'_>, id: u32) -> Vec<u8> {
    let name = bytes.of(&["x-trailer", "x-trailer", "x-trailer", "Upper", "connection"]);
    let end = if bytes.next().is_multiple_of(8) { 0 } else { END_STREAM };
    in_frames(bytes, id, end, field(name, "t"))
}

/// HEADERS, padded or with a priority or with CONTINUATION, or none of it.
fn in_frames(bytes: &mut Bytes<'_>, id: u32, end: u8, block: Vec<u8>) -> Vec<u8> {
    match bytes.next() % 8 {
        0 => frame(1, end | END_HEADERS | PADDED, id, &[&[2], &block[..], &[0, 0]].concat()),
        1 => {
            let priority = [0, 0, 0, 0, 9];
            frame(1, end | END_HEADERS | PRIORITY, id, &[&priority[..], &block].concat())
        }
        2 => {
            let (first, rest) = block.split_at(block.len() / 2);
            [frame(1, end, id, first), frame(9, END_HEADERS, id, rest)].concat()
        }
        _ => frame(1, end | END_HEADERS, id, &block),
    }
}
