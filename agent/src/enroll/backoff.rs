//! Watchers of the API server have its patience.

use kube::runtime::utils::Backoff;

use crate::sys::backoff::Patient;

impl Backoff for Patient {
    fn reset(&mut self) {
        self.hear();
    }
}
