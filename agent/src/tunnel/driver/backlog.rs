//! Bytes of a stream that its application has not taken yet.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use super::super::account::{Account, Held, Spent};

/// What the kernel holds for an application that does not read, in bytes: [`UNSENT`](crate::sys::socket::UNSENT), and
/// what it had begun to fill.
const IN_KERNEL: usize = 128 << 10;

/// Bytes that wait, counted for the application's pod; nothing where none do.
#[derive(Debug, Default)]
pub(super) struct Backlog(Option<Box<Waiting>>);

#[derive(Debug)]
struct Waiting {
    bytes: VecDeque<u8>,
    held: Held,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds what follows after the first `skip` bytes of `slices`.
    ///
    /// # Errors
    /// The pod holds too much; nothing is added then.
    pub(super) fn extend(
        &mut self,
        account: &Rc<Account>,
        slices: &[IoSlice<'_>],
        mut skip: usize,
    ) -> Result<(), Spent> {
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        let more = all.saturating_sub(skip);
        if more == 0 {
            return Ok(());
        }
        if let Some(waiting) = &mut self.0 {
            waiting.make_room(more)?;
        } else {
            let held = account.hold(IN_KERNEL + more)?;
            self.0 = Some(Box::new(Waiting { bytes: VecDeque::with_capacity(more), held }));
        }
        let Some(waiting) = &mut self.0 else { return Ok(()) };
        for slice in slices {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            waiting.bytes.extend(&slice[skipped..]);
        }
        Ok(())
    }

    pub(super) fn as_slices(&self) -> (&[u8], &[u8]) {
        self.0.as_ref().map_or((&[], &[]), |waiting| waiting.bytes.as_slices())
    }

    /// The first so many were taken.
    pub(super) fn taken(&mut self, bytes: usize) {
        if let Some(waiting) = &mut self.0 {
            waiting.bytes.drain(..bytes);
            if waiting.bytes.is_empty() {
                self.0 = None;
            }
        }
    }
}

impl Waiting {
    /// Grows by a quarter at least, so that little is copied, and little is more than waits.
    fn make_room(&mut self, more: usize) -> Result<(), Spent> {
        let (length, capacity) = (self.bytes.len(), self.bytes.capacity());
        if length + more > capacity {
            let wanted = (length + more).max(capacity + capacity / 4);
            self.held.resize(IN_KERNEL + wanted)?;
            self.bytes.reserve_exact(wanted - length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::account::{Budget, Share};
    use super::*;

    #[test]
    fn what_waits_is_counted_until_it_is_taken() {
        let budget = Budget::new(4 << 20);
        let account = Account::new(Share::new(&budget));
        let mut backlog = Backlog::default();
        let piece = [7; 10_000];
        for _ in 0..20 {
            backlog.extend(&account, &[IoSlice::new(&piece), IoSlice::new(b"end")], 3).unwrap();
        }
        assert!((200_000..450_000).contains(&budget.held()), "{}", budget.held());
        let (front, back) = backlog.as_slices();
        assert_eq!(front.len() + back.len(), 200_000);
        backlog.taken(199_999);
        assert!(!backlog.is_empty());
        backlog.taken(1);
        assert!(backlog.is_empty());
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_pod_over_its_share_adds_nothing() {
        let account = Account::new(Share::new(&Budget::new(1_200_000)));
        let mut backlog = Backlog::default();
        let piece = [7; 100_000];
        backlog.extend(&account, &[IoSlice::new(&piece)], 0).unwrap();
        backlog.extend(&account, &[IoSlice::new(&piece)], 0).unwrap_err();
        assert_eq!(backlog.as_slices().0.len(), 100_000);
    }
}
