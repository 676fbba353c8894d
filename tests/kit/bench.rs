//! `cargo xtask bench`: what the mesh costs, against plain TCP between two pods of the same nodes in
//! the same run.
//!
//! Every measure is taken on both paths, one right after the other, once a round; a pair that other
//! programs disturbed is left out of the figures. Figures are medians, beside the least and the most.

mod figures;
pub mod load;
mod machine;
mod measure;
mod memory;
mod report;
mod rounds;
mod site;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

use measure::Measure;
use report::Results;
use site::Site;

/// Measures plain TCP and the mesh side by side, on the pocket cluster's two nodes.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Args {
    /// How often each measure is taken [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Seconds of each load, up to 60 [default: 2, with --quick 0.5]
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
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
    /// In seconds.
    patience: f64,
    measures: Vec<Measure>,
}

impl Args {
    fn plan(&self) -> Plan {
        let (rounds, seconds, patience) = if self.quick { (1, 0.5, 0) } else { (3, 2.0, 90) };
        let measures = if self.only.is_empty() { measure::ALL.to_vec() } else { self.only.clone() };
        Plan {
            rounds: self.rounds.unwrap_or(rounds),
            seconds: self.seconds.unwrap_or(seconds),
            patience: self.patience.unwrap_or(patience).into(),
            measures,
        }
    }
}

/// Runs the bench: success if nothing failed on any connection.
///
/// # Errors
/// The cluster cannot be made, or a measure could not be taken at all.
pub async fn run(args: Args) -> Result<ExitCode> {
    if args.list {
        measure::ALL.iter().for_each(|one| print(&format!("{:20}  {}\n", one.name, one.title)));
        return Ok(ExitCode::SUCCESS);
    }
    let plan = args.plan();
    let site = Site::start().await?;
    let taken = take(&site, &plan).await;
    let taken = taken.with_context(|| site.cluster.post_mortem());
    let left = site.cluster.stop().await;
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

async fn take(site: &Site, plan: &Plan) -> Result<Results> {
    let memory = plan.measures.iter().any(|one| one.name == measure::MEMORY);
    let mut memory = if memory { Some(memory::idle(site).await?) } else { None };
    let samples = rounds::run(site, plan).await?;
    if let Some(memory) = &mut memory {
        memory::peak(site, memory)?;
    }
    Ok(Results::new(plan, machine::describe(site)?, samples, memory))
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
