//! What tests of several modules need.

use std::sync::Arc;

use crate::mesh::local::Exclusions;
use crate::mesh::{Account, LocalPod, PodUid};

/// A pod of this node.
pub(super) fn pod(name: &str) -> Arc<LocalPod> {
    Arc::new(LocalPod {
        uid: PodUid(name.into()),
        namespace: "ns".into(),
        name: name.into(),
        account: Account::new("ns", "sa").unwrap(),
        ip4: None,
        ip6: None,
        exclusions: Exclusions::default(),
    })
}
