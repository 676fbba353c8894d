//! The host's programs the kit uses, installed where they are missing.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::command;

/// A program and the Debian package that brings it.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

/// Makes sure the kit runs as root and every tool is there; installs the missing with apt-get and
/// says so through `tell`.
///
/// # Errors
/// Not root, or a tool is missing and cannot be installed.
pub fn ensure(tell: &mut dyn FnMut(&str)) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the pocket cluster needs root: it makes network namespaces and loads eBPF");
    }
    let missing: Vec<_> = TOOLS.iter().filter(|(tool, _)| find(tool).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    tell(&format!("installing {} with apt-get", packages.join(", ")));
    install(&packages)
        .with_context(|| format!("install {} yourself, then start again", packages.join(", ")))?;
    for (tool, package) in missing {
        find(tool)
            .with_context(|| format!("{tool} is still missing after installing {package}"))?;
    }
    Ok(())
}

/// Where `tool` is on the PATH (and in the sbin directories that a user's PATH may lack).
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(tool)).find(|file| file.is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    let options = ["-o", "DPkg::Lock::Timeout=120", "-qq", "-y", "--no-install-recommends"];
    let install = || {
        let args = options.iter().copied().chain(["install"]).chain(packages.iter().copied());
        command::run("apt-get", args)
    };
    if install().is_err() {
        command::run("apt-get", ["-qq", "update"])?;
        install()?;
    }
    Ok(())
}
