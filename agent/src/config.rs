//! Flags and environment: typed, validated at once, every mistake told together.
//!
//! Every flag has an environment variable, under Istio's name where Istio has one.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub mod agent;
pub mod cni;
pub mod control_plane;
pub mod live;
pub mod node;
pub mod operator;
pub mod ztunnel;

pub use agent::{AgentArgs, AgentConfig, TlsRecords, UnknownDestinations};
pub use cni::{CniAction, CniInstallArgs, CniPaths};
pub use control_plane::{ControlPlaneArgs, ControlPlaneSettings};
pub use live::LiveSettings;
pub use node::{BpfAction, BpfArgs, CheckArgs, UninstallArgs};
pub use operator::{AskArgs, CompletionsArgs, ExplainArgs, MigrateArgs, OperatorCommand};

/// Exit code of a configuration mistake (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// The `sotto` command line.
#[derive(Debug, Parser)]
#[command(
    name = "sotto",
    version,
    about = "An ambient mesh for Kubernetes: mutual TLS and layer 4 policy, without sidecars",
    help_template = HELP,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands in the order of their use. A test holds it against the list of those that there are.
const HELP: &str = "\
{about}

Usage: sotto COMMAND [OPTIONS]

Before and after installing, on a node:
  check          what this node can do for the agent
  uninstall      take everything of the mesh off this node

Of a running mesh:
  status         nodes, pods, certificates, control plane: what is wrong, and what to do
  certs          certificates of the nodes' pods
  connections    what is open, with identities and bytes
  explain        what policy says of one pod calling another, and why
  migrate        who would break if only mutual TLS were let in

What a cluster runs:
  agent          the node agent: capture, identify, authorize, tunnel
  control-plane  the embedded control plane: certificates and discovery
  cni            put the CNI plugin on the node, or take it off

  completions    a script with which a shell completes all this

Options:
{options}

The commands of a running mesh ask the agents' admin pages, which listen on the pods' loopback. Ask one node's:
  kubectl -n istio-system exec ds/sotto -c agent -- sotto status
or the whole cluster's, with one forwarded port for each agent:
  kubectl -n istio-system port-forward pod/sotto-aaaaa 15001:15000 &
  kubectl -n istio-system port-forward pod/sotto-bbbbb 15002:15000 &
  sotto status --admin http://127.0.0.1:15001,http://127.0.0.1:15002

`sotto COMMAND --help` tells more, with exit codes. Environment variables do what flags do.
";

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent: capture, identify, authorize and tunnel this node's enrolled pods.
    Agent(Box<AgentArgs>),
    /// Run the embedded control plane: certificates and discovery from Kubernetes objects.
    ControlPlane(Box<ControlPlaneArgs>),
    /// Put the CNI plugin on the node, or take it off. (A container runtime calls it without arguments.)
    #[command(subcommand)]
    Cni(CniAction),
    /// Ask a running mesh.
    #[command(flatten)]
    Operator(OperatorCommand),
    // The flags have the help of these: a word here would take its place.
    #[expect(missing_docs, reason = "their flags say")]
    Check(CheckArgs),
    #[expect(missing_docs, reason = "their flags say")]
    Uninstall(UninstallArgs),
    /// Load, show or remove the eBPF programs by hand, for a dev node.
    #[command(hide = true)]
    Bpf(BpfArgs),
}

/// Flags common to the long-running commands.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Kubeconfig; the in-cluster configuration if not given.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of mesh-wide policies.
    #[arg(long, env = "ROOT_NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
    /// Address of /metrics.
    #[arg(long, env = "METRICS_ADDRESS", default_value = "[::]:15020")]
    pub metrics_address: String,
    /// Address of /healthz/ready.
    #[arg(long, env = "READY_ADDRESS", default_value = "[::]:15021")]
    pub ready_address: String,
    /// How log lines are written.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log filter, as `info` or `info,sotto::xds=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log_level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Tab-separated text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where pins are unless configured.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/sotto/v1";

/// Every mistake found in a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0.len() == 1 { "mistake" } else { "mistakes" };
        write!(f, "{} {noun} in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects mistakes, so that all are told at once.
#[derive(Debug, Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    /// The parsed value, or none and a mistake noted.
    fn parse<T>(&mut self, flag: &str, text: &str) -> Option<T>
    where
        T: std::str::FromStr,
        T::Err: fmt::Display,
    {
        text.parse().map_err(|e| self.note(flag, &format!("{text:?} is not valid: {e}"))).ok()
    }

    fn socket(&mut self, flag: &str, text: &str) -> Option<SocketAddr> {
        text.parse()
            .map_err(|_| {
                self.note(
                    flag,
                    &format!("{text:?} is not an address and port, as 127.0.0.1:15000"),
                );
            })
            .ok()
    }

    fn duration(&mut self, flag: &str, text: &str) -> Option<Duration> {
        humantime::parse_duration(text)
            .map_err(|e| self.note(flag, &format!("{text:?} is not a duration, as 25s: {e}")))
            .ok()
    }

    /// The text, unless empty.
    fn required(&mut self, flag: &str, env: &str, text: &str) -> Option<String> {
        if text.is_empty() {
            self.note(flag, &format!("is required (or set {env})"));
            return None;
        }
        Some(text.to_owned())
    }

    /// A file that must be readable now.
    fn readable(&mut self, flag: &str, path: &std::path::Path) {
        if let Err(e) = std::fs::File::open(path) {
            self.note(flag, &format!("cannot read {}: {e}", path.display()));
        }
    }

    fn note(&mut self, flag: &str, what: &str) {
        self.0.push(format!("{flag}: {what}"));
    }

    fn into_result<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(ConfigErrors(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_names_every_command_that_is_not_hidden() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let named = HELP.lines().any(|line| line.split_whitespace().next() == Some(name));
            assert_eq!(named, !command.is_hide_set(), "{name}");
        }
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("--version") && help.contains("kubectl"), "{help}");
    }

    #[test]
    fn every_command_that_answers_says_what_its_exit_codes_mean() {
        let answers =
            ["check", "uninstall", "status", "certs", "connections", "explain", "migrate"];
        for mut command in Cli::command().get_subcommands().cloned() {
            if answers.contains(&command.get_name()) {
                let help = command.render_long_help().to_string();
                assert!(help.contains("Exit code: 0"), "{help}");
            }
        }
    }
}
