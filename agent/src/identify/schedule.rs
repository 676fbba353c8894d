//! When to ask for a certificate: at once, at half life, or after a failure with growing patience.
//!
//! Pure: the times of both clocks and the dice are passed in.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// First pause after a failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// So many failures have the first pause; it is doubled at each further one. A CA that does not know of a new pod yet
/// does a moment later.
const QUICK: u32 = 4;
/// Longest pause between failures.
const MAX_BACKOFF: Duration = Duration::from_secs(150);
/// Longest pause while a connection waits for the certificate.
const MAX_BACKOFF_WANTED: Duration = Duration::from_secs(5);
/// Shortest pause between two renewals, whatever the lifetimes and clocks say.
const MIN_RENEWAL: Duration = Duration::from_secs(1);
/// How far a renewal is moved, as part of the lifetime, so that nodes do not renew in step.
const RENEWAL_JITTER: f64 = 0.1;
/// How far a retry is moved, as part of the pause.
const BACKOFF_JITTER: f64 = 0.2;

/// The state of one identity's schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    phase: Phase,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Due,
    Fetching,
    /// Failed at the first instant, to be tried again after the pause.
    Failed(Instant, Duration),
    /// Good until then.
    Fresh(SystemTime),
}

impl Schedule {
    /// Due at once.
    pub(super) fn new() -> Self {
        Self { phase: Phase::Due, failures: 0 }
    }

    /// How long until the next call; none while one is under way. `wanted` says that a connection
    /// waits for it.
    pub(super) fn wait(&self, now: Instant, wall: SystemTime, wanted: bool) -> Option<Duration> {
        match self.phase {
            Phase::Due => Some(Duration::ZERO),
            Phase::Fetching => None,
            Phase::Failed(at, pause) => {
                let pause = if wanted { pause.min(MAX_BACKOFF_WANTED) } else { pause };
                Some((at + pause).saturating_duration_since(now))
            }
            Phase::Fresh(renewal) => Some(renewal.duration_since(wall).unwrap_or(Duration::ZERO)),
        }
    }

    /// The call is under way.
    pub(super) fn start(&mut self) {
        self.phase = Phase::Fetching;
    }

    /// It brought a certificate with this validity. `dice` is within -1 and 1.
    pub(super) fn succeed(
        &mut self,
        (not_before, not_after): (SystemTime, SystemTime),
        wall: SystemTime,
        dice: f64,
    ) {
        let life = not_after.duration_since(not_before).unwrap_or(Duration::ZERO);
        let half = not_before + life.mul_f64(0.5 + RENEWAL_JITTER * dice.clamp(-1.0, 1.0));
        self.failures = 0;
        self.phase = Phase::Fresh(half.max(wall + MIN_RENEWAL));
    }

    /// It failed. `dice` is within -1 and 1.
    pub(super) fn fail(&mut self, now: Instant, dice: f64) {
        self.failures = self.failures.saturating_add(1);
        let doubled =
            FIRST_BACKOFF.saturating_mul(1 << self.failures.saturating_sub(QUICK).min(16));
        let pause = doubled.min(MAX_BACKOFF).mul_f64(1.0 + BACKOFF_JITTER * dice.clamp(-1.0, 1.0));
        self.phase = Phase::Failed(now, pause);
    }

    /// Another pod has it: what the CA said before was not about that one. Tells whether that makes it due.
    pub(super) fn ask_anew(&mut self) -> bool {
        let failed = matches!(self.phase, Phase::Failed(..));
        if failed {
            *self = Self::new();
        }
        failed
    }

    /// The certificate is of no use for long: the next call is due within `within`. `dice` is within -1 and 1.
    pub(super) fn hasten(
        &mut self,
        (now, wall): (Instant, SystemTime),
        within: Duration,
        dice: f64,
    ) {
        let pause = within.mul_f64((dice.clamp(-1.0, 1.0) + 1.0) / 2.0);
        match &mut self.phase {
            Phase::Due | Phase::Fetching => {}
            // The CA may not have answered because of what has changed.
            Phase::Failed(at, waits) => {
                let left = (*at + *waits).saturating_duration_since(now);
                (*at, *waits) = (now, left.min(pause));
            }
            Phase::Fresh(renewal) => *renewal = (*renewal).min(wall + pause),
        }
    }

