//! `sotto cni install` and `uninstall`: once, or for as long as the agent's pod runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::process::{self, Logging};
use crate::config::{CniInstallArgs, CniPaths, LogFormat};
use crate::enroll::install::layout::{self, LayoutError};
use crate::enroll::install::owner::{FATE, Fate, Owner};
use crate::enroll::install::{self, Node, Wanted, taint};
use crate::error::chain;
use crate::sys::{Host, Shutdown, shutdown};

/// How often the runtime's directories are looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Tasks have this long to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Makes the node as wanted; with `--watch`, keeps it so until SIGTERM.
pub(super) fn run(args: CniInstallArgs, wanted: Wanted) -> ExitCode {
    process::run("cni", &Logging::of(LogFormat::Text, "info"), |_| async move {
        if args.watch {
            tokio::select! {
                asked = shutdown::requested() => {
                    return asked.context("failed to listen for signals");
                }
                () = known(&args.paths) => {}
            }
        }
        let node = node(&args)?;
        let (bin_dir, conf_dir) = (node.bin_dir.display(), node.conf_dir.display());
        info!(%bin_dir, %conf_dir, "the runtime's directories");
        if args.watch {
            return keep(args, &node, wanted).await;
        }
        let changed = install::ensure(&node, wanted).await?;
        info!(changed, ?wanted, "done");
        Ok(())
    })
}

fn node(args: &CniInstallArgs) -> anyhow::Result<Node> {
    let node = place(&args.paths)?;
    Ok(Node {
        agent_namespace: args.agent_namespace.clone(),
        exempt_namespaces: args.exempt_namespaces.clone(),
        ..node
    })
}

/// Where the plugin is on this node: as the flags say, or as its runtime is configured.
pub(super) fn place(paths: &CniPaths) -> anyhow::Result<Node> {
    let name = &paths.list_name;
    anyhow::ensure!(
        name.ends_with(".conflist") && !name.contains('/'),
        "--list-name {name:?} is not a file's name that ends in .conflist"
    );
    let (bin_dir, conf_dir) = directories(paths)?;
    Ok(Node {
        program: install::own()?,
        bin_dir,
        conf_dir,
        list_name: name.clone(),
        socket: paths.socket.clone(),
        state_dir: paths.state_dir.clone(),
        agent_namespace: String::new(),
        exempt_namespaces: None,
    })
}

fn directories(paths: &CniPaths) -> Result<(PathBuf, PathBuf), LayoutError> {
    if let (Some(bin_dir), Some(conf_dir)) = (&paths.bin_dir, &paths.conf_dir) {
        return Ok((bin_dir.clone(), conf_dir.clone()));
    }
    let host = Host::find();
    let found = layout::find(&host)?;
    let given =
        |given: &Option<PathBuf>, found: &Path| given.clone().unwrap_or_else(|| host.path(found));
    Ok((given(&paths.bin_dir, &found.bin_dir), given(&paths.conf_dir, &found.conf_dir)))
}

/// The runtime's directories, as soon as they are known.
async fn known(paths: &CniPaths) {
    while let Err(error) = directories(paths) {
        warn!(error = chain(&error), "cni configuration not changed, trying again");
        sleep(LOOK_AGAIN).await;
    }
}

/// Ends when the runtime has other directories than `node`, as when a distribution's new revision has others.
async fn moved(paths: &CniPaths, node: &Node) -> anyhow::Error {
    loop {
        sleep(LOOK_AGAIN).await;
        match directories(paths) {
            Ok((bin_dir, conf_dir)) if (&bin_dir, &conf_dir) != (&node.bin_dir, &node.conf_dir) => {
                let (bin, conf) = (bin_dir.display(), conf_dir.display());
                return anyhow!(
                    "the runtime's directories are others now, {bin} and {conf}: only a start with these helps"
                );
            }
            // While it restarts it may not show.
            Ok(_) | Err(_) => {}
        }
    }
}

async fn keep(args: CniInstallArgs, node: &Node, wanted: Wanted) -> anyhow::Result<()> {
    let (stop, tasks, paths) = (CancellationToken::new(), Shutdown::new(), args.paths.clone());
    let (done, installed) = watch::channel(false);
    let owner = match wanted {
        Wanted::Installed => attend(&args, installed, &tasks).await,
        Wanted::Removed => None,
    };
    let ended = tokio::select! {
        asked = shutdown::requested() => asked.context("failed to listen for signals"),
        () = install::keep(node, wanted, &done, &stop) => Ok(()),
        moved = moved(&paths, node) => return Err(moved),
    };
    if let Some(owner) = owner {
        leave(&owner, node).await?;
    }
    if let Err(unfinished) = tasks.drain(DRAIN).await {
        warn!(%unfinished, "tasks did not end");
    }
    ended
}

/// What needs the API server: to learn whose pod this is, and to open a new node for pods.
async fn attend(
    args: &CniInstallArgs,
    mut installed: watch::Receiver<bool>,
    tasks: &Shutdown,
) -> Option<Arc<Owner>> {
    if args.pod_name.is_empty() && args.startup_taint.is_none() {
        return None;
    }
    let client = match super::kubernetes(args.kubeconfig.as_deref()).await {
        Ok(client) => client,
        Err(error) => {
            warn!(
                "without the API server, a deleted DaemonSet leaves the plugin behind: {error:#}"
            );
            return None;
        }
    };
    if let Some(key) = args.startup_taint.clone() {
        let (client, node) = (client.clone(), args.node_name.clone());
        let stop = tasks.token.clone();
        tasks.spawn(async move {
            let remove = async {
                if installed.wait_for(|installed| *installed).await.is_ok() {
                    taint::remove(client, &node, &key).await;
                }
            };
            stop.run_until_cancelled(remove).await
        });
    }
    let owner =
        Arc::new(Owner::new(client, (&args.agent_namespace, &args.pod_name), &args.node_name));
    let (stop, learner) = (tasks.token.clone(), Arc::clone(&owner));
    tasks.spawn(async move { stop.run_until_cancelled(learner.learn()).await });
    Some(owner)
}

/// At the end of the pod: takes the plugin off if no other pod of the DaemonSet will follow.
async fn leave(owner: &Owner, node: &Node) -> anyhow::Result<()> {
    match owner.fate(FATE).await {
        Fate::Stays => info!("the plugin stays for the next agent"),
        fate @ (Fate::Deleted | Fate::Elsewhere) => {
            let changed = install::ensure(node, Wanted::Removed).await?;
            info!(changed, ?fate, "no agent will follow here: the plugin is taken off the node");
        }
        Fate::Unknown(why) => warn!(
            why,
            "the plugin stays, as it cannot be told whether the DaemonSet is deleted: if it is, \
             pods of enrolled namespaces wait here until `sotto uninstall`"
        ),
    }
    Ok(())
}
