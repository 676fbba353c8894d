//! What a data thread keeps for one pod while it serves the pod's connections.

use std::sync::Arc;

use super::quota::Quota;
use crate::sys::Netns;
use crate::sys::socket::AppDialler;

/// One pod's part of a data thread.
#[derive(Debug)]
pub struct OfPod {
    pub(super) quota: Arc<Quota>,
    pub(super) dialler: AppDialler,
}

impl OfPod {
    /// Of the pod in `netns`. The quota may be one that open connections of the pod count against already.
    pub fn new(netns: Netns, quota: Arc<Quota>) -> Self {
        Self { quota, dialler: AppDialler::new(netns) }
    }
}
