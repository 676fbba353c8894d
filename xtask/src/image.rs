//! `cargo xtask image`: the container image as an archive, without a container engine, and its bill of materials.
//!
//! The program is linked statically: the same binary is copied to the nodes as their CNI plugin, whatever C library
//! they have. So nothing lies below it in the image. The same commit and the same toolchain make the same bytes.

mod archive;
mod bill;
mod build;
mod layer;
mod name;
mod platform;

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use self::archive::{Archive, Image};
use self::build::Profile;
use self::layer::{Entry, Layer};
use self::name::Name;
use self::platform::Platform;
use crate::shell;

/// The release that this tree is: image, manifests and program have it in common.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image's name and tag, as the nodes will know it.
    #[arg(long, default_value_t = format!("sotto:{VERSION}"))]
    tag: String,
    /// `dev` and `quick` are built in less time, and are for tests.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Architectures, such as linux/amd64,linux/arm64; this machine's own if none is given.
    #[arg(long, value_delimiter = ',')]
    platform: Vec<Platform>,
    /// The archive; target/image/sotto-VERSION.tar if it is not given.
    #[arg(long)]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = shell::at_root()?;
    let name = Name::parse(&args.tag)?;
    let source = Source::of(&sh)?;
    let bill = bill::write(&sh, source.epoch_seconds)?;
    let mut platforms = args.platform.clone();
    if platforms.is_empty() {
        platforms.push(Platform::host()?);
    }
    platforms.sort_unstable();
    platforms.dedup();
    let mut images = Vec::new();
    for platform in platforms {
        let program = build::program(&sh, platform, args.profile)?;
        let layer = Layer::pack(&contents(program, &bill), source.epoch_seconds)?;
        images.push(Image { platform, layer });
    }
    let output = args.output.clone().unwrap_or_else(|| default_output(&sh));
    let archive = Archive { name: &name, labels: source.labels(), images: &images };
    let bytes = archive.pack(&source.created()).context("failed to make the archive")?;
    write(&output, &bytes)?;
    tell(&output, bytes.len(), &name);
    Ok(())
}

/// What is in the image: the program, what it is made of, and how the C library in it finds names and users.
fn contents(program: Vec<u8>, bill: &[u8]) -> Vec<Entry> {
    // Names are looked up in /etc/hosts and by DNS, which are a part of the C library; anything else would be a module.
    let nsswitch = "passwd: files\ngroup: files\nhosts: files dns\n";
    let passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
    let group = "root:x:0:\nnonroot:x:65532:\n";
    vec![
        Entry::file("etc/group", 0o644, group),
        Entry::file("etc/nsswitch.conf", 0o644, nsswitch),
        Entry::file("etc/passwd", 0o644, passwd),
        Entry::folder("run", 0o755),
        Entry::folder("tmp", 0o1777),
        Entry::file("usr/local/bin/sotto", 0o755, program),
        // Where scanners look for it.
        Entry::file("usr/share/sbom/sotto.cdx.json", 0o644, bill),
        Entry::link("var/run", "/run"),
    ]
}

fn default_output(sh: &Shell) -> PathBuf {
    sh.current_dir().join(format!("target/image/sotto-{VERSION}.tar"))
}

fn write(output: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to make {}", folder.display()))?;
    }
    std::fs::write(output, bytes).with_context(|| format!("failed to write {}", output.display()))
}

fn tell(output: &Path, bytes: usize, name: &Name) {
    let output = output.display();
    eprintln!("{output} written: {name}, {:.1} MB. Where it goes:", bytes as f64 / 1e6);
    eprintln!("  a registry  skopeo copy --all oci-archive:{output} docker://{name}");
    eprintln!("  a node      ctr -n k8s.io images import {output}");
    eprintln!("  kind        kind load image-archive {output}");
    eprintln!("  an engine   docker load -i {output}, podman load -i {output}");
}

/// The commit that is built.
struct Source {
    revision: String,
    /// Of the commit, or what `SOURCE_DATE_EPOCH` says: the only time that anything in the archive has.
    epoch_seconds: u64,
}

impl Source {
    fn of(sh: &Shell) -> Result<Self> {
        let hint = "this is no git work tree: set SOURCE_DATE_EPOCH to the sources' time";
        let time = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(time) => time,
            Err(_) => cmd!(sh, "git log -1 --format=%ct").quiet().read().context(hint)?,
        };
        let epoch_seconds =
            time.trim().parse().with_context(|| format!("not a number of seconds: {time}"))?;
        let head = cmd!(sh, "git rev-parse HEAD").quiet().ignore_stderr().read();
        let changed = cmd!(sh, "git status --porcelain --untracked-files=no").quiet();
        let changed = changed.ignore_stderr().read().is_ok_and(|lines| !lines.is_empty());
        let mut revision = head.unwrap_or_else(|_| String::from("unknown"));
        if changed {
            revision.push_str("-changed");
        }
        Ok(Self { revision, epoch_seconds })
    }

    fn created(&self) -> String {
        let time = UNIX_EPOCH + Duration::from_secs(self.epoch_seconds);
        humantime::format_rfc3339_seconds(time).to_string()
    }

    /// Keys: <https://specs.opencontainers.org/image-spec/annotations/>
    fn labels(&self) -> Vec<(&'static str, String)> {
        let described = "An ambient mesh for Kubernetes: mutual TLS between pods, without sidecars";
        vec![
            ("org.opencontainers.image.created", self.created()),
            ("org.opencontainers.image.description", described.to_owned()),
            ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE").to_owned()),
            ("org.opencontainers.image.revision", self.revision.clone()),
            ("org.opencontainers.image.title", String::from("sotto")),
            ("org.opencontainers.image.version", VERSION.to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, VERSION};

    #[test]
    fn the_manifests_ask_for_this_release() {
        let root = crate::shell::root().expect("the tests run under cargo");
        let files = ["base", "base/agent", "overlays/uninstall"];
        for file in files.map(|folder| format!("deploy/{folder}/kustomization.yaml")) {
            let text = std::fs::read_to_string(root.join(&file)).expect("it is part of the tree");
            let tag = text.lines().find_map(|line| line.trim().strip_prefix("newTag: "));
            assert_eq!(tag, Some(VERSION), "{file}");
        }
    }

    #[test]
    fn times_are_in_utc() {
        let source = Source { revision: String::new(), epoch_seconds: 951_782_400 };
        assert_eq!(source.created(), "2000-02-29T00:00:00Z");
    }
}
