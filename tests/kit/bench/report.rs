//! From samples to results: medians of what nobody disturbed, and what was left out.

mod rows;
mod spread;

use serde::{Deserialize, Serialize};

use super::Plan;
use super::machine::Machine;
use super::rounds::{Sample, Sampled};
use super::site::Side;

pub(super) use rows::{Row, of_agents, of_loads};
pub(super) use spread::{Ratio, Spread};

/// All that a run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    /// What Sotto is compared with besides plain TCP.
    pub(super) other: Option<String>,
    pub(super) rounds: u16,
    pub(super) seconds: f64,
    pub(super) churn_seconds: f64,
    pub(super) rows: Vec<Row>,
    /// Bytes that had to cross on port 15008 and did, by side.
    pub(super) crossed: Vec<Crossed>,
    pub(super) disturbed: Vec<Disturbed>,
    /// Connections or requests that failed, by measure and round.
    pub(super) failures: Vec<Failure>,
}

/// The proof that a side's streams went through its tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crossed {
    pub(super) side: String,
    /// What the streams carried.
    pub(super) sent_bytes: u64,
    /// What the kernel counted on the tunnels' sockets.
    pub(super) crossed_bytes: u64,
}

/// A measure of a round that others disturbed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Disturbed {
    pub(super) measure: String,
    pub(super) round: u16,
    pub(super) foreign_percent: f64,
}

/// What failed in one load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) measure: String,
    pub(super) round: u16,
    pub(super) side: String,
    pub(super) errors: u64,
    pub(super) first: String,
}

impl Results {
    /// Of loads; rows of agents are put in by their own.
    pub(super) fn new(
        plan: &Plan,
        machine: Machine,
        other: Option<String>,
        samples: &[Sampled],
    ) -> Self {
        let disturbed = samples.iter().filter(|one| one.disturbed());
        let disturbed = disturbed.map(|one| Disturbed {
            measure: one.measure.name.to_owned(),
            round: one.round,
            foreign_percent: one.foreign() * 100.0,
        });
        Self {
            machine,
            other,
            rounds: plan.rounds,
            seconds: plan.seconds,
            churn_seconds: plan.churn_seconds,
            rows: plan.measures.iter().flat_map(|measure| of_loads(measure, samples)).collect(),
            crossed: [Side::Mesh, Side::Other]
                .into_iter()
                .filter_map(|side| crossed(side, samples))
                .collect(),
            disturbed: disturbed.collect(),
            failures: samples.iter().flat_map(failures).collect(),
        }
    }
}

fn crossed(side: Side, samples: &[Sampled]) -> Option<Crossed> {
    let of_side = samples.iter().filter_map(|one| one.of(side));
    let mut counted = of_side.filter_map(|one| Some((one.report.bytes, one.crossed?))).peekable();
    counted.peek()?;
    let (sent_bytes, crossed_bytes) =
        counted.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    Some(Crossed { side: side.word().to_owned(), sent_bytes, crossed_bytes })
}

fn failures(sampled: &Sampled) -> Vec<Failure> {
    let of = |side: Side, errors, first| Failure {
        measure: sampled.measure.name.to_owned(),
        round: sampled.round,
        side: side.word().to_owned(),
        errors,
        first,
    };
    let mut found = Vec::new();
    for (side, Sample { report, crossed, .. }) in &sampled.samples {
        if report.errors > 0 {
            found.push(of(*side, report.errors, report.first_error.clone().unwrap_or_default()));
        }
        if let Some(crossed) = crossed.filter(|crossed| *crossed < report.bytes) {
            let sent = report.bytes;
            found.push(of(*side, 1, format!("{crossed} of {sent} bytes crossed on port 15008")));
        }
    }
    found
}

#[cfg(test)]
mod tests;
