//! istiod by its own chart, agents by ours.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::super::mesh::{NAMESPACE, ROLLOUT};
use super::super::objects::{MODE, OURS};
use super::super::process::{self, Said};
use super::super::rows::install::settle_enrolled;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, STRICT, Suite};
use super::super::table::Outcome;
use super::Istiod;

/// The folder of `deploy` for a cluster with an istiod.
const OVERLAY: &str = "overlays/istiod";
/// Where what istioctl renders is kept, to be deleted by.
const MANIFEST: &str = "target/e2e/istiod.yaml";

/// The like, of an istiod besides.
fn also(revision: &str) -> String {
    format!("target/e2e/istiod-{revision}.yaml")
}

impl Suite {
    /// The real one; an error where none was asked for.
    pub(in super::super) fn istiod(&self) -> Result<&Istiod> {
        self.settings.istiod.as_ref().context("no --istiod")
    }

    /// Runs istioctl, whatever it says.
    pub(in super::super) fn istioctl(&self, args: &[&str]) -> Result<Said> {
        let mut command = std::process::Command::new(&self.istiod()?.istioctl);
        command.args(args);
        process::run(&mut command, "", self.kubectl.left().min(Duration::from_secs(170)))
    }

    /// Installs istiod with these values, or changes it to them, and waits until it runs with them.
    pub(in super::super) fn configure(&self, values: &[&str]) -> Result<()> {
        self.apply_rendered(values, MANIFEST)?;
        self.kubectl.ok(&format!("rollout restart -n {NAMESPACE} deployment/istiod"))?;
        self.istiod_rolled_out("istiod")
    }

    /// Installs an istiod of a revision, besides.
    pub(super) fn configure_also(&self, revision: &str) -> Result<()> {
        let value = format!("revision={revision}");
        self.apply_rendered(&[&value, "components.base.enabled=false"], &also(revision))?;
        self.istiod_rolled_out(&format!("istiod-{revision}"))
    }

    /// Takes it away.
    pub(super) fn remove_also(&self, revision: &str) -> Result<()> {
        let path = self.root.join(also(revision));
        let line = format!("delete --ignore-not-found --wait=false -f {}", path.display());
        self.kubectl.ok_within(&line, Duration::from_secs(120)).map(drop)
    }

    pub(super) fn istiod_rolled_out(&self, name: &str) -> Result<()> {
        let line = format!("rollout status -n {NAMESPACE} deployment/{name} --timeout=170s");
        self.kubectl.ok_within(&line, ROLLOUT).map(drop)
    }

    /// Applies what istioctl renders with these values, and keeps it in a file.
    fn apply_rendered(&self, values: &[&str], kept: &str) -> Result<()> {
        let (hub, tag) = &self.istiod()?.image;
        let own = [
            "profile=ambient".to_owned(),
            "components.cni.enabled=false".to_owned(),
            "components.ztunnel.enabled=false".to_owned(),
            format!("hub={hub}"),
            format!("tag={tag}"),
            "values.global.variant=".to_owned(),
            "values.global.imagePullPolicy=IfNotPresent".to_owned(),
            "values.pilot.resources.requests.cpu=10m".to_owned(),
            "values.pilot.resources.requests.memory=100Mi".to_owned(),
        ];
        let mut args = vec!["manifest", "generate"];
        for value in own.iter().map(String::as_str).chain(values.iter().copied()) {
            args.extend(["--set", value]);
        }
        let said = self.istioctl(&args)?;
        if said.code != 0 {
            bail!("istioctl manifest generate: exit {}: {}", said.code, said.last_line());
        }
        let path = self.root.join(kept);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, said.out)
            .with_context(|| format!("failed to write {}", path.display()))?;
        let line = format!("apply --server-side --force-conflicts -f {}", path.display());
        self.kubectl.ok_within(&line, Duration::from_secs(120)).map(drop)
    }

    /// Waits until every node's agent is the newest and ready.
    pub(super) fn agents_rolled_out(&self) -> Result<()> {
        let line = format!("rollout status -n {NAMESPACE} daemonset/ztunnel --timeout=170s");
        self.kubectl.ok_within(&line, ROLLOUT).map(drop)
    }
}

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    let labels = json!({ OURS: "true", "pod-security.kubernetes.io/enforce": "privileged" });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": NAMESPACE, "labels": labels } });
    suite.kubectl.apply(&[namespace])?;
    suite.configure(&[])?;
    suite.settle(PLAIN, false)?;
    let mut warned = suite.install(OVERLAY, &suite.settings.image)?;
    // Of the form that kubectl before 1.21 knows: see the overlays.
    warned.retain(|line| !(line.starts_with("# Warning:") && line.contains("is deprecated")));
    suite.agents_rolled_out()?;
    let agents = suite.agents()?.len();
    settle_enrolled(suite)?;
    let version = suite.istioctl(&["version", "--short"])?;
    let version = version.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let seen = format!("{agents} agents ready, kubectl warned {} times; {version}", warned.len());
    judge(agents > 0 && warned.is_empty(), seen)
}

pub(super) fn off(suite: &Suite) -> Result<Outcome> {
    for namespace in [MESH, STRICT] {
        suite.kubectl.ok(&format!("label namespace {namespace} {MODE}-"))?;
    }
    remove(suite)?;
    let mut told = Vec::new();
    for namespace in [MESH, STRICT] {
        let url = format!("http://server.{namespace}/");
        suite.reaches((PLAIN, "client"), &url)?;
        suite.delete_pod(namespace, "client")?;
        suite.kubectl.apply(&[suite.near_pod(namespace, "client")])?;
        suite.ready(namespace, "client")?;
        suite.reaches((namespace, "client"), &url)?;
        told.push(namespace);
    }
    judge(true, format!("pods start, and plaintext is answered in {}", told.join(", ")))
}

/// Takes agents and istiod off, if they are there.
pub(in super::super) fn remove(suite: &Suite) -> Result<()> {
    let folder = suite.kustomization(OVERLAY, &suite.settings.image)?;
    let line = format!("delete --ignore-not-found --timeout=110s -k {}", folder.display());
    suite.kubectl.ok_within(&line, Duration::from_secs(120))?;
    let path = suite.root.join(MANIFEST);
    if path.exists() {
        let line = format!("delete --ignore-not-found --wait=false -f {}", path.display());
        suite.kubectl.ok_within(&line, Duration::from_secs(120))?;
    }
    // Of istiod's own making.
    let line = "delete --ignore-not-found validatingwebhookconfigurations istiod-default-validator";
    suite.kubectl.ok(line).map(drop)
}
