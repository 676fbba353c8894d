//! The rounds: every measure on both paths, one right after the other. Pairs that were disturbed are
//! taken again at the end, as long as there is time for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::load::Report;
use super::machine::{Clock, Used};
use super::measure::{Load, Measure};
use super::site::{Side, Site};
use super::{Plan, say};

/// A pair is left out if others used a larger part of the machine.
const MAX_FOREIGN: f64 = 0.05;

/// A load on one path, and the CPU time it took.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) report: Report,
    pub(super) used: Used,
}

/// A measure of one round.
#[derive(Debug, Clone)]
pub(super) struct Sampled {
    pub(super) measure: Measure,
    /// From 1; above the plan's rounds it was taken again.
    pub(super) round: u16,
    pub(super) plain: Sample,
    pub(super) mesh: Sample,
}

impl Sampled {
    /// The larger part of the machine that others used during either.
    pub(super) fn foreign(&self) -> f64 {
        self.plain.used.foreign.max(self.mesh.used.foreign)
    }

    /// Whether that was too much.
    pub(super) fn disturbed(&self) -> bool {
        self.foreign() > MAX_FOREIGN
    }
}

/// Takes all measures of the plan.
pub(super) async fn run(site: &Site, plan: &Plan) -> Result<Vec<Sampled>> {
    let mut all = Vec::new();
    let loads = plan.measures.iter().filter(|measure| measure.load != Load::Hold);
    let loads: Vec<&Measure> = loads.collect();
    for round in 1..=plan.rounds {
        say(&format!("round {round} of {}", plan.rounds));
        for measure in &loads {
            all.push(pair(site, plan, (round, measure)).await?);
        }
    }
    let until = Instant::now() + Duration::from_secs_f64(plan.patience);
    let mut round = plan.rounds;
    while Instant::now() < until {
        let missing: Vec<&&Measure> =
            loads.iter().filter(|one| undisturbed(&all, one) < plan.rounds.into()).collect();
        if missing.is_empty() {
            break;
        }
        round += 1;
        say(&format!("others disturbed {} measures: again", missing.len()));
        for measure in missing {
            if Instant::now() < until {
                all.push(pair(site, plan, (round, measure)).await?);
            }
        }
    }
    Ok(all)
}

fn undisturbed(all: &[Sampled], measure: &Measure) -> usize {
    all.iter().filter(|one| one.measure.name == measure.name && !one.disturbed()).count()
}

async fn pair(site: &Site, plan: &Plan, (round, measure): (u16, &Measure)) -> Result<Sampled> {
    // Who goes first takes turns: what the one leaves behind hits the other as often.
    let (plain, mesh) = if round % 2 == 1 {
        let plain = sample(site, plan, (Side::Plain, measure)).await?;
        (plain, sample(site, plan, (Side::Mesh, measure)).await?)
    } else {
        let mesh = sample(site, plan, (Side::Mesh, measure)).await?;
        (sample(site, plan, (Side::Plain, measure)).await?, mesh)
    };
    Ok(Sampled { measure: *measure, round, plain, mesh })
}

async fn sample(site: &Site, plan: &Plan, (side, measure): (Side, &Measure)) -> Result<Sample> {
    let clock = Clock::read(site)?;
    let report = site.drive(side, measure.target, measure.load, plan.seconds).await;
    let report = report.with_context(|| format!("measure {}", measure.name))?;
    let used = clock.used(site)?;
    if let Some(error) = &report.first_error {
        let (name, errors) = (measure.name, report.errors);
        say(&format!("  {name}, {side:?}: {errors} errors, the first: {error}"));
    }
    Ok(Sample { report, used })
}
