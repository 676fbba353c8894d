//! What every node is told: xDS resources with content-hash versions, and which pods there are.
//!
//! The [`index::Index`] keeps the records and makes a new [`Snapshot`] of what changed; snapshots
//! share what did not. Everything here is pure.

mod endpoints;
pub mod index;
mod members;
mod service;
mod workload;

use std::fmt::Write as _;
use std::sync::Arc;

use arcstr::ArcStr;
use sha2::{Digest, Sha256};

use super::model::ObjectKey;

/// Resources of one type, by name.
pub type Resources = imbl::OrdMap<ArcStr, Entry>;

/// One resource.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Changes exactly when the content does; the same on every replica.
    pub version: ArcStr,
    /// The encoded message.
    pub body: Arc<[u8]>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for Entry {}

/// What the mesh is, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Workloads and services.
    pub addresses: Resources,
    /// Policies.
    pub authorizations: Resources,
    /// Every pod that has not failed.
    pub pods: imbl::HashMap<ObjectKey, PodFacts>,
    /// How many of them there are by node and service account.
    pub identities: imbl::HashMap<NodeIdentity, usize>,
}

/// What the CA asks of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Kubernetes UID.
    pub uid: ArcStr,
    /// The node it is bound to; may be empty.
    pub node: ArcStr,
    /// Its service account.
    pub service_account: ArcStr,
}

/// A service account in use on a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeIdentity {
    /// The node.
    pub node: ArcStr,
    /// Namespace and name of the service account.
    pub account: ObjectKey,
}

impl Snapshot {
    /// Whether a pod with this service account is bound to this node.
    pub fn runs(&self, node: &ArcStr, namespace: &ArcStr, service_account: &ArcStr) -> bool {
        let account = ObjectKey { namespace: namespace.clone(), name: service_account.clone() };
        self.identities.contains_key(&NodeIdentity { node: node.clone(), account })
    }
}

/// What the resources need to know of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Prefix of workload UIDs.
    pub cluster_id: ArcStr,
    /// DNS domain of services.
    pub cluster_domain: ArcStr,
    /// Trust domain of identities.
    pub trust_domain: ArcStr,
    /// The namespace whose policies govern the whole mesh.
    pub root_namespace: ArcStr,
}

impl Settings {
    /// A service's key as the resources name it: `namespace/hostname`.
    fn service_name(&self, key: &ObjectKey) -> String {
        format!("{}/{}", key.namespace, self.hostname(key))
    }

    fn hostname(&self, key: &ObjectKey) -> String {
        format!("{}.{}.svc.{}", key.name, key.namespace, self.cluster_domain)
    }
}

/// A version of `parts`: 128 bits of their hash.
fn version(parts: &[&[u8]]) -> ArcStr {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let mut text = String::with_capacity(32);
    for byte in &hash.finalize()[..16] {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text.into()
}
