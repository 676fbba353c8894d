//! `cargo xtask exec NS/POD -- CMD`: a command inside a pod of a demo that was kept.

use anyhow::{Context, Result};

use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The pod: NAMESPACE/NAME.
    pod: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    shell::require_root("the demo")?;
    let mut passed = vec!["exec".to_owned(), args.pod.clone(), "--".to_owned()];
    passed.extend(args.command.iter().cloned());
    shell::become_program(&shell::built("debug")?.join("demo"), &passed)
        .context("no demo to look into: start one with `cargo xtask demo --keep`")
}
