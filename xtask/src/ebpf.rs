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

/// The compiler and the linker that built it: others build the same programs, in other bytes.
const TOOLS: &str = "ebpf/prebuilt/toolchain";

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
    if args.check {
        return check(&sh)?.map_or(Ok(()), |why| bail!("not compared: {why}"));
    }
    toolchain::provide(&sh)?;
    replace(&sh, &root()?, &build::object(&sh)?)
}

/// Builds the object and compares it with the one in the tree. Where that cannot be done, returns why;
/// the fingerprint of the sources is compared in any case.
pub(crate) fn check(sh: &Shell) -> Result<Option<String>> {
    let root = root()?;
    compare_sources(&root)?;
    if let Err(error) = toolchain::provide(sh) {
        return Ok(Some(format!("the toolchain of the eBPF object cannot be had: {error:#}")));
    }
    let (tools, recorded) = (toolchain::name(sh)?, read(&root, TOOLS)?);
    if tools != recorded {
        return Ok(Some(format!("the eBPF object is of {recorded}; here is {tools}")));
    }
    compare(&root, &build::object(sh)?)?;
    Ok(None)
}

fn read(root: &Path, file: &str) -> Result<String> {
    let text = std::fs::read_to_string(root.join(file));
    Ok(text.with_context(|| format!("failed to read {file}"))?.trim().to_owned())
}

fn replace(sh: &Shell, root: &Path, object: &[u8]) -> Result<()> {
    let sources = fingerprint::fingerprint(root).context("failed to read the eBPF sources")?;
    std::fs::create_dir_all(root.join("ebpf/prebuilt"))?;
    std::fs::write(root.join(OBJECT), object)?;
    std::fs::write(root.join(RECORD), format!("{sources}\n"))?;
    std::fs::write(root.join(TOOLS), format!("{}\n", toolchain::name(sh)?))?;
    eprintln!("{OBJECT}: {} bytes, from sources {sources}", object.len());
    Ok(())
}

fn compare_sources(root: &Path) -> Result<()> {
    let sources = fingerprint::fingerprint(root).context("failed to read the eBPF sources")?;
    if read(root, RECORD)? != sources {
        bail!("{RECORD} is not that of the sources: run `cargo xtask ebpf`");
    }
    Ok(())
}

fn compare(root: &Path, object: &[u8]) -> Result<()> {
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
