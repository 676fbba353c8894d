//! The composition root: the one module that may know all others.
//!
//! | command | what runs | where |
//! |---|---|---|
//! | `agent` | enrolment, discovery, certificates, admin | a small multi-thread runtime |
//! | | captured connections | one current-thread runtime a core ([`worker`]) |
//! | `control-plane` | certificate authority, discovery server | a multi-thread runtime |
//! | `cni`, `check`, `bpf` | one answer, then the end | |
//! | `explain`, `migrate` | a question to running agents | |

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::{
    AgentConfig, CniAction, Command, ConfigErrors, ControlPlaneSettings, EXIT_USAGE,
};
use crate::enroll::install::Wanted;

mod agent;
mod ask;
mod balance;
mod charge;
mod cni;
mod control_plane;
mod destinations;
mod dump;
mod duty;
mod environment;
mod explain;
mod footprint;
mod identities;
mod kubelet;
mod means;
mod migrate;
mod missing;
mod node;
mod pods;
mod process;
mod quiet;
mod settings;
mod state;
mod strangers;
#[cfg(test)]
mod testing;
mod worker;

/// Runs one command to its end.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Agent(args) => match AgentConfig::new(*args) {
            Ok(config) => agent::run(config),
            Err(mistakes) => usage(&mistakes),
        },
        Command::ControlPlane(args) => match ControlPlaneSettings::new(*args) {
            Ok(settings) => control_plane::run(settings),
            Err(mistakes) => usage(&mistakes),
        },
        Command::Cni(CniAction::Install(args)) => cni::run(args, Wanted::Installed),
        Command::Cni(CniAction::Uninstall(args)) => cni::run(args, Wanted::Removed),
        Command::Check(args) => node::check(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Migrate(args) => migrate::run(&args),
        Command::Bpf(args) => node::bpf(&args),
    }
}

/// Exit code of `explain` and `migrate` when the answer is the bad one.
const EXIT_DENIED: u8 = 3;

/// A client of the Kubernetes API: by kubeconfig, or as the pod's service account.
async fn kubernetes(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Client> {
    let config = match kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("failed to read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                .await
                .with_context(|| format!("failed to use {}", path.display()))?
        }
        None => kube::Config::incluster().context(
            "failed to find the API server from inside a pod (outside one, give --kubeconfig)",
        )?,
    };
    kube::Client::try_from(config).context("failed to make a client of the API server")
}

fn usage(mistakes: &ConfigErrors) -> ExitCode {
    eprintln!("sotto: {mistakes}");
    ExitCode::from(EXIT_USAGE)
}

/// Before there is a log, or where there is none: on standard error.
fn exit(ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sotto: {error:#}");
            ExitCode::FAILURE
        }
    }
}
