//! Where the programs are that the kit starts: beside the one that runs.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The built program `name`, of the same build as the running one.
///
/// # Errors
/// It is not there: says what to run.
pub fn find(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("find the running program")?;
    let mut dir = this.parent().context("the running program is in no directory")?;
    // Tests run from `deps`, one below.
    if dir.file_name().is_some_and(|name| name == "deps") {
        dir = dir.parent().context("deps is in no directory")?;
    }
    let program = dir.join(name);
    let package = if name == "sotto" { "sotto" } else { "sotto-tests" };
    anyhow::ensure!(
        program.is_file(),
        "{} is not built: cargo build --package {package} --bins",
        program.display()
    );
    Ok(program)
}
