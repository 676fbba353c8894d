//! What tests of several modules need.

use std::sync::Arc;

use crate::mesh::local::Exclusions;
use crate::mesh::{LocalPod, PodUid, SpiffeId};

/// A pod of this node.
pub(super) fn pod(name: &str) -> Arc<LocalPod> {
    Arc::new(LocalPod {
        uid: PodUid(name.into()),
        namespace: "ns".into(),
        name: name.into(),
        identity: SpiffeId::new("cluster.local", "ns", "sa").unwrap(),
        ip4: None,
        ip6: None,
        exclusions: Exclusions::default(),
    })
}
