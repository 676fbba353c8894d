//! `cargo xtask bench`: what the mesh costs, against plain TCP between two pods of the same nodes in
//! the same run, and if wanted against a ztunnel or another build of Sotto in a place of the same kind.
//!
//! Every measure is taken on all sides, one right after the other, once a round; a round that other
//! programs disturbed is left out of the figures. Figures are medians, beside the least and the most.

mod drive;
mod figures;
pub mod load;
mod machine;
mod measure;
mod memory;
pub mod peer;
mod report;
mod rounds;
mod scale;
mod site;
mod sockets;
mod startup;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use measure::{Load, Measure};
use memory::Memory;
use report::Results;
use site::{Rival, Site};

/// Measures plain TCP and the mesh side by side, on the pocket cluster's two nodes; with `--peer` or
/// `--base` a second mesh too.
///
/// All measures take about 7 minutes, with a second mesh about 12, on a quiet machine; on a busy one
/// `--patience` longer. With `--quick` about 1 minute, or 2.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Args {
    /// How often each measure is taken [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Seconds of each load, up to 60 [default: 2, with --quick 0.5]
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Seconds of churn, up to 60 [default: 25, with --quick 3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    churn: Option<f64>,
    /// Seconds spent at most on taking again what other programs disturbed [default: 90, with
    /// --quick 0]
    #[arg(long, value_parser = clap::value_parser!(u16).range(..=3600))]
    patience: Option<u16>,
    /// One short round: to see that all works, not to quote
    #[arg(long)]
    quick: bool,
    /// Takes only these measures
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = measure::parse)]
    only: Vec<Measure>,
    /// Measures this ztunnel beside: in-pod mode, same control plane, pods and policy
    #[arg(long, value_name = "PROGRAM")]
    peer: Option<PathBuf>,
    /// Measures this other `sotto` beside (`cargo xtask bench --against REV` builds one)
    #[arg(long, value_name = "PROGRAM", conflicts_with = "peer")]
    base: Option<PathBuf>,
    /// What the second mesh is called in the table [default: the program's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Measures, instead of all else, what meshes of so many workloads cost an agent
    #[arg(long, value_delimiter = ',', value_name = "WORKLOADS")]
    scale: Vec<usize>,
    /// Writes all figures, with every sample, to a file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Lists the measures
    #[arg(long)]
    list: bool,
}

/// How much is measured.
#[derive(Debug, Clone)]
struct Plan {
    rounds: u16,
    seconds: f64,
    churn_seconds: f64,
    /// In seconds.
    patience: f64,
    measures: Vec<Measure>,
}

impl Args {
    fn plan(&self) -> Plan {
        let (rounds, seconds, churn, patience) =
            if self.quick { (1, 0.5, 3.0, 0) } else { (3, 2.0, 25.0, 90) };
        let measures = if self.only.is_empty() { measure::ALL.to_vec() } else { self.only.clone() };
        Plan {
            rounds: self.rounds.unwrap_or(rounds),
            seconds: self.seconds.unwrap_or(seconds),
            churn_seconds: self.churn.unwrap_or(churn),
            patience: self.patience.unwrap_or(patience).into(),
            measures,
        }
    }

    /// What to compare with, and its name.
    fn rival(&self) -> Result<Option<(Rival, String)>> {
        let (program, rival): (_, fn(PathBuf) -> Rival) = match (&self.peer, &self.base) {
            (Some(program), _) => (program, Rival::Peer),
            (None, Some(program)) => (program, Rival::Base),
            (None, None) => return Ok(None),
        };
        ensure!(program.is_file(), "{} is no program", program.display());
        let program = std::path::absolute(program).context("the working directory")?;
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = self.name.clone().or(name).unwrap_or_default();
        Ok(Some((rival(program), name)))
    }
}

impl Plan {
    fn takes(&self, name: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.name == name)
    }

    /// How long a load goes on.
    fn seconds_of(&self, measure: &Measure) -> f64 {
        match measure.load {
            Load::Churn(_) => self.churn_seconds,
            _ => measure.target.seconds(self.seconds),
        }
    }
}

/// Runs the bench: success if nothing failed on any connection.
///
/// # Errors
/// A cluster cannot be made, or a measure could not be taken at all.
pub async fn run(args: Args) -> Result<ExitCode> {
    if args.list {
        measure::ALL.iter().for_each(|one| print(&format!("{:20}  {}\n", one.name, one.title)));
        return Ok(ExitCode::SUCCESS);
    }
    let plan = args.plan();
    let (rival, name) = args.rival()?.unzip();
    let mut site = Site::start(rival.as_ref()).await?;
    if !args.scale.is_empty() {
        return large(site, &args.scale, &plan).await;
    }
    let taken = take(&mut site, &plan, name).await;
    let taken = taken.with_context(|| site.post_mortem());
    let left = Box::pin(site.stop()).await;
    for error in &left {
        print(&format!("not cleaned up: {error:#}\n"));
    }
    let results = taken?;
    print(&format!("\n{results}"));
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&results)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        say(&format!("all samples are in {}", path.display()));
    }
    let good = results.failures.is_empty() && left.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures meshes of these sizes.
async fn large(mut site: Site, sizes: &[usize], plan: &Plan) -> Result<ExitCode> {
    let measured = scale::run(&mut site, sizes, plan.rounds, plan.churn_seconds).await;
    let measured = measured.with_context(|| site.post_mortem());
    let left = Box::pin(site.stop()).await;
    left.iter().for_each(|error| print(&format!("not cleaned up: {error:#}\n")));
    print(&format!("\n{}", measured?));
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn take(site: &mut Site, plan: &Plan, other: Option<String>) -> Result<Results> {
    let mut memory = match plan.takes(measure::MEMORY) {
        Some(measure) => Some((measure, Memory::fresh(site).await?)),
        None => None,
    };
    site.try_paths().await?;
    if let Some((_, memory)) = &mut memory {
        // Long enough that a fraction of a per cent shows.
        memory.idle(site, plan.seconds * 2.5).await?;
    }
    let samples = rounds::run(site, plan).await?;
    let mut results = Results::new(plan, machine::describe(site)?, other, &samples);
    if let Some((measure, mut memory)) = memory {
        memory.end(site)?;
        let of = |side| memory.figures(side).into_iter().map(|(name, value)| (name, vec![value]));
        let sides: Vec<_> =
            site.sides().into_iter().map(|side| (side, of(side).collect())).collect();
        results.rows.extend(report::of_agents(measure, &sides));
    }
    if let Some(measure) = plan.takes(measure::STARTUP) {
        let times = startup::measure(site, plan.rounds).await?;
        let figure = |times| vec![(String::from("ms"), times)];
        let sides: Vec<_> = times.into_iter().map(|(side, times)| (side, figure(times))).collect();
        results.rows.extend(report::of_agents(measure, &sides));
    }
    Ok(results)
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| String::from("not a number"))?;
    let good = (0.1..=60.0).contains(&value);
    good.then_some(value).ok_or_else(|| String::from("not from 0.1 to 60"))
}

/// A line with the time since the start.
fn say(line: &str) {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    let elapsed = STARTED.get_or_init(Instant::now).elapsed().as_secs_f64();
    print(&format!("[{elapsed:6.1}s] {line}\n"));
}

fn print(text: &str) {
    let mut out = std::io::stdout();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::warn!(%error, "nobody reads the bench's output");
    }
}
