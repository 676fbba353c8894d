//! `sotto cni install` and `uninstall`: once, or for as long as the agent's pod runs.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::process::{self, Logging};
use crate::config::{CniInstallArgs, LogFormat};
use crate::enroll::install::owner::{Fate, Owner};
use crate::enroll::install::{self, Node, Wanted, taint};
use crate::sys::{Shutdown, shutdown};

/// How long the pod's end may wait for the API server; less than the pod's grace period.
const FATE: Duration = Duration::from_secs(20);
/// Tasks have this long to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Makes the node as wanted; with `--watch`, keeps it so until SIGTERM.
pub(super) fn run(args: CniInstallArgs, wanted: Wanted) -> ExitCode {
    process::run("cni", &Logging::of(LogFormat::Text, "info"), |_| async move {
        let node = node(&args)?;
        if args.watch {
            return keep(args, &node, wanted).await;
        }
        let changed = install::ensure(&node, wanted).await?;
        info!(changed, ?wanted, "done");
        Ok(())
    })
}

fn node(args: &CniInstallArgs) -> anyhow::Result<Node> {
    let name = &args.list_name;
    anyhow::ensure!(
        name.ends_with(".conflist") && !name.contains('/'),
        "--list-name {name:?} is not a file's name that ends in .conflist"
    );
    Ok(Node {
        program: install::own()?,
        bin_dir: args.bin_dir.clone(),
        conf_dir: args.conf_dir.clone(),
        list_name: name.clone(),
        socket: args.socket.clone(),
        state_dir: args.state_dir.clone(),
        agent_namespace: args.agent_namespace.clone(),
        exempt_namespaces: args.exempt_namespaces.clone(),
    })
}

async fn keep(args: CniInstallArgs, node: &Node, wanted: Wanted) -> anyhow::Result<()> {
    let (stop, tasks) = (CancellationToken::new(), Shutdown::new());
    let (done, installed) = watch::channel(false);
    let owner = match wanted {
        Wanted::Installed => attend(&args, installed, &tasks).await,
        Wanted::Removed => None,
    };
    let ended = tokio::select! {
        asked = shutdown::requested() => asked.context("failed to listen for signals"),
        () = install::keep(node, wanted, &done, &stop) => Ok(()),
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
    let owner = Arc::new(Owner::new(client, &args.agent_namespace, &args.pod_name));
    let (stop, learner) = (tasks.token.clone(), Arc::clone(&owner));
    tasks.spawn(async move { stop.run_until_cancelled(learner.learn()).await });
    Some(owner)
}

/// At the end of the pod: takes the plugin off if no other pod of the DaemonSet will follow.
async fn leave(owner: &Owner, node: &Node) -> anyhow::Result<()> {
    match owner.fate(FATE).await {
        Fate::Stays => info!("the plugin stays for the next agent"),
        Fate::Deleted => {
            let changed = install::ensure(node, Wanted::Removed).await?;
            info!(changed, "the DaemonSet is deleted: the plugin is taken off the node");
        }
        Fate::Unknown(why) => warn!(
            why,
            "the plugin stays, as it cannot be told whether the DaemonSet is deleted: if it is, \
             pods of enrolled namespaces wait here until `sotto cni uninstall`"
        ),
    }
    Ok(())
}
