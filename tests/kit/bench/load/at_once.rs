//! All connections in the same moment. A connection's time runs from that moment to its answer, so
//! the slowest is also the time that all of them took.

use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::report::{Report, Tally, total};
use super::request::once;
use super::worker::on_threads;

/// Opens all, and with `hold` keeps them open until stdin ends.
pub(super) fn run(to: SocketAddr, connections: u16, hold: bool) -> Result<Report> {
    let (done, elapsed) = on_threads(connections, |gate| {
        let mut tally = Tally::default();
        let start = gate.pass();
        let stream = once(to);
        match &stream {
            Ok(_) => {
                tally.operation(start.elapsed());
                tally.bytes += 2;
            }
            Err(error) => tally.error("connection", error),
        }
        // None is closed before all are open.
        (tally, stream)
    })?;
    let (tallies, streams): (Vec<Tally>, Vec<_>) = done.into_iter().unzip();
    if hold {
        super::print("held")?;
        let mut rest = Vec::new();
        std::io::stdin().take(1).read_to_end(&mut rest).context("wait for the end of the input")?;
    }
    drop(streams);
    Ok(total(tallies, elapsed))
}
