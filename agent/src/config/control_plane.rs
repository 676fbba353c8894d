//! Configuration of `sotto control-plane`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{CommonArgs, ConfigErrors, LogFormat, Mistakes};

/// Flags of `sotto control-plane`.
#[derive(Debug, Args)]
pub struct ControlPlaneArgs {
    /// Flags common to all.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Identifier of the cluster.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Trust domain of the mesh.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Address of discovery and certificates.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "[::]:15012")]
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
    /// Lifetime of certificates whose request names none.
    #[arg(long, env = "DEFAULT_WORKLOAD_CERT_TTL", default_value = "24h")]
    pub certificate_ttl: String,
    /// Longest lifetime of certificates; requests for more get this.
    #[arg(long, env = "MAX_WORKLOAD_CERT_TTL", default_value = "24h")]
    pub max_certificate_ttl: String,
    /// Give pods certificates for their own identity too, not node agents alone for their pods.
    #[arg(long, env = "ALLOW_WORKLOAD_CERTIFICATES")]
    pub workload_certificates: bool,
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
    pub certificate_ttl: Duration,
    pub max_certificate_ttl: Duration,
    pub workload_certificates: bool,
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
        let trust_domain = mistakes.required("--trust-domain", "TRUST_DOMAIN", &args.trust_domain);
        let trusted =
            args.trusted_node_account.iter().filter_map(|a| account(mistakes, a)).collect();
        let ready_address = mistakes.socket("--ready-address", &common.ready_address);
        let metrics_address = mistakes.socket("--metrics-address", &common.metrics_address);
        let ttl = mistakes.duration("--certificate-ttl", &args.certificate_ttl);
        let max_ttl = mistakes.duration("--max-certificate-ttl", &args.max_certificate_ttl);
        if let (Some(ttl), Some(max_ttl)) = (ttl, max_ttl)
            && ttl > max_ttl
        {
            mistakes.note("--certificate-ttl", "is more than --max-certificate-ttl");
        }
        Some(Self {
            listen: listen?,
            trust_domain: trust_domain?,
            trusted_node_accounts: trusted,
            ready_address: ready_address?,
            metrics_address: metrics_address?,
            certificate_ttl: ttl?,
            max_certificate_ttl: max_ttl?,
            workload_certificates: args.workload_certificates,
            namespace: args.namespace,
            root_namespace: common.root_namespace,
            cluster_id: args.cluster_id,
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
