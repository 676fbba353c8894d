//! Builds the object: the same bytes on every machine with the same toolchain.

use std::path::PathBuf;

use anyhow::{Context, Result};
use xshell::{Shell, TempDir, cmd};

use super::toolchain::{TOOLCHAIN, sysroot};
use crate::shell::root;

const TARGET: &str = "bpfel-unknown-none";

/// The object's bytes: code and type information, without the bulk of DWARF that only debuggers read.
pub(super) fn object(sh: &Shell) -> Result<Vec<u8>> {
    let target_dir = root()?.join("target/ebpf");
    cmd!(sh, "cargo +{TOOLCHAIN} build --release --locked --package sotto-ebpf")
        .args(["-Z", "build-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(sh)?)
        .env_remove("RUSTFLAGS")
        .run()?;
    strip(sh, &target_dir.join(TARGET).join("release/sotto"))
}

/// Type information is asked of the linker; paths of this machine are taken out of it.
fn flags(sh: &Shell) -> Result<String> {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let remap = |from: PathBuf, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [
        // The programs read no registers, so they are the same for every architecture of the host.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        remap(root()?, "."),
        remap(cargo_home, "cargo"),
        remap(sysroot(sh)?, "rust"),
    ];
    Ok(flags.join("\x1f"))
}

/// Removes DWARF with the toolchain's own objcopy; BTF stays.
fn strip(sh: &Shell, object: &std::path::Path) -> Result<Vec<u8>> {
    let libraries = sysroot(sh)?.join("lib");
    let objcopy = libraries.join("rustlib").join(host(sh)?).join("bin/rust-objcopy");
    let place: TempDir = sh.create_temp_dir()?;
    let stripped = place.path().join("sotto.o");
    cmd!(sh, "{objcopy} --strip-debug {object} {stripped}")
        .env("LD_LIBRARY_PATH", libraries)
        .run()?;
    std::fs::read(&stripped).with_context(|| format!("failed to read {}", stripped.display()))
}

fn host(sh: &Shell) -> Result<String> {
    let version = cmd!(sh, "rustc +{TOOLCHAIN} --version --verbose").quiet().read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}
