//! All connections in the same moment. A connection's time runs from that moment to its answer, so
//! the slowest is also the time that all of them took.

use std::io::{self, Read};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use futures::FutureExt;

use super::connection::{Wait, once};
use super::report::{Report, Tally, total};
use super::worker::on_threads;

/// Opens all, and with `hold` keeps them open until stdin ends.
pub(super) fn run(to: SocketAddr, connections: u16, hold: bool) -> Result<Report> {
    // A thread each: an event loop would open them one after the other.
    let (done, elapsed) = on_threads(connections, |gate| {
        let mut tally = Tally::default();
        let start = gate.pass();
        let connection = once(to, Wait::Thread).now_or_never();
        let connection = connection.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()));
        match &connection {
            Ok(_) => {
                tally.operation(start.elapsed());
                tally.bytes += 2;
            }
            Err(error) => tally.error("connection", error),
        }
        // None is closed before all are open.
        (tally, connection)
    })?;
    let (tallies, connections): (Vec<Tally>, Vec<_>) = done.into_iter().unzip();
    if hold {
        super::print("held")?;
        let mut rest = Vec::new();
        io::stdin().take(1).read_to_end(&mut rest).context("wait for the end of the input")?;
    }
    drop(connections);
    Ok(total(tallies, elapsed))
}
