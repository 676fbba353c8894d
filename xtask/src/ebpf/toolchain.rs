//! What building for the kernel takes: a nightly compiler, the sources of `core`, and a linker for BPF.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::shell::has;

/// The compiler that builds the programs.
pub(super) const TOOLCHAIN: &str = "nightly";
/// The last release that uses the LLVM inside rustc, so that no LLVM need be installed.
const LINKER_VERSION: &str = "0.10.3";

/// Makes sure that all of it is there.
pub(super) fn provide(sh: &Shell) -> Result<()> {
    if cmd!(sh, "rustc +{TOOLCHAIN} --version").quiet().ignore_stderr().read().is_err() {
        cmd!(sh, "rustup toolchain install {TOOLCHAIN} --profile minimal").run()?;
    }
    let sources = sysroot(sh)?.join("lib/rustlib/src/rust");
    if !has_core(&sources) && !by_rustup(sh, &sources) {
        by_debian(sh, &sources)?;
    }
    if !has("bpf-linker") {
        cmd!(sh, "cargo +{TOOLCHAIN} install --locked bpf-linker --version {LINKER_VERSION}")
            .run()?;
    }
    Ok(())
}

/// The tools by their versions, on one line.
pub(super) fn name(sh: &Shell) -> Result<String> {
    let rustc = cmd!(sh, "rustc +{TOOLCHAIN} --version").quiet().read()?;
    let linker = cmd!(sh, "bpf-linker --version").quiet().read()?;
    Ok(format!("{rustc}, {linker}"))
}

/// The compiler's root folder.
pub(super) fn sysroot(sh: &Shell) -> Result<PathBuf> {
    Ok(cmd!(sh, "rustc +{TOOLCHAIN} --print sysroot").quiet().read()?.into())
}

fn has_core(sources: &Path) -> bool {
    sources.join("library/core/src/lib.rs").exists()
}

fn by_rustup(sh: &Shell, sources: &Path) -> bool {
    let added = cmd!(sh, "timeout 60 rustup component add rust-src --toolchain {TOOLCHAIN}").run();
    added.is_ok() && has_core(sources)
}

/// Debian packages the same sources: where rustup's server cannot be reached, its mirror often can. They fit if
/// the minor versions are equal.
fn by_debian(sh: &Shell, sources: &Path) -> Result<()> {
    let version = cmd!(sh, "rustc +{TOOLCHAIN} --version").quiet().read()?;
    let minor = version
        .strip_prefix("rustc 1.")
        .and_then(|rest| rest.split('.').next())
        .with_context(|| format!("not a version of rustc: {version}"))?;
    let mirror = mirror().context("no rust-src by rustup, and this is not Debian")?;
    for suite in ["testing", "unstable", "experimental"] {
        let work = sh.create_temp_dir()?;
        if let Some(unpacked) = fetch(sh, &mirror, suite, minor, work.path())? {
            let parent = sources.parent().context("the sysroot has no parent")?;
            std::fs::create_dir_all(parent)?;
            cmd!(sh, "rm -rf {sources}").run()?;
            cmd!(sh, "cp -r {unpacked} {sources}").run()?;
            return Ok(());
        }
    }
    bail!(
        "no rust-src for rustc 1.{minor}: `rustup component add rust-src --toolchain {TOOLCHAIN}`"
    );
}

/// The machine's own Debian mirror.
fn mirror() -> Option<String> {
    ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .map(|word| word.trim_end_matches('/').to_owned())
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
}

/// Unpacks a suite's rust-src of the given minor version, if the suite has it. Touches no state of apt.
fn fetch(
    sh: &Shell,
    mirror: &str,
    suite: &str,
    minor: &str,
    work: &Path,
) -> Result<Option<PathBuf>> {
    std::fs::create_dir_all(work.join("lists/partial"))?;
    let list = work.join("sources.list");
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    std::fs::write(&list, format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))?;
    let options = &[
        format!("-oDir::Etc::sourcelist={}", list.display()),
        "-oDir::Etc::sourceparts=/dev/null".to_owned(),
        format!("-oDir::State::Lists={}", work.join("lists").display()),
    ];
    if cmd!(sh, "apt-get {options...} -qq update").run().is_err() {
        return Ok(None);
    }
    let offered = cmd!(sh, "apt-cache {options...} madison rust-src").read()?;
    let wanted = format!("1.{minor}.");
    let Some(version) = offered
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|version| version.starts_with(&wanted))
    else {
        return Ok(None);
    };
    let _here = sh.push_dir(work);
    cmd!(sh, "apt-get {options...} -qq download rust-src={version}").run()?;
    let package = only(work, |name| name.ends_with(".deb"))?;
    cmd!(sh, "dpkg -x {package} unpacked").run()?;
    only(&work.join("unpacked/usr/src"), |name| name.starts_with("rustc-")).map(Some)
}

fn only(folder: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if is_it(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("the package has not what it should have in {}", folder.display())
}
