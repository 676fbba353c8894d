//! `cargo xtask ci`: all that must hold before a change lands, in order of cost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{needs, shell, test, tidy};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Runs the steps after a failed one too.
    #[arg(long)]
    keep_going: bool,
}

/// A step: its name, and what it does.
type Step = (&'static str, fn(&Shell) -> Result<Outcome>);

const STEPS: [Step; 9] = [
    ("tools", tools),
    ("fmt", fmt),
    ("tidy", tidy),
    ("clippy", clippy),
    ("test", tests),
    ("doc", doc),
    ("deny", deny),
    ("ebpf", ebpf),
    ("kustomize", kustomize),
];

enum Outcome {
    Done,
    /// Not run here, and why.
    Skip(&'static str),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = shell::at_root()?;
    let mut report = Vec::new();
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n=== {name}");
        let started = Instant::now();
        let outcome = step(&sh);
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
        Ok(Outcome::Skip(why)) => format!("skipped: {why}"),
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
    Ok(Outcome::Done)
}

/// Read by those who work on it, so links to what is private are as good as others.
fn doc(sh: &Shell) -> Result<Outcome> {
    cmd!(sh, "cargo doc --no-deps --document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")
        .run()?;
    Ok(Outcome::Done)
}

/// What must not be linked in is looked for here too, since few machines have cargo-deny.
fn deny(sh: &Shell) -> Result<Outcome> {
    let linked = cmd!(sh, "cargo tree --quiet --edges normal,build --prefix none").read()?;
    for banned in ["ring", "openssl-sys", "native-tls"] {
        if linked.lines().any(|line| line.split(' ').next() == Some(banned)) {
            bail!("{banned} is linked in: find out by whom with `cargo tree --invert {banned}`");
        }
    }
    if !shell::has("cargo-deny") {
        return Ok(Outcome::Skip(
            "licences and sources, as cargo-deny is not installed (cargo install --locked cargo-deny)",
        ));
    }
    // Without advisories: their database is a repository that not every machine reaches.
    cmd!(sh, "cargo deny --offline check bans licenses sources").run()?;
    Ok(Outcome::Done)
}

/// The object in the tree against its sources; the agent's build compares their hashes in any case.
fn ebpf(sh: &Shell) -> Result<Outcome> {
    let nightly =
        cmd!(sh, "rustup run nightly rustc --version").quiet().ignore_stdout().ignore_stderr();
    if !shell::has("rustup") || nightly.run().is_err() {
        return Ok(Outcome::Skip("no nightly toolchain to build the object with"));
    }
    cmd!(sh, "cargo xtask ebpf --check").run()?;
    Ok(Outcome::Done)
}

/// The same rendering that a user's `kubectl apply -k` does; the tests look into the documents.
fn kustomize(sh: &Shell) -> Result<Outcome> {
    let mut folders = vec![sh.current_dir().join("deploy/base")];
    folders.extend(sh.read_dir("deploy/overlays").context("failed to list deploy/overlays")?);
    for folder in folders {
        cmd!(sh, "kubectl kustomize {folder}")
            .ignore_stdout()
            .run()
            .with_context(|| format!("{} does not render", folder.display()))?;
    }
    Ok(Outcome::Done)
}
