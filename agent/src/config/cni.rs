//! Flags of `sotto cni`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What `sotto cni` does.
#[derive(Debug, Subcommand)]
pub enum CniAction {
    /// Copy the plugin and put it into the node's network: a list of our own that sorts first, made of the network's plugins and ours.
    Install(CniInstallArgs),
    /// Take the list and the plugin off again.
    Uninstall(CniInstallArgs),
}

/// Where a node keeps its CNI plugins and configuration, and the agent its part.
#[derive(Debug, Clone, Args)]
pub struct CniPaths {
    /// Directory of the plugins' binaries, the runtime's own (containerd: `bin_dir`); found by the runtime's configuration if not given.
    #[arg(long, env = "CNI_BIN_DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Directory of the network's configuration (containerd: `conf_dir`); found by the runtime's configuration if not given.
    #[arg(long, env = "CNI_CONF_DIR")]
    pub conf_dir: Option<PathBuf>,
    /// Name of our list, which must come before every other.
    #[arg(long, env = "CNI_LIST_NAME", default_value = "00-sotto.conflist")]
    pub list_name: String,
    /// Socket of the agent, as the plugin sees it.
    #[arg(long, env = "CNI_SOCKET", default_value = "/run/sotto/cni.sock")]
    pub socket: PathBuf,
    /// Directory of the agent's state, one path here and on the node: there the plugin reads which namespaces are enrolled.
    #[arg(long, env = "STATE_DIR", default_value = crate::enroll::enrolled::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}

/// How the CNI plugin is put on a node.
#[derive(Debug, Args)]
pub struct CniInstallArgs {
    /// Where.
    #[command(flatten)]
    pub paths: CniPaths,
    /// Namespace of the agent, whose pods start without it.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub agent_namespace: String,
    /// Namespaces whose pods start also while the agent is away, enrolled or not; what is in our list already, or kube-system, if not given.
    #[arg(long, env = "CNI_EXEMPT_NAMESPACES", value_delimiter = ',')]
    pub exempt_namespaces: Option<Vec<String>>,
    /// Stay, and keep the list in step with the network's own configuration.
    #[arg(long)]
    pub watch: bool,
    /// With --watch: the pod this runs in. When its DaemonSet is deleted, the plugin is taken off at the end.
    #[arg(long, env = "POD_NAME", default_value = "", hide_default_value = true)]
    pub pod_name: String,
    /// With --watch: remove this taint from the node once the plugin is installed.
    #[arg(long, env = "STARTUP_TAINT")]
    pub startup_taint: Option<String>,
    /// Name of this node in Kubernetes, for --startup-taint.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// Kubeconfig; the in-cluster configuration if not given.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}
