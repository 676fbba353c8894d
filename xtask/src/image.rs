//! `cargo xtask image`: the container image, by whichever engine this machine has.

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::shell;

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
    let engine = engine(&sh)?;
    let Args { tag, registry } = args;
    cmd!(
        sh,
        "{engine} build --file deploy/Dockerfile --build-arg REGISTRY={registry} --tag {tag} ."
    )
    .run()?;
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
