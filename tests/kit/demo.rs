//! `cargo xtask demo`: bookinfo on two nodes, its calls before, under and after a STRICT policy, and
//! what of them can be read on the wire.

mod keep;
mod story;
mod table;
mod wire;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::cluster::{Cluster, ClusterOptions};
use crate::pods;

pub use table::{Row, Table};

/// Shows the mesh at work in a cluster that fits into one machine.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
pub struct Args {
    /// Leave the cluster running until ctrl-C, and tell how to use it by hand
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command in a pod of a demo that was kept: as exec legacy/sleep -- curl ..
    Exec {
        /// NAMESPACE/POD, or the name of its deployment
        pod: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
}

/// Runs the demo: success if every step showed what it was to show.
///
/// # Errors
/// The cluster cannot be made, or a step could not be taken at all.
pub async fn run(args: Args) -> Result<ExitCode> {
    if let Some(Command::Exec { pod, argv }) = args.command {
        return Err(exec(&pod, &argv));
    }
    say("a pocket cluster with two nodes: API server, control plane, an agent on each node");
    let cluster = Cluster::start(ClusterOptions { tell: say, ..Default::default() }).await?;
    let mut table = Table::default();
    let told = story::tell(&cluster, &mut table).await;
    print(&format!("\n{table}"));
    let good = told.is_ok() && table.all_as_expected();
    if !good {
        print(&format!("\nThe ends of the logs:\n{}", cluster.post_mortem()));
    }
    if args.keep {
        keep::tell(&cluster);
        // A signal ends it: the cluster removes itself then.
        std::future::pending::<()>().await;
    }
    let left = cluster.stop().await;
    for error in &left {
        print(&format!("not cleaned up: {error:#}\n"));
    }
    told.context("the demo could not be told to its end")?;
    say(if good { "all as expected; everything is cleaned up" } else { "NOT as expected" });
    Ok(if good && left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Becomes the command in the pod; returns only if that fails.
fn exec(pod: &str, argv: &[String]) -> anyhow::Error {
    let Some((namespace, name)) = pod.split_once('/') else {
        return anyhow::anyhow!("{pod:?} is not NAMESPACE/POD");
    };
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match pods::find(namespace, name) {
        Ok(pod) => pod.launch(&words).foreground().exec().into(),
        Err(error) => error,
    }
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
        tracing::warn!(%error, "nobody reads the demo's output");
    }
}
