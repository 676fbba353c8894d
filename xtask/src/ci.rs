//! `cargo xtask ci`: all that must hold before a change lands, in order of cost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{ebpf, needs, shell, test, tidy};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Runs the steps after a failed one too.
    #[arg(long)]
    keep_going: bool,
    /// Fails where a step, or a part of one, cannot be run: what a release is made with.
    #[arg(long)]
    complete: bool,
}

/// A step: its name, and what it does.
type Step = (&'static str, fn(&Shell) -> Result<Outcome>);

const STEPS: [Step; 10] = [
    ("tools", tools),
    ("fmt", fmt),
    ("tidy", tidy),
    ("clippy", clippy),
    ("test", tests),
    ("sockets", sockets),
    ("doc", doc),
    ("deny", deny),
    ("ebpf", ebpf),
    ("kustomize", kustomize),
];

enum Outcome {
    Done,
    /// All or a part was not run here: what, and why.
    Without(String),
    /// Tests that failed, and passed when they were run again.
    Again(Vec<String>),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = shell::at_root()?;
    let mut report = Vec::new();
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n=== {name}");
        let started = Instant::now();
        let outcome = step(&sh).and_then(|outcome| match outcome {
            Outcome::Without(what) if args.complete => bail!("not run: {what}"),
            Outcome::Again(tests) if args.complete => bail!("failed once: {}", tests.join(", ")),
            outcome => Ok(outcome),
        });
        let took = started.elapsed();
        report.push(line(name, &outcome, took));
        if let Err(error) = outcome {
            eprintln!("xtask: {name}: {error:#}");
            failed.push(name);
            if !args.keep_going {
                break;
            }
        }
    }
    eprintln!("\n{}", report.join("\n"));
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn line(name: &str, outcome: &Result<Outcome>, took: Duration) -> String {
    let said = match outcome {
        Ok(Outcome::Done) => "ok".to_owned(),
        Ok(Outcome::Without(what)) => format!("NOT RUN: {what}"),
        Ok(Outcome::Again(tests)) => format!("PASSED AT THE SECOND TRY: {}", tests.join(", ")),
        Err(_) => "FAILED".to_owned(),
    };
    format!("{name:<10} {:>7.1} s  {said}", took.as_secs_f64())
}

fn tools(sh: &Shell) -> Result<Outcome> {
    needs::for_tests(sh)?;
    Ok(Outcome::Done)
}

fn fmt(sh: &Shell) -> Result<Outcome> {
    cmd!(sh, "cargo fmt --all --check").run()?;
    Ok(Outcome::Done)
}

fn tidy(_sh: &Shell) -> Result<Outcome> {
    tidy::run(&tidy::Args {})?;
    Ok(Outcome::Done)
}

fn clippy(sh: &Shell) -> Result<Outcome> {
    cmd!(sh, "cargo clippy --all-targets -- -D warnings").run()?;
    Ok(Outcome::Done)
}

fn tests(sh: &Shell) -> Result<Outcome> {
    test::all(sh, "ci")?;
    let again = test::second_tries(sh, "ci")?;
    Ok(if again.is_empty() { Outcome::Done } else { Outcome::Again(again) })
}

/// A minute of random sequences of socket options in pods, the wire watched: half of it unprivileged, half not.
fn sockets(sh: &Shell) -> Result<Outcome> {
    // Of no package: else it would be built with other features, anew.
    cmd!(sh, "cargo test --test traps fuzz:: -- --nocapture --test-threads 1")
        .env("SOCKET_FUZZ_SECONDS", "30")
        .run()?;
    Ok(Outcome::Done)
}

/// Read by those who work on it, so links to what is private are as good as others.
fn doc(sh: &Shell) -> Result<Outcome> {
    cmd!(sh, "cargo doc --no-deps --document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")
        .run()?;
    Ok(Outcome::Done)
}

/// Licences, sources, what must not be linked in, and known vulnerabilities.
///
/// The database of these is a repository that not every machine reaches; where it is not reached, all
/// else is checked and that is told. `--complete` takes no such excuse.
fn deny(sh: &Shell) -> Result<Outcome> {
    needs::cargo(sh, &needs::DENY)?;
    // It looks at crates of every platform; those of others no build here has fetched.
    cmd!(sh, "cargo fetch --locked --quiet").run()?;
    cmd!(sh, "cargo deny --offline check --hide-inclusion-graph bans licenses sources").run()?;
    if cmd!(sh, "timeout 60 cargo deny fetch db").run().is_err() {
        return Ok(Outcome::Without(
            "advisories, as RustSec's database cannot be reached from here".into(),
        ));
    }
    cmd!(sh, "cargo deny --offline check advisories").run()?;
    Ok(Outcome::Done)
}

/// The object in the tree against its sources; the agent's build compares their hashes in any case.
fn ebpf(sh: &Shell) -> Result<Outcome> {
    ebpf::check(sh).map(|without| without.map_or(Outcome::Done, Outcome::Without))
}

/// The same rendering that a user's `kubectl apply -k` does; the tests look into the documents.
fn kustomize(sh: &Shell) -> Result<Outcome> {
    let at = |folder: &str| sh.current_dir().join(folder);
    let mut folders = vec![at("deploy/base"), at("deploy/crds")];
    folders.extend(sh.read_dir("deploy/overlays").context("failed to list deploy/overlays")?);
    for folder in folders {
        cmd!(sh, "kubectl kustomize {folder}")
            .ignore_stdout()
            .run()
            .with_context(|| format!("{} does not render", folder.display()))?;
    }
    Ok(Outcome::Done)
}
