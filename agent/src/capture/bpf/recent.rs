//! What a thread found in the table of stand-ins a moment ago: to ask the kernel takes two microseconds, of the few
//! hundred that a connection takes.
//!
//! That is as good as what is found now. A number that is taken means the same until it is free, and it is free no
//! sooner than ten seconds after it was taken from everyone who might still get it (see [`super::reuse`]); what is
//! found is used again for one, and not after this agent has given any number back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For how long it is used.
const FRESH: Duration = Duration::from_secs(1);
/// Addresses that a thread remembers.
const MOST: usize = 1024;

/// Changes when numbers may have changed hands. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Epoch {
    /// Of this process' tables.
    table: u64,
    now: Arc<AtomicU64>,
}

impl Epoch {
    /// Of a table of its own.
    pub(super) fn new() -> Self {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        let table = TABLES.fetch_add(1, Ordering::Relaxed);
        Self { table, now: Arc::default() }
    }

    /// Before a number is given to anyone else.
    pub(super) fn advance(&self) {
        self.now.fetch_add(1, Ordering::Release);
    }

    /// The real address behind a stand-in; `look` asks the table.
    pub(super) fn real(
        &self,
        stand_in: IpAddr,
        look: impl FnOnce() -> Option<IpAddr>,
    ) -> Option<IpAddr> {
        self.recall(|known| &mut known.real, stand_in, || look().ok_or(())).ok()
    }

    /// The number of a client; `look` asks the table.
    ///
    /// # Errors
    /// As `look`.
    pub(super) fn number<E>(
        &self,
        client: IpAddr,
        look: impl FnOnce() -> Result<u32, E>,
    ) -> Result<u32, E> {
        self.recall(|known| &mut known.numbers, client, look)
    }

    /// What was found a moment ago, or what is found now. A number given back meanwhile is another epoch's.
    fn recall<T: Copy, E>(
        &self,
        of: impl Fn(&mut Known) -> &mut Found<T>,
        address: IpAddr,
        look: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let (now, epoch) = (Instant::now(), self.now.load(Ordering::Acquire));
        if let Some(known) = self.with(epoch, |known| fresh(of(known), address, now)) {
            return Ok(known);
        }
        let found = look()?;
        self.with(epoch, |known| note(of(known), address, (now, found)));
        Ok(found)
    }

    /// What this thread knows of this table in this epoch.
    fn with<T>(&self, epoch: u64, act: impl FnOnce(&mut Known) -> T) -> T {
        KNOWN.with_borrow_mut(|known| {
            if known.of != (self.table, epoch) {
                *known = Known { of: (self.table, epoch), ..Known::default() };
            }
            act(known)
        })
    }
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// By the address that was asked for, and when.
type Found<T> = HashMap<IpAddr, (Instant, T)>;

#[derive(Default)]
struct Known {
    /// Table and epoch.
    of: (u64, u64),
    real: Found<IpAddr>,
    numbers: Found<u32>,
}

fn fresh<T: Copy>(known: &Found<T>, of: IpAddr, now: Instant) -> Option<T> {
    let (since, found) = known.get(&of)?;
    (now.duration_since(*since) < FRESH).then_some(*found)
}

fn note<T>(known: &mut Found<T>, of: IpAddr, found: (Instant, T)) {
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(of, found);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn check(epoch: &Epoch, stand_in: IpAddr, there: Option<IpAddr>, found: Option<IpAddr>) {
        assert_eq!(epoch.real(stand_in, || there), found);
    }

    #[test]
    fn what_was_found_is_found_again_until_a_number_is_given_back() {
        let epoch = Epoch::new();
        check(&epoch, ip(1), Some(ip(7)), Some(ip(7)));
        check(&epoch, ip(1), Some(ip(8)), Some(ip(7)));
        // Who was not there is looked for again.
        check(&epoch, ip(2), None, None);
        check(&epoch, ip(2), Some(ip(9)), Some(ip(9)));
        epoch.clone().advance();
        check(&epoch, ip(1), Some(ip(8)), Some(ip(8)));
        assert_eq!(epoch.number(ip(1), || Ok::<_, ()>(3)), Ok(3));
        assert_eq!(epoch.number(ip(1), || Err(())), Ok(3));
        epoch.advance();
        assert_eq!(epoch.number(ip(1), || Err(())), Err(()));
    }

    #[test]
    fn tables_and_threads_know_nothing_of_each_other() {
        let (one, other) = (Epoch::new(), Epoch::new());
        check(&one, ip(1), Some(ip(7)), Some(ip(7)));
        check(&other, ip(1), Some(ip(8)), Some(ip(8)));
        check(&one, ip(1), Some(ip(9)), Some(ip(9)));
        let there = one.clone();
        std::thread::spawn(move || check(&there, ip(1), Some(ip(5)), Some(ip(5)))).join().unwrap();
    }

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let now = Instant::now();
        let mut known = HashMap::from([(ip(1), (now, 1))]);
        assert_eq!(fresh(&known, ip(1), now + FRESH / 2), Some(1));
        assert_eq!(fresh(&known, ip(1), now + FRESH), None);
        for of in 0..u32::try_from(MOST).unwrap() {
            note(&mut known, std::net::Ipv4Addr::from(of).into(), (now, 2));
            assert!(known.len() <= MOST);
        }
    }
}
