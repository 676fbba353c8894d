//! What came of a load: of one connection while it runs, of all at the end.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What came of a load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// From the common start to the last one's end.
    pub seconds: f64,
    /// Bytes that the receiver had, both ends agreeing.
    pub bytes: u64,
    /// Requests answered, or connections made and answered.
    pub operations: u64,
    /// What failed.
    pub errors: u64,
    /// The first of it.
    pub first_error: Option<String>,
    /// Time of an operation: the median, in microseconds.
    pub p50_us: f64,
    /// 99 % of operations took at most so many microseconds.
    pub p99_us: f64,
    /// The slowest, in microseconds.
    pub max_us: f64,
    /// Operations a second in the last fifth of the time; 0 where nobody asks.
    pub late_rate: f64,
}

/// What one thread did.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) bytes: u64,
    /// Operations that ended in the last fifth of the time.
    pub(super) late: u64,
    nanos: Vec<u64>,
    errors: Vec<String>,
}

impl Tally {
    /// An operation that took so long.
    pub(super) fn operation(&mut self, took: Duration) {
        self.nanos.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Something that failed.
    pub(super) fn error(&mut self, what: &str, error: &io::Error) {
        self.errors.push(format!("{what}: {error}"));
    }

    /// How many operations and errors there were.
    pub(super) fn count(&self) -> usize {
        self.nanos.len() + self.errors.len()
    }
}

/// Adds up what all threads did within `elapsed`.
pub(super) fn total(tallies: Vec<Tally>, elapsed: Duration) -> Report {
    let mut all = Tally::default();
    for tally in tallies {
        all.bytes += tally.bytes;
        all.nanos.extend(tally.nanos);
        all.errors.extend(tally.errors);
    }
    all.nanos.sort_unstable();
    Report {
        seconds: elapsed.as_secs_f64(),
        bytes: all.bytes,
        operations: all.nanos.len() as u64,
        errors: all.errors.len() as u64,
        p50_us: quantile(&all.nanos, 50),
        p99_us: quantile(&all.nanos, 99),
        max_us: quantile(&all.nanos, 100),
        first_error: all.errors.into_iter().next(),
        late_rate: 0.0,
    }
}

/// The smallest of `sorted` that `percent` of them do not exceed, in microseconds; 0 of none.
#[expect(clippy::cast_precision_loss, reason = "times far below 2^53 ns")]
fn quantile(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<u64> = (1..=200).map(|n| n * 1000).collect();
        let all = [50, 99, 100].map(|percent| quantile(&values, percent));
        assert_eq!(all, [100.0, 198.0, 200.0]);
        assert_eq!(quantile(&[], 50).to_bits(), 0.0_f64.to_bits());
        assert_eq!(quantile(&[7000], 99).to_bits(), 7.0_f64.to_bits());
    }

    #[test]
    fn a_report_adds_up_its_threads() {
        let mut one = Tally { bytes: 3, ..Tally::default() };
        one.operation(Duration::from_micros(10));
        let mut two = Tally { bytes: 4, ..Tally::default() };
        two.operation(Duration::from_micros(30));
        two.error("read", &io::Error::other("gone"));
        assert_eq!((one.count(), two.count()), (1, 2));
        let expected = Report {
            seconds: 1.0,
            bytes: 7,
            operations: 2,
            errors: 1,
            first_error: Some(String::from("read: gone")),
            p50_us: 10.0,
            p99_us: 30.0,
            max_us: 30.0,
            late_rate: 0.0,
        };
        assert_eq!(total(vec![one, two], Duration::from_secs(1)), expected);
    }
}
