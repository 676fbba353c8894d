//! Flags of the commands for one node: `check`, `uninstall`, `bpf`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::DEFAULT_PIN_DIR;
use super::cni::CniPaths;

/// Flags of `sotto check`.
#[derive(Debug, Args)]
#[command(
    about = "Tell what this node can do for the agent",
    long_about = "Tell what this node can do for the agent: by doing it, with a pod that lives for a moment. Nothing of \
        it stays.\n\n\
        Before installing, run it on a node, as root. After that, in the agent's container:\n  \
        kubectl -n istio-system exec ds/sotto -c agent -- sotto check\n\n\
        Exit code: 0 the agent can work, 1 it cannot."
)]
pub struct CheckArgs {
    /// Root of the cgroup v2 hierarchy; found by itself if not given.
    #[arg(long, env = "CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
    /// The kubelet's cgroup; found by itself if not given.
    #[arg(long, env = "KUBELET_CGROUP")]
    pub kubelet_cgroup: Option<PathBuf>,
    /// The node's /proc, where the kubelet is found; found by itself if not given.
    #[arg(long, env = "HOST_PROC")]
    pub proc: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `sotto uninstall`.
#[derive(Debug, Args)]
#[command(
    about = "Take everything of the mesh off this node",
    long_about = "Take everything of the mesh off this node: the CNI plugin and its list, programs, maps and pins, routes \
        of pods and of the node, the agent's state, and the annotation of pods that it captured. Pods then talk as they \
        did before, in the clear, and no policy of the mesh is enforced for them.\n\n\
        No agent may run: end it first. On all nodes of a cluster, in whatever order with the rest:\n  \
        kubectl apply -k deploy/overlays/uninstall\n\n\
        It may be run again. Exit code: 0 nothing of the mesh is left, 3 something is and it says what, 1 an agent runs, \
        or this is not root."
)]
pub struct UninstallArgs {
    /// Name of this node in Kubernetes, to find the pods whose annotation is to go.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// Kubeconfig; the in-cluster configuration if not given.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the CNI plugin is.
    #[command(flatten)]
    pub cni: CniPaths,
    /// Directory of the eBPF pins.
    #[arg(long, env = "PIN_DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// The node's /proc; found by itself if not given.
    #[arg(long, env = "HOST_PROC")]
    pub proc: Option<PathBuf>,
    /// Stay, wait for the agent's end if one runs, and tell on --ready-address whether anything is left.
    #[arg(long)]
    pub watch: bool,
    /// With --watch: address of /healthz/ready.
    #[arg(long, env = "READY_ADDRESS", default_value = "[::]:15021")]
    pub ready_address: String,
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
