//! What tests of several modules need.

use std::sync::Arc;

use crate::capture::{PodCapture, StandIns};
use crate::connection::Means;
use crate::mesh::local::Exclusions;
use crate::mesh::{Account, LocalPod, PodUid};
use crate::sys::netns::Netns;
use crate::tunnel::Budget;

/// A pod without addresses, in the network namespace of the test.
pub(super) fn pod() -> Arc<PodCapture> {
    let pod = LocalPod {
        uid: PodUid("1".into()),
        namespace: "ns".into(),
        name: "pod".into(),
        account: Account::new("ns", "sa").unwrap(),
        ip4: None,
        ip6: None,
        exclusions: Exclusions::default(),
    };
    Arc::new(PodCapture {
        pod: Arc::new(pod),
        netns: Netns::current().unwrap(),
        stand_ins: StandIns::default(),
    })
}

/// More than a test uses.
pub(super) fn means() -> Arc<Means> {
    Means::new(1000, Budget::new(1 << 30))
}
