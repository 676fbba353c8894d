//! `cargo xtask ebpf`: builds the kernel programs into the object that the agent embeds, and checks it.

mod build;
mod toolchain;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::shell::{at_root, require_root, root};

mod fingerprint {
    include!("../../ebpf/fingerprint.rs");
}

/// Where the object lies.
const OBJECT: &str = "ebpf/prebuilt/sotto.o";
/// The fingerprint of the sources it was built from.
const RECORD: &str = "ebpf/prebuilt/sources.sha256";

/// Flags of `cargo xtask ebpf`.
#[derive(clap::Args)]
pub(crate) struct EbpfArgs {
    /// Build, and compare with the object in the tree instead of replacing it.
    #[arg(long, conflicts_with_all = ["load", "unload"])]
    check: bool,
    /// Load and attach the programs on this node, and show their sizes (needs root).
    #[arg(long, conflicts_with = "unload")]
    load: bool,
    /// Remove the programs, and all that is pinned (needs root).
    #[arg(long)]
    unload: bool,
    /// Root of the node's cgroup2 hierarchy (default: where it is mounted).
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// Where links and maps are pinned.
    #[arg(long, default_value = "/sys/fs/bpf/sotto/v1")]
    pin_dir: PathBuf,
}

/// Runs the task.
pub(crate) fn run(args: &EbpfArgs) -> Result<()> {
    let sh = at_root()?;
    if args.load || args.unload {
        return by_agent(&sh, args);
    }
    toolchain::provide(&sh)?;
    let object = build::object(&sh)?;
    let root = root()?;
    if args.check { compare(&root, &object) } else { replace(&root, &object) }
}

fn replace(root: &Path, object: &[u8]) -> Result<()> {
    let sources = fingerprint::fingerprint(root).context("failed to read the eBPF sources")?;
    std::fs::create_dir_all(root.join("ebpf/prebuilt"))?;
    std::fs::write(root.join(OBJECT), object)?;
    std::fs::write(root.join(RECORD), format!("{sources}\n"))?;
    eprintln!("{OBJECT}: {} bytes, from sources {sources}", object.len());
    Ok(())
}

fn compare(root: &Path, object: &[u8]) -> Result<()> {
    let sources = fingerprint::fingerprint(root).context("failed to read the eBPF sources")?;
    let recorded = std::fs::read_to_string(root.join(RECORD)).unwrap_or_default();
    if recorded.trim() != sources {
        bail!("{RECORD} is not that of the sources: run `cargo xtask ebpf`");
    }
    let prebuilt = std::fs::read(root.join(OBJECT))?;
    if prebuilt != object {
        bail!(
            "{OBJECT} ({} bytes) is not what this toolchain builds ({} bytes): run `cargo xtask ebpf`",
            prebuilt.len(),
            object.len()
        );
    }
    eprintln!("{OBJECT} is what its sources build to");
    Ok(())
}

/// The agent's binary does the loading: there is one loader. It is built here, so it embeds what is in the tree.
fn by_agent(sh: &Shell, args: &EbpfArgs) -> Result<()> {
    require_root("loading eBPF programs")?;
    let pin_dir = &args.pin_dir;
    let mut command = cmd!(sh, "cargo run --quiet --package sotto -- bpf");
    if args.load {
        command = command.arg("load").arg("--pin-dir").arg(pin_dir);
        if let Some(cgroup_root) = &args.cgroup_root {
            command = command.arg("--cgroup-root").arg(cgroup_root);
        }
    } else {
        command = command.arg("unload").arg("--pin-dir").arg(pin_dir);
    }
    Ok(command.run()?)
}
