//! The embedded control plane: it reads Kubernetes and tells the nodes, as istiod would.
//!
//! In: Kubernetes objects ([`cluster`], the only part that sees their types). Between: plain
//! records ([`model`]), turned into xDS resources ([`snapshot`]) with Istio's policy semantics
//! (`convert`, pure). Out: delta ADS (`ads`) and workload certificates (`ca`) over one TLS
//! listener (`serve`), the trusted roots in every namespace, readiness and metrics (`health`).
//!
//! | task | owns | ends |
//! |---|---|---|
//! | one watch per kind | a Kubernetes watch | with the token |
//! | index | the records and the published snapshot | with the token |
//! | statuses | the statuses still to be written | with the token |
//! | events | the Events still to be written | with the token |
//! | destination rules | which rules mean enrolled namespaces | with the token |
//! | follower | the root in use, as its Secret says | with the token |
//! | publisher | the ConfigMaps of the trusted roots | with the token |
//! | listener, one per handshake and connection | the TLS listener; see [`gate`] for how many | with the token |
//! | one per ADS stream | what that node holds | with the stream or the token |
//! | renewal | the serving certificate | with the token |
//! | health | the readiness and metrics listeners | with the token |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

pub mod ads;
pub mod ca;
pub mod caller;
pub mod cluster;
pub mod conditions;
pub mod convert;
pub mod ends;
pub mod gate;
pub mod health;
pub mod metrics;
pub mod model;
pub mod pace;
mod refresh;
pub mod serve;
pub mod snapshot;
pub mod source;
pub mod tokens;

