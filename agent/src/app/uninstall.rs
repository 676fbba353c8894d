//! `sotto uninstall`: takes everything of the mesh off a node, once, or for as long as its pod runs.
#![expect(clippy::print_stdout, reason = "this command answers on standard output")]

mod sweep;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;
use tracing::{info, warn};

use super::process::{self, Logging};
use super::{EXIT_DENIED, ask};
use crate::config::{LogFormat, UninstallArgs};
use crate::observe::ready::{self, Pending, Readiness};
use crate::sys::{Host, Shutdown, privileges, shutdown, socket, sysctl};
pub(super) use sweep::{Place, Report};

/// Pause between two looks whether all is gone.
const LOOK: Duration = Duration::from_secs(5);
/// The server has this long to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Sweeps once, or with `--watch` until SIGTERM.
pub(super) fn run(args: UninstallArgs) -> ExitCode {
    if !privileges::is_root() {
        return super::exit(Err(anyhow::anyhow!("failed to uninstall: run this as root")));
    }
    // A container's own /proc/sys is read-only.
    sysctl::use_proc(&args.proc.clone().unwrap_or_else(|| Host::find().proc()));
    if args.watch {
        let logging = Logging::of(LogFormat::Text, "info");
        return process::run("uninstall", &logging, |_| keep(args));
    }
    let swept = ask::block_on(async {
        let place = Place::of(&args).await;
        anyhow::ensure!(!place.has_agent().await, "{}", sweep::AGENT_RUNS);
        Ok((place.sweep().await, place.node))
    });
    match swept {
        Ok((report, node)) => {
            println!("{}", report.told(&node));
            if report.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DENIED) }
        }
        Err(error) => super::exit(Err(error)),
    }
}

/// Sweeps again and again: an agent that ends later, or starts by mistake, leaves something behind.
async fn keep(args: UninstallArgs) -> anyhow::Result<()> {
    let (readiness, servers) = (Readiness::new(), Shutdown::new());
    let mut watch = Watch { readiness: readiness.clone(), unfinished: None, told: String::new() };
    watch.is_unfinished(true);
    let address: SocketAddr =
        args.ready_address.parse().context("failed to read --ready-address")?;
    let listener = socket::listen_on(address);
    let listener = listener.with_context(|| format!("failed to listen on {address}"))?;
    servers.spawn(ready::serve(listener, readiness, servers.token.clone()));
    let mut asked = std::pin::pin!(shutdown::requested());
    let ended = loop {
        watch.look(&args).await;
        tokio::select! {
            asked = &mut asked => break asked.context("failed to listen for signals"),
            () = sleep(LOOK) => {}
        }
    };
    if let Err(unfinished) = servers.drain(DRAIN).await {
        warn!(%unfinished, "the server did not end");
    }
    ended
}

/// What was told of the node, on the page and in the log.
struct Watch {
    readiness: Readiness,
    unfinished: Option<Pending>,
    told: String,
}

impl Watch {
    async fn look(&mut self, args: &UninstallArgs) {
        let place = Place::of(args).await;
        let report = if place.has_agent().await { Report::refused() } else { place.sweep().await };
        let is_unfinished = !report.left.is_empty();
        self.is_unfinished(is_unfinished);
        self.readiness.remark("left", is_unfinished.then(|| report.left.join("; ")));
        let text = report.told(&place.node);
        if text != self.told {
            if is_unfinished {
                warn!("{text}");
            } else {
                info!("{text}");
            }
        }
        self.told = text;
    }

    fn is_unfinished(&mut self, unfinished: bool) {
        let pending = || self.readiness.pending("the end of what is left of the mesh");
        self.unfinished = unfinished.then(|| self.unfinished.take().unwrap_or_else(pending));
    }
}
