//! What a data thread keeps for one pod while it serves the pod's connections.

use std::rc::Rc;
use std::sync::Arc;

use super::quota::Quota;
use crate::sys::Netns;
use crate::sys::crowd::Crowd;
use crate::sys::socket::AppDialler;
use crate::tunnel::Account;

/// Handshakes of a pod's peers at a time, on one thread.
const HANDSHAKES: usize = 2048;

/// One pod's part of a data thread.
#[derive(Debug)]
pub struct OfPod {
    pub(super) quota: Arc<Quota>,
    /// What it holds on this thread.
    pub(super) account: Rc<Account>,
    /// Of peers that dial it.
    pub(super) handshakes: Arc<Crowd>,
    pub(super) dialler: AppDialler,
}

impl OfPod {
    /// Of the pod in `netns`. The quota may be one that open connections of the pod count against already.
    pub fn new(netns: Netns, quota: Arc<Quota>) -> Self {
        let account = Account::new(quota.share());
        let dialler = AppDialler::new(netns);
        let handshakes = Crowd::new(HANDSHAKES, HANDSHAKES);
        Self { quota, account, handshakes, dialler }
    }
}
