//! Time as this thread would have it to itself, so that a busy machine does not count as slowness.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// A thread's clock: it stands still while the thread could run and another has its core.
///
/// What it waits for, a timer or bytes, passes as ever.
pub(crate) struct Clock {
    begun: Instant,
    /// What it was robbed of before.
    robbed: Duration,
    schedstat: File,
}

impl Clock {
    /// For this thread.
    pub(crate) fn new() -> Self {
        let schedstat = File::open("/proc/thread-self/schedstat").unwrap();
        let mut this = Self { begun: Instant::now(), robbed: Duration::ZERO, schedstat };
        this.robbed = this.robbed();
        this
    }

    pub(crate) fn now(&self) -> Duration {
        loop {
            let before = self.robbed();
            let now = self.begun.elapsed();
            // Else it was robbed between the two.
            if self.robbed() == before {
                return now.saturating_sub(before.saturating_sub(self.robbed));
            }
        }
    }

    /// How long it could have run and did not: the second number (Documentation/scheduler/sched-stats.rst).
    fn robbed(&self) -> Duration {
        let mut text = [0; 128];
        let length = self.schedstat.read_at(&mut text, 0).unwrap();
        let text = str::from_utf8(&text[..length]).unwrap();
        Duration::from_nanos(text.split_whitespace().nth(1).unwrap().parse().unwrap())
    }
}
