//! How many connections and streams one pod may have open, on all threads together: the process's descriptors
//! are everybody's, and a flood to or from one pod must leave some for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One pod's share of all connections.
#[derive(Debug)]
pub struct Quota {
    most: usize,
    open: AtomicUsize,
}

/// One connection's or stream's place, until dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Quota>);

/// The pod has too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pod has {0} connections open, and may have no more")]
pub(super) struct Full(usize);

impl Quota {
    /// Room for `most`.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: AtomicUsize::new(0) })
    }

    /// Takes a place, if there is one left.
    pub(super) fn take(self: &Arc<Self>) -> Result<Place, Full> {
        let more = |open| (open < self.most).then_some(open + 1);
        match self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(open) => Err(Full(open)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pod_takes_the_next_when_one_has_ended() {
        let quota = Quota::new(2);
        let (first, _second) = (quota.take().unwrap(), quota.take().unwrap());
        assert_eq!(quota.take().unwrap_err(), Full(2));
        drop(first);
        let _third = quota.take().unwrap();
        assert_eq!(quota.take().unwrap_err(), Full(2));
    }
}
