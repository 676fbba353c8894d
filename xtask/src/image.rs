//! `cargo xtask image`: the container image, by whichever engine this machine has, and its bill of materials.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::{needs, shell};

/// Where the bill of materials goes (CycloneDX, JSON): what is linked into the one program of the image.
const BILL: &str = "target/image/sotto.cdx.json";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image's name and tag.
    #[arg(long, default_value = "sotto:dev")]
    tag: String,
    /// Becomes the root of all base images' names, for a machine that pulls from a mirror.
    #[arg(long, default_value = "docker.io/library")]
    registry: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = shell::at_root()?;
    bill(&sh)?;
    let engine = engine(&sh)?;
    let Args { tag, registry } = args;
    cmd!(
        sh,
        "{engine} build --file deploy/Dockerfile --build-arg REGISTRY={registry} --tag {tag} ."
    )
    .run()?;
    Ok(())
}

/// Writes what the program is made of, each crate with version, licence and checksum.
fn bill(sh: &Shell) -> Result<()> {
    needs::cargo(sh, &needs::CYCLONEDX)?;
    cmd!(
        sh,
        "cargo cyclonedx --quiet --manifest-path agent/Cargo.toml --format json --spec-version 1.5"
    )
    .args(["--override-filename", "sotto-bill", "--no-build-deps"])
    .run()?;
    sh.create_dir("target/image")?;
    // The tool writes one beside each manifest of the workspace.
    for package in ["ebpf/abi", "proto", "tests", "xtask", "ebpf"] {
        sh.remove_path(format!("{package}/sotto-bill.json"))?;
    }
    sh.copy_file("agent/sotto-bill.json", BILL)?;
    sh.remove_path("agent/sotto-bill.json")?;
    eprintln!("{BILL} written");
    Ok(())
}

/// The first engine that answers: a client without a running engine does not count.
fn engine(sh: &Shell) -> Result<&'static str> {
    for engine in ["docker", "podman"] {
        if shell::has(engine)
            && cmd!(sh, "{engine} info").quiet().ignore_stdout().ignore_stderr().run().is_ok()
        {
            return Ok(engine);
        }
    }
    bail!(
        "an image is built by docker or podman, and neither answers here (`docker info` must work)"
    )
}
