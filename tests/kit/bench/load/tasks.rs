//! Connections as tasks on event loops: what a message costs then is its system calls, not the waking
//! of a thread of its own at each end. Client and server share a machine: each has half of it.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Barrier;
use tokio::task::LocalSet;

/// Holds all tasks until each is ready.
#[derive(Debug)]
pub(super) struct Gate {
    barrier: Barrier,
    opened: OnceLock<Instant>,
}

impl Gate {
    /// Waits for the others, and returns the moment in which the first went on.
    pub(super) async fn pass(&self) -> Instant {
        self.barrier.wait().await;
        *self.opened.get_or_init(Instant::now)
    }
}

/// How many event loops a side has.
pub(super) fn loops() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// An event loop of one thread.
pub(super) fn event_loop() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("make an event loop")
}

/// Runs `work` on a task for each connection; each must pass the gate once, whatever happens.
/// Returns what they did and the time from the gate to the last one's end.
///
/// # Errors
/// An event loop cannot be made, or a task panicked.
pub(super) fn on_tasks<T, W>(
    connections: u16,
    work: impl Fn(Arc<Gate>) -> W + Sync,
) -> Result<(Vec<T>, Duration)>
where
    T: Send + 'static,
    W: Future<Output = T> + 'static,
{
    let connections = usize::from(connections);
    let gate = Gate { barrier: Barrier::new(connections), opened: OnceLock::new() };
    let (gate, work) = (&Arc::new(gate), &work);
    // Made before any runs: a task at the gate waits for all others.
    let runtimes = (0..loops().min(connections)).map(|_| event_loop());
    let runtimes = runtimes.collect::<Result<Vec<_>>>()?;
    let every = runtimes.len();
    thread::scope(|scope| {
        let start = |(first, runtime): (usize, Runtime)| {
            scope.spawn(move || -> Result<Vec<T>> {
                let tasks = LocalSet::new();
                let spawn = |_| tasks.spawn_local(work(Arc::clone(gate)));
                let handles: Vec<_> = (first..connections).step_by(every).map(spawn).collect();
                let all = tasks.block_on(&runtime, futures::future::try_join_all(handles));
                all.context("a task of the load panicked")
            })
        };
        let started: Vec<_> = runtimes.into_iter().enumerate().map(start).collect();
        let mut done = Vec::with_capacity(connections);
        for thread in started {
            let part = thread.join();
            done.extend(part.map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??);
        }
        let elapsed = gate.opened.get().context("nobody passed the gate")?.elapsed();
        Ok((done, elapsed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tasks_wait_for_the_last_and_each_is_heard() {
        let (done, elapsed) = on_tasks(50, |gate| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let passed = gate.pass().await;
            (passed, passed.elapsed())
        })
        .unwrap();
        assert_eq!(done.len(), 50);
        assert!(done.iter().all(|(passed, _)| *passed == done[0].0));
        assert!(done.iter().all(|(_, since)| *since <= elapsed));
    }
}
