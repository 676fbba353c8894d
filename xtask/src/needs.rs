//! Tools that a task needs and a fresh machine lacks: found, else installed from Debian or crates.io.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::shell::has;

/// What the tests call: the tool, and the Debian package that has it.
const TEST_TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("curl", "curl"), KUBECTL];

/// Debian's kubectl is older than most clusters, and enough to render and to apply.
const KUBECTL: (&str, &str) = ("kubectl", "kubernetes-client");

/// Installs what `cargo xtask test` runs on, as far as it is absent.
pub(crate) fn for_tests(sh: &Shell) -> Result<()> {
    debian(sh, &TEST_TOOLS)?;
    cargo(sh, &NEXTEST)
}

/// A tool from crates.io, in the version that the project is checked with.
pub(crate) struct CargoTool {
    name: &'static str,
    version: &'static str,
}

const NEXTEST: CargoTool = CargoTool { name: "cargo-nextest", version: "0.9.151" };
/// Licences, sources, bans, advisories.
pub(crate) const DENY: CargoTool = CargoTool { name: "cargo-deny", version: "0.20.2" };
/// Bills of materials.
pub(crate) const CYCLONEDX: CargoTool = CargoTool { name: "cargo-cyclonedx", version: "0.5.9" };

/// Installs the tool if there is none of its name; another version is the user's own choice.
pub(crate) fn cargo(sh: &Shell, CargoTool { name, version }: &CargoTool) -> Result<()> {
    if !has(name) {
        // Unoptimised: built in half the time, and none of them works for long.
        cmd!(sh, "cargo install --locked --debug {name} --version {version}").run()?;
    }
    Ok(())
}

/// Installs kubectl, if there is none.
pub(crate) fn kubectl(sh: &Shell) -> Result<()> {
    debian(sh, &[KUBECTL])
}

/// Installs Debian's packages with a compiler for another architecture, unless there is `compiler`.
pub(crate) fn cross(sh: &Shell, compiler: &str, packages: &[&str]) -> Result<()> {
    let tools: Vec<(&str, &str)> = packages.iter().map(|package| (compiler, *package)).collect();
    debian(sh, &tools)
}

fn debian(sh: &Shell, tools: &[(&str, &str)]) -> Result<()> {
    let absent: Vec<&str> =
        tools.iter().filter(|(tool, _)| !has(tool)).map(|(_, package)| *package).collect();
    if absent.is_empty() {
        return Ok(());
    }
    if !has("apt-get") {
        bail!("install these first (they are Debian's names): {}", absent.join(" "));
    }
    // Package lists of a fresh image are absent or old, and then `install` finds nothing.
    cmd!(sh, "apt-get update -qq").run()?;
    cmd!(sh, "apt-get install -y -qq --no-install-recommends {absent...}")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run()?;
    Ok(())
}
