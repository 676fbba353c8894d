//! The composition root: the one module that may know all others.
//!
//! | command | what runs | where |
//! |---|---|---|
//! | `agent` | enrolment, discovery, certificates, admin | a small multi-thread runtime |
//! | | captured connections | one current-thread runtime a core ([`worker`]) |
//! | `control-plane` | certificate authority, discovery server | a multi-thread runtime |
//! | `cni`, `check`, `uninstall`, `bpf` | one answer, then the end | |
//! | `status`, `certs`, `connections`, `explain`, `migrate` | a question to running agents | |

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::{
    AgentConfig, CniAction, Command, ConfigErrors, ControlPlaneSettings, EXIT_USAGE,
    OperatorCommand,
};
use crate::enroll::install::Wanted;

mod agent;
mod ask;
mod balance;
mod charge;
mod cni;
mod completions;
mod connections;
mod control_plane;
mod destinations;
mod dump;
mod duty;
mod ending;
mod environment;
mod explain;
mod farewell;
mod footprint;
mod handover;
mod identities;
mod kubelet;
mod live;
mod means;
mod migrate;
mod missing;
mod node;
mod pods;
mod process;
mod quiet;
mod refused;
mod settings;
mod state;
mod status;
mod strangers;
mod successor;
mod table;
#[cfg(test)]
mod testing;
mod uninstall;
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
        Command::Uninstall(args) => uninstall::run(args),
        Command::Operator(command) => operator(command),
        Command::Bpf(args) => node::bpf(&args),
    }
}

fn operator(command: OperatorCommand) -> ExitCode {
    match command {
        OperatorCommand::Status(args) => status::run(&args),
        OperatorCommand::Certs(args) => status::certs(&args),
        OperatorCommand::Connections(args) => connections::run(&args),
        OperatorCommand::Explain(args) => explain::run(&args),
        OperatorCommand::Migrate(args) => migrate::run(&args),
        OperatorCommand::Completions(args) => completions::run(&args),
    }
}

/// Exit code of the commands that ask, and of `uninstall`, when the answer is the bad one.
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
