//! Requests on connections that stay, and connections of one byte each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::timeout;

use super::PATIENCE;
use super::connection::{Message, Wait, first, once};
use super::report::{Report, Tally, total};
use super::tasks::on_tasks;

/// Bounds the memory of a load; no machine reaches it within its time.
const MAX_REQUESTS: usize = 50_000_000;
/// Bounds what connections leave behind in connection tracking and in TIME_WAIT.
const MAX_CONNECTIONS: usize = 30_000;
/// The same for a load that is to go on as long as it may: every port is used many times then.
const MAX_CHURN: usize = 3_000_000;
/// A connection's task gives up after so many failures.
const MAX_ERRORS: usize = 20;

/// `bytes` there and back, again and again, the first time before the clock starts.
pub(super) fn requests(
    to: SocketAddr,
    connections: u16,
    duration: Duration,
    bytes: usize,
) -> Result<Report> {
    let limit = MAX_REQUESTS / usize::from(connections);
    let wait = Wait::of(connections);
    let (tallies, elapsed) = on_tasks(connections, move |gate| async move {
        let mut tally = Tally::default();
        let mut message = Message::new(bytes);
        let stream = first(to, wait, &mut message).await;
        let until = gate.pass().await + duration;
        let driven = async {
            let mut stream = stream?;
            let mut now = Instant::now();
            while now < until && tally.count() < limit {
                message.exchange(&mut stream).await?;
                let done = Instant::now();
                tally.operation(done - now);
                tally.bytes += 2 * bytes as u64;
                now = done;
            }
            Ok(())
        };
        // One bound for all of it: one for each exchange would cost as much as a system call.
        let driven = timeout(duration + PATIENCE, driven).await;
        if let Err(error) = driven.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            tally.error("request", &error);
        }
        tally
    })?;
    Ok(total(tallies, elapsed))
}

/// Connect, one byte there and back, close, again and again.
pub(super) fn connects(to: SocketAddr, connections: u16, duration: Duration) -> Result<Report> {
    limited(to, connections, duration, MAX_CONNECTIONS)
}

/// As [`connects`], however many there are.
pub(super) fn churn(to: SocketAddr, connections: u16, duration: Duration) -> Result<Report> {
    limited(to, connections, duration, MAX_CHURN)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn limited(to: SocketAddr, connections: u16, duration: Duration, most: usize) -> Result<Report> {
    let limit = most / usize::from(connections);
    let last_part = duration / 5;
    let wait = Wait::of(connections);
    let (tallies, elapsed) = on_tasks(connections, move |gate| async move {
        let mut tally = Tally::default();
        let mut errors = 0;
        if let Err(error) = once(to, wait).await {
            tally.error("connection", &error);
        }
        let until = gate.pass().await + duration;
        let mut now = Instant::now();
        while now < until && tally.count() < limit && errors < MAX_ERRORS {
            let done = once(to, wait).await.map(drop);
            let end = Instant::now();
            match done {
                Ok(()) => {
                    tally.operation(end - now);
                    tally.bytes += 2;
                    tally.late += u64::from(end + last_part > until && end <= until);
                }
                Err(error) => {
                    tally.error("connection", &error);
                    errors += 1;
                }
            }
            now = end;
        }
        tally
    })?;
    let late: u64 = tallies.iter().map(|tally| tally.late).sum();
    let late_rate = late as f64 / last_part.as_secs_f64();
    Ok(Report { late_rate, ..total(tallies, elapsed) })
}
