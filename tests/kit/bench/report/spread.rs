//! What the rounds show of a figure, and of one side's beside another's.

use serde::{Deserialize, Serialize};

/// What was seen in the rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::bench) struct Spread {
    pub(in crate::bench) median: f64,
    pub(in crate::bench) least: f64,
    pub(in crate::bench) most: f64,
    pub(in crate::bench) samples: Vec<f64>,
}

/// Of one side's figure to another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::bench) struct Ratio {
    /// Of the rounds' ratios: what drifts from round to round is the same on both sides of one.
    pub(in crate::bench) median: f64,
    /// The median's standard error: in two runs of three the true ratio is no further away. None of few rounds.
    pub(in crate::bench) error: Option<f64>,
}

/// Rounds of which a standard error can be told.
const ENOUGH: usize = 8;
/// The standard deviation of normally distributed samples, in units of their median distance from the median.
const DEVIATION: f64 = 1.4826;
/// The standard error of a median, in units of the mean's.
const OF_MEDIAN: f64 = 1.2533;

impl Spread {
    /// None of no samples.
    pub(in crate::bench) fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted.get((sorted.len() - 1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), least, most, samples })
    }

    /// None if no round has one.
    pub(super) fn ratio_to(&self, base: &Self) -> Option<Ratio> {
        let rounds = self.samples.iter().zip(&base.samples);
        let ratios = rounds.map(|(of, base)| of / base).filter(|ratio| ratio.is_finite());
        let ratios = Self::of(ratios.collect())?;
        Some(Ratio { median: ratios.median, error: ratios.error() })
    }

    /// From the median of the distances to the median: a few wild rounds do not count.
    #[expect(clippy::cast_precision_loss, reason = "a count of rounds")]
    fn error(&self) -> Option<f64> {
        let count = self.samples.len();
        let distances = self.samples.iter().map(|sample| (sample - self.median).abs());
        let distance = Self::of(distances.collect())?.median;
        (count >= ENOUGH).then(|| OF_MEDIAN * DEVIATION * distance / (count as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_count_is_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 9.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most), (3.5, 1.0, 9.0));
        assert_eq!(spread.samples, [4.0, 1.0, 3.0, 9.0]);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn the_error_is_that_of_the_median_and_wild_rounds_do_not_widen_it() {
        let base = Spread::of(vec![1.0; 9]).unwrap();
        let of = |samples: [f64; 9]| Spread::of(samples.to_vec()).unwrap().ratio_to(&base).unwrap();
        let calm = of([0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.1, 1.2, 1.3]);
        assert!((calm.error.unwrap() - 1.2533 * 1.4826 * 0.1 / 3.0).abs() < 1e-9, "{calm:?}");
        let wild = of([0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.1, 1.2, 90.0]);
        assert_eq!(wild, calm);
    }

    #[test]
    fn few_rounds_tell_no_error() {
        let few = Spread::of(vec![1.0; 7]).unwrap();
        assert_eq!(few.ratio_to(&few), Some(Ratio { median: 1.0, error: None }));
    }
}
