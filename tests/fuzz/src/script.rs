//! What a client may send to a server, from bytes: most of it makes sense.

/// Takes small numbers off the front of the input; 0 when there is none.
pub struct Bytes<'a> {
    pub left: &'a [u8],
    /// The last stream opened.
    pub last: u32,
    /// Those that are no tunnels.
    pub posts: Vec<u32>,
}

impl<'a> Bytes<'a> {
    pub fn new(left: &'a [u8]) -> Self {
        Self { left, last: 0, posts: Vec::new() }
    }

    /// A stream: mostly one that was opened, seldom one that must not be named.
    pub fn stream(&mut self) -> u32 {
        let choice = self.next();
        match choice {
            253 => 0,
            254 => 2,
            255 => self.last + 4,
            _ => u32::from(choice) % (self.last / 2 + 1).max(1) * 2 + 1,
        }
    }

    /// A stream to be opened: mostly the next one.
    fn fresh(&mut self) -> u32 {
        match self.next() {
            0 => self.stream(),
            choice => {
                self.last += if choice == 1 { 4 } else { 2 };
                self.last - 1
            }
        }
    }

    pub fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.left.split_first() else { return 0 };
        self.left = rest;
        *first
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.next()) % choices.len()]
    }

    pub fn flag(&mut self, flag: u8) -> u8 {
        if self.next().is_multiple_of(4) { flag } else { 0 }
    }
}

pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const PRIORITY: u8 = 0x20;

/// At most so many frames, so that no budget against abuse is used up.
const MOST: usize = 30;

/// The frames that the bytes stand for.
pub fn script(data: &[u8]) -> Vec<Vec<u8>> {
    let mut bytes = Bytes::new(data);
    let mut frames = Vec::new();
    while !bytes.left.is_empty() && frames.len() < MOST {
        frames.push(one(&mut bytes));
    }
    frames
}

fn one(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let kind = bytes.next() % 16;
    if kind <= 3 || bytes.last == 0 {
        let id = bytes.fresh();
        return request(bytes, id);
    }
    let id = bytes.stream();
    match kind {
        4..=7 => data(bytes, id),
        8 => {
            let id = if bytes.next().is_multiple_of(2) { 0 } else { id };
            let increment =
                bytes.of(&[1u32, 100, 100, 1000, 1000, 65_535, 65_535, 1 << 30, (1 << 31) - 1, 0]);
            frame(8, 0, id, &increment.to_be_bytes())
        }
        9 => frame(3, 0, id, &[0, 0, 0, bytes.next() % 16]),
        10 => frame(6, bytes.flag(1), 0, &[bytes.next(); 8]),
        11 => settings(bytes),
        12 => {
            frame(0x20 + bytes.next() % 64, bytes.next(), id, &vec![1; usize::from(bytes.next())])
        }
        13 => frame(2, 0, id, &[0, 0, 0, 0, 9]),
        // A tunnel has no trailers; the crate allows them.
        14 if bytes.posts.contains(&id) => {
            frame(1, END_HEADERS | END_STREAM, id, &field("x-trailer", "t"))
        }
        14 => data(bytes, id),
        _ => {
            let id = bytes.fresh();
            block(bytes, id)
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or(0);
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// HEADERS that open a stream, perhaps with a field that must not be, perhaps in pieces.
fn request(bytes: &mut Bytes<'_>, id: u32) -> Vec<u8> {
    let post = [field(":method", "POST"), field(":scheme", "http"), field(":path", "/x")].concat();
    let connect = [field(":method", "CONNECT"), field(":authority", "a:1")].concat();
    let mut block = connect;
    if bytes.next().is_multiple_of(3) {
        block = post;
        bytes.posts.push(id);
    }
    match bytes.next() {
        0 => block.extend(field(":method", "GET")),
        1 => block.extend(field("Upper", "x")),
        2 => block.extend(field("connection", "close")),
        3 => block.extend(field("te", "gzip")),
        4 => block.extend(field(":status", "200")),
        5 => block.extend(field("name", "a\0b")),
        6 => block = field("a", "b"),
        7..=9 => block.extend(field("x-large", &"v".repeat(250)).repeat(8)),
        10..=60 => block.extend(field("baggage", "a=b")),
        _ => {}
    }
    let mut flags = bytes.flag(END_STREAM);
    let mut start = Vec::new();
    match bytes.next() % 8 {
        0 => {
            flags |= PADDED;
            start.push(2);
            block.extend([0, 0]);
        }
        1 => {
            flags |= PRIORITY;
            start.extend([0, 0, 0, 0, 9]);
        }
        2 => {
            let (first, rest) = block.split_at(block.len() / 2);
            let second = frame(9, END_HEADERS, id, rest);
            return [frame(1, flags, id, first), second].concat();
        }
        _ => {}
    }
    frame(1, flags | END_HEADERS, id, &[start, block].concat())
}

pub fn data(bytes: &mut Bytes<'_>, id: u32) -> Vec<u8> {
    let flags = bytes.flag(END_STREAM);
    let count = usize::from(bytes.next()) * usize::from(bytes.of(&[1u8, 1, 2, 5]));
    let content = vec![bytes.next(); count];
    if !bytes.next().is_multiple_of(4) {
        return frame(0, flags, id, &content);
    }
    let padding = bytes.next() % 16;
    let padded = [&[padding][..], &content, &vec![0; usize::from(padding)]].concat();
    frame(0, flags | PADDED, id, &padded)
}

pub fn settings(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let setting = bytes.of(&[
        (1u16, 0u32),
        (1, 4096),
        (2, 0),
        (3, 5),
        (4, 1000),
        (4, 65_535),
        (4, 0),
        (4, 100_000),
        (4, (1 << 31) - 1),
        (5, 16_384),
        (6, 100),
        (99, 7),
    ]);
    frame(4, 0, 0, &[&setting.0.to_be_bytes()[..], &setting.1.to_be_bytes()].concat())
}

/// HEADERS with a block of any bytes behind a request's.
fn block(bytes: &mut Bytes<'_>, id: u32) -> Vec<u8> {
    let mut block = [field(":method", "CONNECT"), field(":authority", "a:1")].concat();
    for _ in 0..bytes.next() % 32 {
        block.push(bytes.next());
    }
    frame(1, END_HEADERS, id, &block)
}
