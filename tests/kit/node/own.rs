//! The node's own processes, as systemd would run them: the first one, and the kubelet in the cgroup of its unit.
//!
//! A node has PIDs, mounts, a `/proc` and cgroups of its own, as one that is a container (kind, k3d) does.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tokio::process::Child;

use super::NodeConfig;
use crate::launch::Launch;
use crate::{cgroup, netns};

/// What the first process does: shows the node's PIDs, then waits and reaps.
const FIRST: &str = r#"mount -t proc proc /proc && echo $$ > "$0/cgroup.procs" || exit 1
while :; do sleep 1000; done"#;

/// The first process of a node, and its kubelet.
#[derive(Debug)]
pub(super) struct Own {
    first: u32,
    _first: Child,
    kubelet: Mutex<Child>,
}

impl Own {
    /// Starts them.
    ///
    /// # Errors
    /// A program is missing or not root.
    pub(super) async fn start(config: &NodeConfig) -> Result<Self> {
        let scope = config.cgroup.join("init.scope");
        for group in [&scope, &config.kubelet_cgroup()] {
            cgroup::create(group)?;
        }
        let mut argv: Vec<String> =
            ["unshare", "--mount", "--propagation", "private", "--cgroup", "--", "sh", "-c", FIRST]
                .map(String::from)
                .into();
        argv.push(scope.display().to_string());
        let launch = Launch {
            argv,
            cgroup: config.cgroup.clone(),
            netns: Some(netns::path(&config.netns)),
            ..Launch::default()
        };
        let mut command = launch.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = netns::start_first(&mut command).context("start the node's first process")?;
        let first = child.id().context("the node's first process ended")?;
        in_scope(&scope).await?;
        std::os::unix::fs::symlink(&config.kit_app, config.dir.join("kubelet"))
            .context("name the kubelet")?;
        let kubelet = Mutex::new(pausing(config, first)?);
        Ok(Self { first, _first: child, kubelet })
    }

    /// Restarts the kubelet, as systemd does: what is in the unit's cgroup ends, and the cgroup is made anew.
    ///
    /// # Errors
    /// Something of it does not end, or the new one cannot be started.
    pub(super) async fn restart_kubelet(&self, config: &NodeConfig) -> Result<()> {
        let group = config.kubelet_cgroup();
        let anew = move || cgroup::remove(&group).and_then(|()| cgroup::create(&group));
        tokio::task::spawn_blocking(anew).await??;
        *self.kubelet.lock() = pausing(config, self.first)?;
        Ok(())
    }

    /// The first process, as the host knows it.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// The node's `/proc`.
    pub(super) fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/proc", self.first))
    }
}

fn pausing(config: &NodeConfig, first: u32) -> Result<Child> {
    kubelet(config, first, vec![String::from("pause")]).spawn()
}

/// A process of the node's kubelet, which plays an app of the kit's.
pub(super) fn kubelet(config: &NodeConfig, first: u32, app: Vec<String>) -> Launch {
    let mut argv = vec![config.dir.join("kubelet").display().to_string()];
    argv.extend(app);
    Launch {
        argv,
        cgroup: config.kubelet_cgroup(),
        netns: Some(netns::path(&config.netns)),
        mounts_of: Some(first),
        cgroups_of: Some(first),
        node: Some(first),
        ..Launch::default()
    }
}

/// Waits until the first process is where it stays.
async fn in_scope(scope: &Path) -> Result<()> {
    for _ in 0..1000 {
        if !std::fs::read_to_string(scope.join("cgroup.procs"))?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ensure!(false, "the node's first process did not come up");
    Ok(())
}
