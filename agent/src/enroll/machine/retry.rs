//! When to try again.

use tokio::time::Instant;

use super::Timing;

/// Failures in a row that are no accident.
const STUCK: u32 = 3;

/// Backoff of one kind of action.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    failures: u32,
    at: Instant,
}

impl Retry {
    pub(super) fn now(now: Instant) -> Self {
        Self { failures: 0, at: now }
    }

    /// The same row of failures, tried again at another time.
    pub(super) fn at_time(self, at: Instant) -> Self {
        Self { at, ..self }
    }

    pub(super) fn failed(&mut self, timing: &Timing, now: Instant) {
        let pause = timing.retry_first.saturating_mul(1 << self.failures.min(16));
        self.at = now + pause.min(timing.retry_most);
        self.failures += 1;
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.at
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// It will not do better soon: so many failures in a row.
    pub(super) fn is_stuck(&self) -> bool {
        self.failures >= STUCK
    }

    /// This failure is the one that made it so.
    pub(super) fn has_just_stuck(&self) -> bool {
        self.failures == STUCK
    }

    /// The first failure in a row: the one worth a warning.
    pub(super) fn is_fresh(&self) -> bool {
        self.failures <= 1
    }
}
