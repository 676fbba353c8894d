//! Threads that start in the same moment, and connections with bounded waits.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::PATIENCE;

const STACK_BYTES: usize = 128 << 10;

/// Holds all threads until each is ready.
#[derive(Debug)]
pub(super) struct Gate {
    barrier: Barrier,
    opened: OnceLock<Instant>,
}

impl Gate {
    /// Waits for the others, and returns the moment in which the first went on.
    pub(super) fn pass(&self) -> Instant {
        self.barrier.wait();
        *self.opened.get_or_init(Instant::now)
    }
}

/// Runs `work` on a thread for each connection; each must pass the gate once, whatever happens.
/// Returns what they did and the time from the gate to the last one's end.
///
/// # Errors
/// A thread cannot be made, or panicked.
pub(super) fn on_threads<T: Send>(
    connections: u16,
    work: impl Fn(&Gate) -> T + Sync,
) -> Result<(Vec<T>, Duration)> {
    let connections = usize::from(connections);
    let gate = Gate { barrier: Barrier::new(connections), opened: OnceLock::new() };
    thread::scope(|scope| {
        let (gate, work) = (&gate, &work);
        let start = |_| {
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, move || work(gate))
        };
        // Those that were made wait at the gate for those that were not: nothing else can be done.
        let started: Vec<_> = (0..connections).map(start).collect();
        if started.iter().any(Result::is_err) {
            tracing::error!("threads cannot be made: raise the limit of processes");
            std::process::exit(1);
        }
        let joined = started.into_iter().flatten().map(thread::ScopedJoinHandle::join);
        let done = joined.collect::<Result<Vec<T>, _>>();
        let done = done.map_err(|_| anyhow::anyhow!("a thread of the load panicked"))?;
        let elapsed = gate.opened.get().context("nobody passed the gate")?.elapsed();
        Ok((done, elapsed))
    })
}

/// A connection whose every wait is bounded.
pub(super) fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
