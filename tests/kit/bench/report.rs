//! From samples to results: medians of the pairs that nobody disturbed, and what was left out.

use serde::Serialize;

use super::Plan;
use super::figures::{self, Figure};
use super::machine::Machine;
use super::measure::Measure;
use super::memory::Memory;
use super::rounds::{Sample, Sampled};

/// All that a run found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) rounds: u16,
    pub(super) seconds: f64,
    pub(super) rows: Vec<Row>,
    /// None if it was not measured.
    pub(super) memory: Option<Vec<Memory>>,
    pub(super) disturbed: Vec<Disturbed>,
    /// Connections or requests that failed, by measure and round.
    pub(super) failures: Vec<Failure>,
}

/// A figure of a measure on both paths.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) measure: &'static str,
    pub(super) title: &'static str,
    pub(super) figure: &'static str,
    /// None for what only agents have.
    pub(super) plain: Option<Spread>,
    pub(super) mesh: Spread,
    /// Median of the mesh to median of plain TCP.
    pub(super) ratio: Option<f64>,
    /// No pair was undisturbed: the figures are of disturbed ones.
    pub(super) disturbed: bool,
}

/// What was seen in the rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) samples: Vec<f64>,
}

/// A pair that others disturbed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Disturbed {
    pub(super) measure: &'static str,
    pub(super) round: u16,
    pub(super) foreign_percent: f64,
}

/// What failed in one load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    pub(super) measure: &'static str,
    pub(super) round: u16,
    pub(super) side: &'static str,
    pub(super) errors: u64,
    pub(super) first: String,
}

impl Results {
    pub(super) fn new(
        plan: &Plan,
        machine: Machine,
        samples: Vec<Sampled>,
        memory: Option<Vec<Memory>>,
    ) -> Self {
        let disturbed = samples.iter().filter(|one| one.disturbed());
        let disturbed = disturbed.map(|one| Disturbed {
            measure: one.measure.name,
            round: one.round,
            foreign_percent: one.foreign() * 100.0,
        });
        Self {
            machine,
            rounds: plan.rounds,
            seconds: plan.seconds,
            rows: plan.measures.iter().flat_map(|measure| rows(measure, &samples)).collect(),
            memory,
            disturbed: disturbed.collect(),
            failures: samples.iter().flat_map(failures).collect(),
        }
    }
}

fn failures(pair: &Sampled) -> Vec<Failure> {
    let of = |side, sample: &Sample| Failure {
        measure: pair.measure.name,
        round: pair.round,
        side,
        errors: sample.report.errors,
        first: sample.report.first_error.clone().unwrap_or_default(),
    };
    let both = [of("plain", &pair.plain), of("mesh", &pair.mesh)];
    both.into_iter().filter(|failure| failure.errors > 0).collect()
}

fn rows(measure: &Measure, samples: &[Sampled]) -> Vec<Row> {
    let of_measure = || samples.iter().filter(|one| one.measure.name == measure.name);
    let mut taken: Vec<&Sampled> = of_measure().filter(|one| !one.disturbed()).collect();
    let disturbed = taken.is_empty();
    if disturbed {
        taken = of_measure().collect();
    }
    let values = |of: fn(&Sampled) -> &Sample| -> Vec<Vec<(Figure, f64)>> {
        taken.iter().map(|pair| figures::of(measure.load, of(pair))).collect()
    };
    let (plain, mesh) = (values(|pair| &pair.plain), values(|pair| &pair.mesh));
    let figures: Vec<Figure> = mesh.first().into_iter().flatten().map(|(one, _)| *one).collect();
    let column = |side: &[Vec<(Figure, f64)>], at: usize| {
        Spread::of(side.iter().filter_map(|row| row.get(at)).map(|(_, value)| *value).collect())
    };
    let row = |(at, figure): (usize, &Figure)| {
        let mesh = column(&mesh, at)?;
        let plain = if figure.of_agents { None } else { column(&plain, at) };
        Some(Row {
            measure: measure.name,
            title: measure.title,
            figure: figure.name,
            ratio: plain.as_ref().map(|plain| mesh.median / plain.median),
            plain,
            mesh,
            disturbed,
        })
    };
    figures.iter().enumerate().filter_map(row).collect()
}

impl Spread {
    fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted.get((sorted.len() - 1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), least, most, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Report;
    use crate::bench::machine::Used;
    use crate::bench::measure;

    fn sample(rate: u64, foreign: f64) -> Sample {
        let report = Report { seconds: 1.0, operations: rate, p50_us: 1.0, ..Report::default() };
        Sample { report, used: Used { machine: 1.0, agents: 0.5, foreign } }
    }

    fn pair(round: u16, (plain, mesh): (u64, u64), foreign: f64) -> Sampled {
        let measure = measure::parse("connect-1").unwrap();
        Sampled { measure, round, plain: sample(plain, 0.0), mesh: sample(mesh, foreign) }
    }

    fn rate(samples: &[Sampled]) -> Row {
        rows(&measure::parse("connect-1").unwrap(), samples).swap_remove(0)
    }

    #[test]
    fn a_disturbed_pair_is_left_out_on_both_paths() {
        let row =
            rate(&[pair(1, (100, 10), 0.01), pair(2, (900, 90), 0.5), pair(3, (200, 40), 0.05)]);
        assert_eq!(row.plain.unwrap().samples, [100.0, 200.0]);
        assert_eq!((row.mesh.median, row.mesh.least, row.mesh.most), (25.0, 10.0, 40.0));
        assert!(!row.disturbed && (row.ratio.unwrap() - 25.0 / 150.0).abs() < 1e-9);
    }

    #[test]
    fn with_nothing_undisturbed_all_are_shown_and_it_is_said() {
        let row = rate(&[pair(1, (100, 10), 0.2), pair(2, (100, 30), 0.3)]);
        assert!(row.disturbed);
        assert_eq!(row.mesh.samples, [10.0, 30.0]);
    }

    #[test]
    fn only_the_mesh_has_agents() {
        let all = rows(&measure::parse("connect-1").unwrap(), &[pair(1, (100, 10), 0.0)]);
        let agents = all.iter().find(|row| row.figure.starts_with("agents")).unwrap();
        assert!(agents.plain.is_none() && agents.ratio.is_none());
    }

    #[test]
    fn failures_name_measure_round_and_side() {
        let mut one = pair(2, (1, 1), 0.0);
        one.mesh.report.errors = 3;
        one.mesh.report.first_error = Some(String::from("gone"));
        let found = failures(&one);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].measure, found[0].round, found[0].side), ("connect-1", 2, "mesh"));
        assert_eq!((found[0].errors, found[0].first.as_str()), (3, "gone"));
    }
}