    /// Calls that failed since the last good one.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn backs_off_from_half_a_second_to_150() {
        let now = Instant::now();
        let mut schedule = Schedule::new();
        let mut pauses = Vec::new();
        for _ in 0..15 {
            schedule.fail(now, 0.0);
            pauses.push(schedule.wait(now, UNIX_EPOCH, false).unwrap().as_millis());
        }
        assert_eq!(
            pauses,
            [
                500, 500, 500, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000,
                150_000, 150_000, 150_000
            ]
        );
        assert_eq!(schedule.wait(now, UNIX_EPOCH, true), Some(MAX_BACKOFF_WANTED));
    }

    #[test]
    fn another_pod_makes_a_failed_one_due_and_no_other() {
        let now = Instant::now();
        let mut schedule = Schedule::new();
        assert!(!schedule.ask_anew(), "it is due already");
        (0..9).for_each(|_| schedule.fail(now, 0.0));
        assert!(schedule.ask_anew());
        assert_eq!(
            (schedule.wait(now, UNIX_EPOCH, false), schedule.failures()),
            (Some(Duration::ZERO), 0)
        );
        schedule.start();
        assert!(!schedule.ask_anew());
        schedule.succeed((UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(60)), UNIX_EPOCH, 0.0);
        assert!(!schedule.ask_anew());
        assert_eq!(schedule.wait(now, UNIX_EPOCH, false), Some(Duration::from_secs(30)));
    }

    #[test]
    fn renews_around_half_life() {
        let (start, day) = (UNIX_EPOCH, Duration::from_secs(86_400));
        let renewal = |dice| {
            let mut schedule = Schedule::new();
            schedule.succeed((start, start + day), start, dice);
            schedule.wait(Instant::now(), start, false).unwrap().as_secs() / 360
        };
        assert_eq!([renewal(-1.0), renewal(0.0), renewal(1.0)], [96, 120, 144]);
    }

    #[test]
    fn is_hastened_within_bounds_and_never_delayed() {
        let (now, wall, day) = (Instant::now(), UNIX_EPOCH, Duration::from_secs(86_400));
        let half_a_minute = Duration::from_secs(30);
        let mut schedule = Schedule::new();
        schedule.succeed((wall, wall + day), wall, 0.0);
        for (dice, expected) in [(1.0, 30), (0.0, 15), (1.0, 15), (-1.0, 0)] {
            schedule.hasten((now, wall), half_a_minute, dice);
            assert_eq!(schedule.wait(now, wall, false), Some(Duration::from_secs(expected)));
        }
        let mut schedule = Schedule::new();
        for _ in 0..10 {
            schedule.fail(now, 0.0);
        }
        schedule.hasten((now, wall), half_a_minute, 0.0);
        assert_eq!(schedule.wait(now, wall, false), Some(Duration::from_secs(15)));
        let mut schedule = Schedule::new();
        schedule.hasten((now, wall), half_a_minute, 1.0);
        assert_eq!(schedule.wait(now, wall, false), Some(Duration::ZERO));
        schedule.start();
        schedule.hasten((now, wall), half_a_minute, 1.0);
        assert_eq!(schedule.wait(now, wall, false), None);
    }

    #[test]
    fn never_renews_in_a_tight_loop() {
        let mut schedule = Schedule::new();
        schedule.succeed((UNIX_EPOCH, UNIX_EPOCH), UNIX_EPOCH + Duration::from_secs(9), 0.0);
        let wait = schedule.wait(Instant::now(), UNIX_EPOCH + Duration::from_secs(9), true);
        assert_eq!(wait, Some(MIN_RENEWAL));
    }
}
