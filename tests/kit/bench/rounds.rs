//! The rounds: every measure on all sides, one right after the other; in many short parts where the
//! difference is small. What was disturbed is taken again at the end, as long as there is time for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::load::Report;
use super::machine::{Clock, Used};
use super::measure::{Load, Measure, Target};
use super::site::{Side, Site};
use super::sockets;
use super::{Plan, say};

/// A measure is left out if others used a larger part of the machine during it.
const MAX_FOREIGN: f64 = 0.05;

/// A load on one side, and the CPU time it took.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) report: Report,
    pub(super) used: Used,
    /// Bytes that crossed on port 15008, of loads that are to cross there.
    pub(super) crossed: Option<u64>,
}

/// A measure of one round.
#[derive(Debug, Clone)]
pub(super) struct Sampled {
    pub(super) measure: Measure,
    /// From 1; above the plan's rounds it was taken again.
    pub(super) round: u16,
    pub(super) samples: Vec<(Side, Sample)>,
}

impl Sampled {
    /// The sample of a side.
    pub(super) fn of(&self, side: Side) -> Option<&Sample> {
        self.samples.iter().find(|(of, _)| *of == side).map(|(_, sample)| sample)
    }

    /// The largest part of the machine that others used on any side.
    pub(super) fn foreign(&self) -> f64 {
        self.samples.iter().map(|(_, sample)| sample.used.foreign).fold(0.0, f64::max)
    }

    /// Whether that was too much.
    pub(super) fn disturbed(&self) -> bool {
        self.foreign() > MAX_FOREIGN
    }
}

/// Takes all measures of the plan.
pub(super) async fn run(site: &Site, plan: &Plan) -> Result<Vec<Sampled>> {
    let mut all = Vec::new();
    let loads: Vec<&Measure> = plan.measures.iter().filter(|one| one.load.of_rounds()).collect();
    if loads.is_empty() {
        return Ok(all);
    }
    for round in 1..=plan.rounds {
        say(&format!("round {round} of {}", plan.rounds));
        for measure in &loads {
            for part in 0..measure.target.parts() {
                let turn = (round - 1) * measure.target.parts() + part;
                all.push(sides(site, plan, measure, (round, turn)).await?);
            }
        }
    }
    let until = Instant::now() + Duration::from_secs_f64(plan.patience);
    let mut round = plan.rounds;
    while Instant::now() < until {
        let missing: Vec<&&Measure> =
            loads.iter().filter(|one| undisturbed(&all, one) < wanted(plan, one)).collect();
        if missing.is_empty() {
            break;
        }
        round += 1;
        say(&format!("others disturbed {} measures: again", missing.len()));
        for measure in missing {
            if Instant::now() < until {
                all.push(sides(site, plan, measure, (round, round - 1)).await?);
            }
        }
    }
    Ok(all)
}

fn wanted(plan: &Plan, measure: &Measure) -> usize {
    usize::from(plan.rounds) * usize::from(measure.target.parts())
}

fn undisturbed(all: &[Sampled], measure: &Measure) -> usize {
    all.iter().filter(|one| one.measure.name == measure.name && !one.disturbed()).count()
}

async fn sides(
    site: &Site,
    plan: &Plan,
    measure: &Measure,
    (round, turn): (u16, u16),
) -> Result<Sampled> {
    let mut samples = Vec::new();
    for side in in_turn(site.sides(), turn) {
        samples.push((side, sample(site, plan, (side, measure)).await?));
    }
    Ok(Sampled { measure: *measure, round, samples })
}

/// Who goes first takes turns: what the one leaves behind hits the next as often.
fn in_turn(mut sides: Vec<Side>, turn: u16) -> Vec<Side> {
    let first = usize::from(turn) % sides.len().max(1);
    sides.rotate_left(first);
    sides
}

async fn sample(site: &Site, plan: &Plan, (side, measure): (Side, &Measure)) -> Result<Sample> {
    if measure.load.connects() {
        let pair = site.pair(side)?;
        [&pair.client, &pair.server].into_iter().try_for_each(sockets::forget_closed)?;
    }
    let tunnelled = side != Side::Plain
        && measure.target == Target::Pod
        && matches!(measure.load, Load::Up(_) | Load::Down(_));
    let before = if tunnelled { Some(site.tunnels(side)?) } else { None };
    let clock = Clock::read(site, side)?;
    let seconds = plan.seconds_of(measure);
    let report = site.drive(side, measure.target, measure.load, seconds).await;
    let report = report.with_context(|| format!("measure {}", measure.name))?;
    let used = clock.used(site)?;
    let crossed = match before {
        Some(before) => Some(site.tunnels(side)?.crossed_since(&before)),
        None => None,
    };
    if let Some(error) = &report.first_error {
        let (name, errors) = (measure.name, report.errors);
        say(&format!("  {name}, {}: {errors} errors, the first: {error}", side.word()));
    }
    Ok(Sample { report, used, crossed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_goes_first_as_often() {
        let sides = vec![Side::Plain, Side::Mesh, Side::Other];
        let first: Vec<Side> = (0..6).map(|turn| in_turn(sides.clone(), turn)[0]).collect();
        assert_eq!(first, [sides.clone(), sides].concat());
    }
}
