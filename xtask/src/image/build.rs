//! The program of an image: static, stripped, and without the folders of the machine that built it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use super::VERSION;
use super::platform::Platform;
use crate::{needs, shell};

/// How it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Unoptimised.
    Dev,
    /// Optimised, without waiting for fat LTO.
    Quick,
    /// As it is shipped.
    Release,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Quick => "quick",
            Self::Release => "release",
        }
    }

    /// Where cargo puts what it builds with it.
    const fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Quick => "quick",
            Self::Release => "release",
        }
    }
}

/// Builds the program and returns its bytes. What a debugger needs is left beside the archive.
pub(super) fn program(sh: &Shell, platform: Platform, profile: Profile) -> Result<Vec<u8>> {
    let triple = platform.triple();
    let cross = platform != Platform::host()?;
    if cross {
        provide(sh, platform)?;
    }
    let (name, folders) = (profile.name(), Folders::of_this_machine(sh)?);
    // With `--target`, because build scripts and macros are for this machine and must stay dynamic.
    let mut build = cmd!(
        sh,
        "cargo build --profile {name} --locked --package sotto --bin sotto --target {triple}"
    )
    .env("RUSTFLAGS", folders.rust())
    .env(format!("CFLAGS_{}", triple.replace('-', "_")), folders.c());
    if cross {
        let linker = format!("{}-gcc", platform.tools());
        let variable = triple.to_uppercase().replace('-', "_");
        build = build.env(format!("CARGO_TARGET_{variable}_LINKER"), &linker);
        build = build.env(format!("CC_{}", triple.replace('-', "_")), &linker);
    }
    build.run()?;
    let built = shell::built(triple)?.join(profile.folder()).join("sotto");
    stripped(sh, platform, &built)
}

/// This machine's folders that compilers write into programs: in panics, in assertions, in what a debugger reads.
struct Folders {
    root: String,
    cargo_home: String,
}

impl Folders {
    fn of_this_machine(sh: &Shell) -> Result<Self> {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
            let home = std::env::var_os("HOME")?;
            Some(PathBuf::from(home).join(".cargo"))
        });
        let home = home.context("neither CARGO_HOME nor HOME is set")?;
        let found = Self {
            root: sh.current_dir().display().to_string(),
            cargo_home: home.display().to_string(),
        };
        for folder in [&found.root, &found.cargo_home] {
            if folder.contains(' ') {
                bail!("compilers' flags cannot name a folder with a space in it: {folder}");
            }
        }
        Ok(found)
    }

    /// Static, and with other names for the folders.
    fn rust(&self) -> String {
        let Self { root, cargo_home } = self;
        format!(
            "-C target-feature=+crt-static \
             --remap-path-prefix={root}=/sotto --remap-path-prefix={cargo_home}=/cargo"
        )
    }

    /// The same names, for what is written in C.
    fn c(&self) -> String {
        let Self { root, cargo_home } = self;
        let own = std::env::var("CFLAGS").unwrap_or_default();
        let maps = format!("-ffile-prefix-map={root}=/sotto -ffile-prefix-map={cargo_home}=/cargo");
        format!("{own} {maps}").trim().to_owned()
    }
}

fn stripped(sh: &Shell, platform: Platform, built: &std::path::Path) -> Result<Vec<u8>> {
    let objcopy = match Platform::host()? == platform {
        true => String::from("objcopy"),
        false => format!("{}-objcopy", platform.tools()),
    };
    let folder = sh.current_dir().join("target/image");
    sh.create_dir(&folder)?;
    let symbols = folder.join(format!("sotto-{VERSION}-{}.debug", platform.architecture()));
    cmd!(sh, "{objcopy} --only-keep-debug {built} {symbols}").run()?;
    let work = sh.create_temp_dir()?;
    let small = work.path().join("sotto");
    cmd!(sh, "{objcopy} --strip-all {built} {small}").run()?;
    let bytes = std::fs::read(&small).context("failed to read the stripped program")?;
    ensure_static(&bytes)?;
    Ok(bytes)
}

/// `PT_INTERP` names the loader of a dynamic program, which the image has not.
///
/// # Errors
/// It is not a 64-bit little-endian ELF file, or it asks for a loader.
fn ensure_static(elf: &[u8]) -> Result<()> {
    const PT_INTERP: u32 = 3;
    let short = || "the program is cut off";
    let number = |at: usize, bytes: usize| -> Result<u64> {
        let field = elf.get(at..at + bytes).with_context(short)?;
        Ok(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("the program is not a 64-bit little-endian ELF file");
    }
    // Offsets of the ELF header's e_phoff, e_phentsize and e_phnum.
    let table = usize::try_from(number(32, 8)?)?;
    let (size, count) = (usize::try_from(number(54, 2)?)?, usize::try_from(number(56, 2)?)?);
    for entry in 0..count {
        if number(table + entry * size, 4)? == u64::from(PT_INTERP) {
            bail!("the program is not static: it asks for a loader");
        }
    }
    Ok(())
}

/// A compiler for another architecture.
fn provide(sh: &Shell, platform: Platform) -> Result<()> {
    let triple = platform.triple();
    if !shell::has("rustup") {
        bail!("building for {triple} needs rustup, or an own compiler for it");
    }
    cmd!(sh, "rustup target add {triple}").run()?;
    needs::cross(sh, &format!("{}-gcc", platform.tools()), &platform.packages())
}

#[cfg(test)]
mod tests {
    use super::ensure_static;

    /// An ELF header with one entry in its program header table.
    fn elf(kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = kind;
        bytes
    }

    #[test]
    fn programs_that_ask_for_a_loader_are_refused() {
        ensure_static(&elf(1)).expect("it is static");
        assert!(ensure_static(&elf(3)).is_err());
        assert!(ensure_static(&elf(1)[..64]).is_err());
        assert!(ensure_static(b"#!/bin/sh").is_err());
        let own = std::fs::read("/proc/self/exe").expect("a test can read itself");
        assert!(ensure_static(&own).is_err(), "tests are dynamic");
    }
}
