//! Who used which rights: everyone who is known may do everything, but it is written down.
//!
//! So a test can compare what a deployment's roles allow with what its processes really do.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// One right that was used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usage {
    /// As `system:serviceaccount:istio-system:sotto`.
    pub user: String,
    /// As in a role: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// API group, empty for the core group.
    pub group: String,
    /// As in a role: `pods`, `pods/status`.
    pub resource: String,
}

/// The rights used so far. Bounded by itself: users, verbs and resources are few.
#[derive(Debug, Default)]
pub(super) struct UsageLog(Mutex<BTreeSet<Usage>>);

impl UsageLog {
    /// Writes one down.
    pub(super) fn record(&self, usage: Usage) {
        self.0.lock().insert(usage);
    }

    /// All of a user, in order.
    pub(super) fn of(&self, user: &str) -> Vec<Usage> {
        self.0.lock().iter().filter(|usage| usage.user == user).cloned().collect()
    }
}
