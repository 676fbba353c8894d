//! How long to wait before the next connection.

use std::time::Duration;

use rand::Rng;

/// After a connection that worked, the next follows almost at once.
const FIRST: Duration = Duration::from_millis(10);
/// A control plane that is away for long is asked this often.
const LONGEST: Duration = Duration::from_secs(15);

/// Doubles from failure to failure, with jitter so that nodes do not come back in step.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Starts over, after a connection that worked.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The next delay: between half of the current step and all of it.
    pub(super) fn delay(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_start_over_after_success() {
        let mut rng = rand::rng();
        let mut backoff = Backoff::new();
        let mut step = FIRST;
        for _ in 0..20 {
            let delay = backoff.delay(&mut rng);
            assert!(delay >= step / 2 && delay <= step, "{delay:?} is not about {step:?}");
            step = (step * 2).min(LONGEST);
        }
        assert!(backoff.delay(&mut rng) >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.delay(&mut rng) <= FIRST);
    }
}
