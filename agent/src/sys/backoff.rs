//! How often somebody is asked again who does not answer.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;

/// After the first failure, before jitter.
const FIRST: Duration = Duration::from_secs(1);
/// After many: all come back within this time, and not at once.
const MOST: Duration = Duration::from_secs(30);
/// A failure after so long a time without one is the first again.
const CALM: Duration = Duration::from_secs(120);

/// Pauses that double from failure to failure, until something was really learned.
///
/// A watcher of the API server says that it begins anew before each attempt: to have heard one thing alone is no success. By
/// that, an API server that is away would be asked by every node each second, and each failure be logged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patient {
    failures: u32,
    /// Since the last failure.
    heard: u32,
    failed_at: Option<Instant>,
}

impl Iterator for Patient {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.failed_at.is_some_and(|at| at.elapsed() > CALM) {
            self.failures = 0;
        }
        let pause = FIRST.saturating_mul(1 << self.failures.min(8)).min(MOST);
        *self = Self { failures: self.failures + 1, heard: 0, failed_at: Some(Instant::now()) };
        Some(pause.mul_f64(rand::rng().random_range(0.5..1.0)))
    }
}

impl Patient {
    /// Something was heard.
    pub fn hear(&mut self) {
        self.heard += 1;
        if self.heard > 1 {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patient: &mut Patient, most: Duration) {
        let pause = patient.next().unwrap();
        assert!(pause <= most && pause * 2 >= most, "{pause:?}, not {most:?} or half of it");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_alone_is_no_success() {
        let mut patient = Patient::default();
        for most in [1, 2, 4, 8, 16, 30, 30] {
            patient.hear();
            check(&mut patient, Duration::from_secs(most));
        }
        patient.hear();
        patient.hear();
        check(&mut patient, FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_now_and_then_is_the_first_each_time() {
        let mut patient = Patient::default();
        for _ in 0..3 {
            check(&mut patient, FIRST);
            tokio::time::advance(CALM + FIRST).await;
        }
    }
}
