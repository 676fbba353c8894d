//! What every task uses to run commands: the work tree's root, and the tools of this machine.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xshell::Shell;

/// A shell at the root of the work tree.
pub(crate) fn at_root() -> Result<Shell> {
    let sh = Shell::new()?;
    sh.change_dir(root()?);
    Ok(sh)
}

/// The root of the work tree this task was started in.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    let root = Path::new(&manifest).parent().context("xtask lies in a folder of the work tree")?;
    Ok(root.to_owned())
}

/// Where cargo puts what it builds with `profile` ("debug", "quick").
pub(crate) fn built(profile: &str) -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root()?.join(dir),
        None => root()?.join("target"),
    };
    Ok(target.join(profile))
}

/// Becomes `program`, so that signals and the exit code are its own.
pub(crate) fn become_program(program: &Path, args: &[String]) -> Result<()> {
    if !program.exists() {
        bail!("{} is not built", program.display());
    }
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("failed to run {}", program.display()))
}

/// Whether `tool` can be run by its name.
pub(crate) fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| {
        std::fs::metadata(dir.join(tool))
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Fails, saying why root is needed, when this is not root.
pub(crate) fn require_root(what: &str) -> Result<()> {
    let uid = std::fs::metadata("/proc/self").context("failed to read /proc/self")?.uid();
    if uid != 0 {
        bail!("{what} makes network namespaces and loads eBPF programs: run it as root");
    }
    Ok(())
}
