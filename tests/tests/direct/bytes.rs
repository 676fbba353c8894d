//! Bytes of which each tells its stream and its place, compared one by one on arrival: stronger than
//! a checksum, and as quick as memory even without optimisation.

use std::sync::LazyLock;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A prime: no block of another size repeats with it.
const PERIOD: usize = 1_000_003;
/// The longest part handed out.
pub(crate) const PART: usize = 256 << 10;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise: Vec<u8> = (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    noise.extend_from_within(..PART);
    noise
});

/// Bytes `at..at + length` of what flow `seed` carries; `length` is at most [`PART`].
pub(crate) fn part(seed: u64, at: u64, length: usize) -> &'static [u8] {
    let start = usize::try_from((seed * 7919 + at) % 1_000_003).unwrap();
    &NOISE[start..start + length]
}

/// What arrives of a flow.
pub(crate) struct Arriving {
    seed: u64,
    pub(crate) at: u64,
}

impl Arriving {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// Panics at the first wrong byte.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(PART) {
            let same = part(self.seed, self.at, bytes.len()) == bytes;
            assert!(same, "flow {} differs after byte {}", self.seed, self.at);
            self.at += bytes.len() as u64;
        }
    }
}

/// Sends `total` bytes of flow `seed`; the end is left open.
pub(crate) async fn send(into: &mut (impl AsyncWrite + Unpin), seed: u64, total: u64) {
    let mut at = 0;
    while at < total {
        let length = usize::try_from(total - at).map_or(PART, |left| left.min(PART));
        into.write_all(part(seed, at, length)).await.unwrap();
        at += length as u64;
    }
}

/// Receives `total` bytes of flow `seed`, and nothing else up to the end.
pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin), seed: u64, total: u64) {
    let (mut arriving, mut buffer) = (Arriving::new(seed), vec![0; PART]);
    loop {
        let read = from.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        arriving.take(&buffer[..read]);
    }
    assert_eq!(arriving.at, total, "flow {seed} ends early or late");
}

/// Sends one flow and receives another, both to their ends.
pub(crate) async fn exchange(mut app: TcpStream, (up, down): (u64, u64), total: u64) {
    let (mut read, mut write) = app.split();
    let sending = async {
        send(&mut write, up, total).await;
        write.shutdown().await.unwrap();
    };
    tokio::join!(sending, receive(&mut read, down, total));
}
