//! `sotto completions`: a script for a shell.

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::config::{Cli, CompletionsArgs};

/// Prints it.
pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sotto", &mut script);
    let written = std::io::stdout().write_all(&script);
    super::exit(written.map_err(|error| anyhow::Error::from(error).context("failed to print")))
}