use crate::sys::Shutdown;
use ads::{Ads, AdsConfig};
use ca::{Admission, Authority, Ca, CaConfig};
use caller::Authenticate;
use cluster::{Publication, Reviewer, Watches};
use health::Readiness;
use metrics::Metrics;
use model::ObjectKey;
use snapshot::index::Index;
use snapshot::{Settings, Snapshot};
use tokens::Tokens;

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
    /// Service accounts of node agents, namespace and name: they may subscribe and ask for
    /// certificates on behalf of the pods of their node.
    pub trusted_node_accounts: Vec<(String, String)>,
    /// DNS names of the serving certificate, besides its services' own.
    pub dns_names: Vec<String>,
    /// Where `/healthz/ready` is served.
    pub ready_address: SocketAddr,
    /// Where `/metrics` is served.
    pub metrics_address: SocketAddr,
    /// A certificate's lifetime when the request names none.
    pub default_certificate_ttl: Duration,
    /// Requests for more get this.
    pub max_certificate_ttl: Duration,
    /// Pods may have certificates for their own identity, not node agents alone.
    pub workload_certificates: bool,
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
    /// There is no root to sign with.
    #[error("set up the certificate authority")]
    Root(#[from] cluster::RootError),
    /// The listener cannot be set up, or failed.
    #[error("serve the nodes")]
    Serve(#[from] serve::ServeError),
}

/// Names of what readiness waits for.
const PARTS: [&str; 3] = [ROOT, CLUSTER, LISTENER];
const ROOT: &str = "root certificate";
const CLUSTER: &str = "first lists from the API server";
const LISTENER: &str = "listener";

/// Changes from the watches that wait for the index; full, the watches wait.
const EVENTS: usize = 1024;

/// Runs the control plane until `shutdown` says so.
///
/// # Errors
/// It cannot start: an address is taken, or the root's Secret is corrupt or out of reach.
pub async fn run(
    config: ControlPlaneConfig,
    client: cluster::Client,
    shutdown: Shutdown,
) -> Result<(), ControlPlaneError> {
    let (metrics, registry) = Metrics::new();
    let readiness = Readiness::new(&PARTS);
    let (ready_address, metrics_address) = (config.ready_address, config.metrics_address);
    let doors = health::listen(ready_address, metrics_address)?;
    health::serve(doors, readiness.clone(), registry, &shutdown);
    let address = config.listen;
    // Bound first, so that a taken address is an error at once; connections wait in the backlog.
    let listener = health::bind("discovery and certificates", address)?;

    let root = cluster::root(client.clone(), &config.namespace, &config.trust_domain);
    let Some(root) = shutdown.token.run_until_cancelled(root).await else { return Ok(()) };
    let root =
        cluster::follow(client.clone(), &config.namespace, root?, metrics.clone(), &shutdown);
    let authority = root.authority();
    readiness.done(ROOT);
    let publication = Publication {
        client: client.clone(),
        namespace: config.namespace.clone(),
        root,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
    };
    cluster::publish(publication, &shutdown);

    let (events, changes) = mpsc::channel(EVENTS);
    let watches = Watches {
        client: client.clone(),
        root_namespace: config.root_namespace.as_str().into(),
        events,
        metrics: metrics.clone(),
    };
    cluster::watch(watches, &shutdown);
    let (publish, mut snapshots) = watch::channel(Arc::new(Snapshot::default()));
    shutdown.spawn(refresh::run(
        Index::new(config.settings()),
        changes,
        publish,
        metrics.clone(),
        shutdown.token.clone(),
    ));
    // The first snapshot is complete. Before it, nodes would be told that nothing exists.
    let first = shutdown.token.run_until_cancelled(snapshots.changed()).await;
    if !matches!(first, Some(Ok(()))) {
        return Ok(());
    }
    readiness.done(CLUSTER);

    let tokens = Arc::new(Tokens::new(Reviewer::new(client)));
    let names = (config.serving_names(), metrics.ends.clone());
    let tls = serve::tls(authority.clone(), names, SystemTime::now, &shutdown)?;
    let ads = config.ads(tokens.clone(), snapshots.clone(), metrics.clone(), &shutdown);
    let ca = config.ca(tokens, authority, snapshots, metrics.clone());
    tracing::info!(listen = %address, "serving");
    readiness.done(LISTENER);
    Ok(serve::grpc(listener, tls, (ads, ca), &metrics, &shutdown).await?)
}

impl ControlPlaneConfig {
    fn settings(&self) -> Settings {
        Settings {
            cluster_id: self.cluster_id.as_str().into(),
            cluster_domain: self.cluster_domain.as_str().into(),
            trust_domain: self.trust_domain.as_str().into(),
            root_namespace: self.root_namespace.as_str().into(),
        }
    }

    /// Where agents look for us: under istiod's name too, so that they need not be told.
    fn serving_names(&self) -> Vec<String> {
        let mut names = vec!["istiod.istio-system.svc".to_owned()];
        for service in ["istiod", "sotto-control-plane"] {
            let short = format!("{service}.{}.svc", self.namespace);
            names.push(format!("{short}.{}", self.cluster_domain));
            names.push(short);
        }
        names.extend(self.dns_names.iter().cloned());
        names.sort();
        names.dedup();
        names
    }

    fn node_accounts(&self) -> Arc<[ObjectKey]> {
        let accounts = self.trusted_node_accounts.iter();
        accounts.map(|(namespace, name)| ObjectKey::new(namespace, name)).collect()
    }

    fn ads<A: Authenticate>(
        &self,
        authenticator: Arc<A>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> impl serve::Grpc + use<A> {
        Ads::service(AdsConfig {
            authenticator,
            accounts: self.node_accounts(),
            cluster_id: self.cluster_id.clone(),
            snapshots,
            metrics,
            shutdown: shutdown.clone(),
        })
    }

    fn ca<A: Authenticate>(
        &self,
        authenticator: Arc<A>,
        authority: watch::Receiver<Arc<Authority>>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: Metrics,
    ) -> impl serve::Grpc + use<A> {
        Ca::service(CaConfig {
            authenticator,
            admission: Admission {
                node_accounts: self.node_accounts(),
                trust_domain: self.trust_domain.as_str().into(),
                workloads: self.workload_certificates,
            },
            authority,
            cluster_id: self.cluster_id.clone(),
            snapshots,
            default_lifetime: self.default_certificate_ttl,
            max_lifetime: self.max_certificate_ttl,
            metrics,
        })
    }
}
