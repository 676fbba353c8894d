//! The project's own tasks: `cargo xtask --help`.
//!
//! One file a task. Each takes what it needs from a fresh machine on itself, shows the output of
//! what it runs, and fails with what to do.

mod bench;
mod chart;
mod ci;
mod demo;
mod e2e;
mod ebpf;
mod exec;
mod image;
mod needs;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

/// Tasks of this project. All run from any folder of the work tree.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Runs the pocket cluster and shows the mesh at work (needs root).
    Demo(demo::Args),
    /// Runs a command in a pod of a demo started with `--keep`.
    Exec(exec::Args),
    /// Runs the tests, of all levels or of some (needs root).
    Test(test::Args),
    /// Compares plain TCP with the mesh, in one run (needs root).
    Bench(bench::Args),
    /// Runs all that must hold before a change lands, with the time of each step.
    Ci(ci::Args),
    /// Checks what no compiler checks: imports, sizes, words, the code map.
    Tidy(tidy::Args),
    /// Builds the eBPF object that the agent embeds; checks, loads or unloads it.
    Ebpf(ebpf::EbpfArgs),
    /// Writes the container image, as an archive.
    Image(image::Args),
    /// Writes the Helm chart, made from the kustomize base.
    Chart(chart::Args),
    /// Runs the acceptance on the cluster that KUBECONFIG names.
    E2e(Box<e2e::Args>),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Demo(args) => demo::run(&args),
        Task::Exec(args) => exec::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Ci(args) => ci::run(&args),
        Task::Tidy(args) => tidy::run(&args),
        Task::Ebpf(args) => ebpf::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Chart(args) => chart::run(&args),
        Task::E2e(args) => e2e::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
