//! As many bytes as fit. What counts is what the receiver had, and the time until it had it all.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::{Report, Tally, total};
use super::serve::BLOCK_BYTES;
use super::worker::{on_threads, open};

/// To the sink.
pub(super) fn up(to: SocketAddr, connections: u16, duration: Duration) -> Result<Report> {
    streams(to, connections, |stream, start| pour(stream, start + duration))
}

/// From the source.
pub(super) fn down(to: SocketAddr, connections: u16, duration: Duration) -> Result<Report> {
    streams(to, connections, |stream, _| receive(stream, duration))
}

fn streams(
    to: SocketAddr,
    connections: u16,
    transfer: impl Fn(&TcpStream, Instant) -> io::Result<u64> + Sync,
) -> Result<Report> {
    let (tallies, elapsed) = on_threads(connections, |gate| {
        let mut tally = Tally::default();
        let stream = open(to);
        let start = gate.pass();
        match stream.and_then(|stream| transfer(&stream, start)) {
            Ok(bytes) => tally.bytes = bytes,
            Err(error) => tally.error("stream", &error),
        }
        tally
    })?;
    Ok(total(tallies, elapsed))
}

fn pour(mut stream: &TcpStream, until: Instant) -> io::Result<u64> {
    let block = vec![0x5a; BLOCK_BYTES];
    let mut sent = 0_u64;
    while Instant::now() < until {
        stream.write_all(&block)?;
        sent += block.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut word = [0; 8];
    stream.read_exact(&mut word)?;
    agree(sent, u64::from_be_bytes(word))
}

/// The source's last eight bytes are its own count.
fn receive(mut stream: &TcpStream, duration: Duration) -> io::Result<u64> {
    let millis = u64::try_from(duration.as_millis()).map_err(io::Error::other)?;
    stream.write_all(&millis.to_be_bytes())?;
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut last = [0; 8];
    let mut received = 0_u64;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        received += count as u64;
        keep_last(&mut last, &buffer[..count]);
    }
    agree(u64::from_be_bytes(last), received.saturating_sub(8))
}

/// Keeps the last eight bytes of a stream that comes in pieces.
fn keep_last(last: &mut [u8; 8], piece: &[u8]) {
    let new = piece.len().min(8);
    last.copy_within(new.., 0);
    last[8 - new..].copy_from_slice(&piece[piece.len() - new..]);
}

fn agree(sent: u64, received: u64) -> io::Result<u64> {
    if sent != received {
        return Err(io::Error::other(format!("{sent} bytes sent, {received} received")));
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept_however_they_come() {
        let stream: Vec<u8> = (1..=20).collect();
        for size in 1..=20 {
            let mut last = [0; 8];
            stream.chunks(size).for_each(|piece| keep_last(&mut last, piece));
            assert_eq!(last, [13, 14, 15, 16, 17, 18, 19, 20], "pieces of {size}");
        }
    }

    #[test]
    fn ends_that_disagree_are_an_error() {
        assert_eq!(agree(5, 5).unwrap(), 5);
        assert!(agree(5, 4).is_err());
    }
}
