//! How many connections and streams one pod may have open on a thread: the process's descriptors are
//! everybody's, and a flood to or from one pod must leave some for the others.

use std::cell::Cell;
use std::rc::Rc;

/// One pod's share of a thread's connections.
#[derive(Debug)]
pub struct Quota {
    most: usize,
    open: Cell<usize>,
}

/// One connection's or stream's place, until dropped.
#[derive(Debug)]
pub(super) struct Place(Rc<Quota>);

/// The pod has too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pod has {0} connections open on this thread, and may have no more")]
pub(super) struct Full(usize);

impl Quota {
    /// Room for `most`.
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, open: Cell::new(0) })
    }

    /// Takes a place, if there is one left.
    pub(super) fn take(self: &Rc<Self>) -> Result<Place, Full> {
        let open = self.open.get();
        if open >= self.most {
            return Err(Full(open));
        }
        self.open.set(open + 1);
        Ok(Place(Rc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
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
