//! Configuration of `sotto control-plane`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{CommonArgs, ConfigErrors, LogFormat, Mistakes};

/// Flags of `sotto control-plane`.
#[derive(Debug, Args)]
pub struct ControlPlaneArgs {
    /// Flags common to all.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address of discovery and certificates.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "0.0.0.0:15012")]
    pub listen: String,
    /// Namespace of the control plane's own Secret and Service.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub namespace: String,
    /// DNS domain of the cluster's services.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Service accounts, as namespace/name, that may ask for certificates of pods on their node.
    #[arg(
        long,
        env = "CA_TRUSTED_NODE_ACCOUNTS",
        value_delimiter = ',',
        default_value = "istio-system/sotto"
    )]
    pub trusted_node_account: Vec<String>,
    /// Names, besides the usual ones, in the control plane's own certificate.
    #[arg(long, env = "DNS_NAMES", value_delimiter = ',')]
    pub dns_name: Vec<String>,
}

/// Configuration of the control plane, every value sound.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the flag of the same name")]
pub struct ControlPlaneSettings {
    pub listen: SocketAddr,
    pub namespace: String,
    pub root_namespace: String,
    pub trust_domain: String,
    pub cluster_id: String,
    pub cluster_domain: String,
    /// Namespace and name.
    pub trusted_node_accounts: Vec<(String, String)>,
    pub dns_names: Vec<String>,
    pub kubeconfig: Option<PathBuf>,
    pub ready_address: SocketAddr,
    pub metrics_address: SocketAddr,
    pub log_format: LogFormat,
    pub log_level: String,
}

impl ControlPlaneSettings {
    /// Checks every flag.
    ///
    /// # Errors
    /// Every mistake, told at once.
    pub fn new(args: ControlPlaneArgs) -> Result<Self, ConfigErrors> {
        let mut mistakes = Mistakes::default();
        if let Some(path) = &args.common.kubeconfig {
            mistakes.readable("--kubeconfig", path);
        }
        let config = Self::assemble(args, &mut mistakes);
        mistakes.into_result(config)
    }

    fn assemble(args: ControlPlaneArgs, mistakes: &mut Mistakes) -> Option<Self> {
        let common = args.common;
        let listen = mistakes.socket("--listen", &args.listen);
        let trust_domain =
            mistakes.required("--trust-domain", "TRUST_DOMAIN", &common.trust_domain);
        let trusted =
            args.trusted_node_account.iter().filter_map(|a| account(mistakes, a)).collect();
        let ready_address = mistakes.socket("--ready-address", &common.ready_address);
        let metrics_address = mistakes.socket("--metrics-address", &common.metrics_address);
        Some(Self {
            listen: listen?,
            trust_domain: trust_domain?,
            trusted_node_accounts: trusted,
            ready_address: ready_address?,
            metrics_address: metrics_address?,
            namespace: args.namespace,
            root_namespace: common.root_namespace,
            cluster_id: common.cluster_id,
            cluster_domain: args.cluster_domain,
            dns_names: args.dns_name,
            kubeconfig: common.kubeconfig,
            log_format: common.log_format,
            log_level: common.log_level,
        })
    }
}

fn account(mistakes: &mut Mistakes, text: &str) -> Option<(String, String)> {
    match text.split_once('/') {
        Some((ns, name)) if !ns.is_empty() && !name.is_empty() && !name.contains('/') => {
            Some((ns.to_owned(), name.to_owned()))
        }
        _ => {
            mistakes.note("--trusted-node-account", &format!("{text:?} is not namespace/name"));
            None
        }
    }
}
