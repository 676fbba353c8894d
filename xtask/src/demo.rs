//! `cargo xtask demo`: builds the agent and the pocket cluster, then becomes the demo.

use anyhow::Result;
use xshell::cmd;

use crate::shell;

/// Flags are the demo's own: `cargo xtask demo -- --help` lists them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves the cluster running, and prints how to use it by hand.
    #[arg(long)]
    keep: bool,
    /// Passed on to the demo.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    shell::require_root("the demo")?;
    let sh = shell::at_root()?;
    cmd!(sh, "cargo build --package sotto --package sotto-tests --bins").run()?;
    let mut passed = args.rest.clone();
    if args.keep {
        passed.push("--keep".to_owned());
    }
    shell::become_program(&shell::built("debug")?.join("demo"), &passed)
}
