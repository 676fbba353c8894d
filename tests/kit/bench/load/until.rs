//! How long it takes until somebody answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::PATIENCE;

/// Between two tries.
const PAUSE: Duration = Duration::from_micros(50);

/// For each line that comes: connects until a byte comes back, and prints after how many microseconds it did.
pub(super) fn run(to: SocketAddr) -> Result<()> {
    for line in io::stdin().lines() {
        line.context("read a line")?;
        let begun = Instant::now();
        while let Err(error) = answer(to) {
            if begun.elapsed() >= PATIENCE {
                return Err(error).with_context(|| format!("{to} does not answer"));
            }
            std::thread::sleep(PAUSE);
        }
        super::print(&begun.elapsed().as_micros().to_string())?;
    }
    Ok(())
}

fn answer(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[7])?;
    stream.read_exact(&mut [0])
}
