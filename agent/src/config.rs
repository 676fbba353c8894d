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
pub mod operator;
pub mod ztunnel;

pub use agent::{AgentArgs, AgentConfig, TlsRecords, UnknownDestinations};
pub use cni::{CniAction, CniInstallArgs};
pub use control_plane::{ControlPlaneArgs, ControlPlaneSettings};
pub use operator::{ExplainArgs, MigrateArgs};

/// Exit code of a configuration mistake (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// The `sotto` command line.
#[derive(Debug, Parser)]
#[command(name = "sotto", version, about = "An ambient-mesh node agent for Kubernetes")]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

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
    /// Tell what this kernel and node can do for the agent.
    Check(CheckArgs),
    /// Tell what policy says of one pod calling another, and why.
    Explain(ExplainArgs),
    /// Tell who would break if only mutual TLS were let in.
    Migrate(MigrateArgs),
    /// Load, show or remove the eBPF programs by hand, for a dev node.
    #[command(hide = true)]
    Bpf(BpfArgs),
}

/// Flags of `sotto check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Root of the cgroup v2 hierarchy; found by itself if not given.
    #[arg(long, env = "CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
    /// The kubelet's cgroup; found by itself if not given.
    #[arg(long, env = "KUBELET_CGROUP")]
    pub kubelet_cgroup: Option<PathBuf>,
    /// The host's /proc, where the kubelet is found.
    #[arg(long, env = "HOST_PROC", default_value = "/proc")]
    pub proc: PathBuf,
}

/// Flags of `sotto bpf`.
#[derive(Debug, Args)]
pub struct BpfArgs {
    /// What to do.
    #[arg(value_enum)]
    pub action: BpfAction,
    /// Directory of the pins.
    #[arg(long, env = "PIN_DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Cgroup to attach the connect hooks to; the root by default.
    #[arg(long, env = "CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
}

/// What `sotto bpf` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BpfAction {
    /// Load, attach and pin; print programs, sizes and verifier statistics.
    Load,
    /// Detach and remove every trace.
    Unload,
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
    #[arg(long, env = "METRICS_ADDRESS", default_value = "0.0.0.0:15020")]
    pub metrics_address: String,
    /// Address of /healthz/ready.
    #[arg(long, env = "READY_ADDRESS", default_value = "0.0.0.0:15021")]
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

const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/sotto/v1";

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
