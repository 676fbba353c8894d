//! Who holds the process's buffers: bytes on their way, counted for the pod whose traffic they are.
//!
//! Counted is what piles up when somebody does not go on: bytes that an application or a peer does not
//! read, handshakes, requests without an answer. What flows is in the threads' own buffers, and costs
//! nothing here. A pod may hold a third of what all pods leave free (the dynamic threshold of switches'
//! shared buffers, Choudhury and Hahne 1998): one alone gets a quarter of all, the next a quarter of the
//! rest, and there is something left for whoever comes after ten of them.
//!
//! | what | shared by | touched |
//! |---|---|---|
//! | [`Budget`] | the process | by pieces of [`PIECE`] bytes |
//! | [`Share`] | one pod's connections, on all threads | the same |
//! | [`Account`] | the same on one thread | by each byte that waits |

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What a thread draws for a pod at a time, in bytes.
const PIECE: usize = 32 << 10;

/// The process's bytes for what waits.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    held: AtomicUsize,
    refused: AtomicU64,
}

impl Budget {
    /// So many bytes for all pods together.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    /// Bytes there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Bytes that wait now, to a piece a pod and thread.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// How often a pod was over its share.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// What one pod may hold, once so many bytes more are held: a third of what is then left.
    fn allowed(&self, more: usize) -> usize {
        self.most.saturating_sub(self.held().saturating_add(more)) / 3
    }
}

/// One pod's part of the budget.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

impl Share {
    /// Of a pod that holds nothing yet.
    pub fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), held: AtomicUsize::new(0) })
    }

    /// Bytes of the pod that wait now.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Threads that draw at the same moment may exceed the share by what they draw.
    fn draw(&self, bytes: usize) -> bool {
        let drawn = self.held().saturating_add(bytes) <= self.budget.allowed(bytes);
        if drawn {
            self.held.fetch_add(bytes, Relaxed);
            self.budget.held.fetch_add(bytes, Relaxed);
        }
        drawn
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
        self.budget.held.fetch_sub(bytes, Relaxed);
    }
}

/// One pod's part of the budget, as one thread counts it.
#[derive(Debug)]
pub struct Account {
    share: Arc<Share>,
    drawn: Cell<usize>,
    used: Cell<usize>,
}

/// The pod holds all it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many bytes wait for whoever does not read them: the pod's share of the agent's memory is used up"
)]
pub struct Spent;

impl Account {
    /// A thread's account of a pod.
    pub fn new(share: Arc<Share>) -> Rc<Self> {
        Rc::new(Self { share, drawn: Cell::new(0), used: Cell::new(0) })
    }

    /// Holds bytes until what is returned is dropped.
    ///
    /// # Errors
    /// The pod has no more.
    pub fn hold(self: &Rc<Self>, bytes: usize) -> Result<Held, Spent> {
        let mut held = Held::nothing(self);
        held.resize(bytes)?;
        Ok(held)
    }

    /// Whether the pod holds so much that it had better not get more: half of what it may.
    pub fn is_tight(&self) -> bool {
        self.share.held() > self.share.budget.allowed(0) / 2
    }

    fn take(&self, bytes: usize) -> Result<(), Spent> {
        let used = self.used.get().saturating_add(bytes);
        if let Some(lacking) = used.checked_sub(self.drawn.get()).filter(|lacking| *lacking > 0) {
            let pieces = lacking.next_multiple_of(PIECE);
            let drawn = [pieces, lacking].into_iter().find(|bytes| self.share.draw(*bytes));
            let Some(drawn) = drawn else {
                self.share.budget.refused.fetch_add(1, Relaxed);
                return Err(Spent);
            };
            self.drawn.set(self.drawn.get() + drawn);
        }
        self.used.set(used);
        Ok(())
    }

    fn give(&self, bytes: usize) {
        let used = self.used.get() - bytes;
        self.used.set(used);
        let keep = if used == 0 { 0 } else { used + 2 * PIECE };
        if let Some(spare) = self.drawn.get().checked_sub(keep).filter(|spare| *spare > 0) {
            self.drawn.set(keep);
            self.share.give_back(spare);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.share.give_back(self.drawn.get());
    }
}

/// Bytes held for a pod, until dropped.
#[derive(Debug)]
pub struct Held {
    account: Rc<Account>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    pub fn nothing(account: &Rc<Account>) -> Self {
        Self { account: Rc::clone(account), bytes: 0 }
    }

    /// Holds so many instead.
    ///
    /// # Errors
    /// The pod has no more; then as many as before are held.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Spent> {
        if bytes > self.bytes {
            self.account.take(bytes - self.bytes)?;
        } else if bytes < self.bytes {
            self.account.give(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.give(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    /// Takes as much as it gets.
    fn fill(account: &Rc<Account>) -> Vec<Held> {
        std::iter::from_fn(|| account.hold(1000).ok()).collect()
    }

    #[test]
    fn a_greedy_pod_gets_a_quarter_and_the_next_a_quarter_of_the_rest() {
        let budget = Budget::new(32 * MIB);
        let account = || Account::new(Share::new(&budget));
        let (first, second, third) = (account(), account(), account());
        let _first = fill(&first);
        assert!((7 * MIB..=8 * MIB).contains(&first.share.held()), "{}", first.share.held());
        assert!(first.is_tight() && !second.is_tight());
        let _second = fill(&second);
        assert!((5 * MIB..=6 * MIB).contains(&second.share.held()), "{}", second.share.held());
        let _some = third.hold(4 * MIB).unwrap();
        assert_eq!(first.hold(2 * PIECE).unwrap_err(), Spent);
        assert!(budget.refused() >= 3);
    }

    #[test]
    fn a_pods_threads_share_what_it_may_hold() {
        let budget = Budget::new(30 * MIB);
        let share = Share::new(&budget);
        let [one, other] = [(), ()].map(|()| Account::new(Arc::clone(&share)));
        let held = fill(&one);
        assert_eq!(other.hold(2 * PIECE).unwrap_err(), Spent);
        drop(held);
        assert_eq!((share.held(), budget.held()), (0, 0));
        let _held = other.hold(7 * MIB).unwrap();
    }

    proptest! {
        /// What is drawn covers what is held, and all of it comes back.
        #[test]
        fn nothing_is_lost(sizes in proptest::collection::vec(0_usize..200_000, 1..60)) {
            let budget = Budget::new(4 * MIB);
            let account = Account::new(Share::new(&budget));
            let mut all: Vec<Held> = Vec::new();
            for (number, size) in sizes.into_iter().enumerate() {
                match number % 3 {
                    0 => all.extend(account.hold(size).ok()),
                    1 => drop(all.pop().map(|mut held| held.resize(size))),
                    _ => drop((all.len() > 3).then(|| all.remove(0))),
                }
                let held: usize = all.iter().map(|held| held.bytes).sum();
                prop_assert!(held <= budget.held(), "{held} of {}", budget.held());
                prop_assert!(budget.held() <= held + 3 * PIECE);
                prop_assert!(budget.held() <= budget.most() / 4 + 1);
            }
            drop((all, account));
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
