//! `cargo xtask bench`: an optimised build without the wait for fat LTO, then the bench itself.

use anyhow::Result;
use xshell::cmd;

use crate::shell;

/// Flags are the bench's own: `cargo xtask bench -- --help` lists them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to the bench, as `--quick` or `--only up-1,request-1`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    shell::require_root("the bench")?;
    let sh = shell::at_root()?;
    cmd!(sh, "cargo build --profile quick --package sotto --package sotto-tests --bins").run()?;
    shell::become_program(&shell::built("quick")?.join("bench"), &args.rest)
}
