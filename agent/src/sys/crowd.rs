//! Who is let in where anybody may come: whoever begins much and ends nothing gives way.
//!
//! With too many at once, the oldest of the source that has the most is given up: a flood pushes out itself, while an
//! honest peer's handshake or scrape ends in a few milliseconds.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// What is under way, of all sources.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    /// Of one source.
    most_each: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// The oldest first.
    entries: VecDeque<Entry>,
    /// How many each source has.
    counts: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    source: IpAddr,
    cut: CancellationToken,
}

/// One of them, until dropped.
#[derive(Debug)]
pub struct Entered {
    number: u64,
    crowd: Arc<Crowd>,
    cut: CancellationToken,
}

impl Crowd {
    /// Room for `most`, and for `most_each` of one source.
    pub fn new(most: usize, most_each: usize) -> Arc<Self> {
        Arc::new(Self { most, most_each, state: Mutex::default() })
    }

    /// Room for how many.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Lets one more in; `cut` is cancelled if it is given up for another.
    pub fn enter(self: &Arc<Self>, source: IpAddr, cut: CancellationToken) -> Entered {
        let mut state = self.state.lock();
        if let Some(from) = self.one_too_many(&state, source)
            && let Some(at) = state.entries.iter().position(|entry| entry.source == from)
            && let Some(given_up) = state.remove(at)
        {
            given_up.cut.cancel();
        }
        let number = state.next;
        state.next += 1;
        *state.counts.entry(source).or_default() += 1;
        state.entries.push_back(Entry { number, source, cut: cut.clone() });
        Entered { number, crowd: Arc::clone(self), cut }
    }

    /// Whose oldest must go before another of `source` may come.
    fn one_too_many(&self, state: &State, source: IpAddr) -> Option<IpAddr> {
        if state.counts.get(&source).is_some_and(|own| *own >= self.most_each) {
            return Some(source);
        }
        if state.entries.len() < self.most {
            return None;
        }
        let most = state.counts.values().copied().max()?;
        if state.counts.get(&source) == Some(&most) {
            return Some(source);
        }
        let has_most = |entry: &&Entry| state.counts.get(&entry.source) == Some(&most);
        state.entries.iter().find(has_most).map(|entry| entry.source)
    }
}

impl State {
    fn remove(&mut self, at: usize) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        if let Some(count) = self.counts.get_mut(&entry.source) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&entry.source);
            }
        }
        Some(entry)
    }
}

impl Entered {
    /// Ready when it is given up.
    pub async fn given_up(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.crowd.state.lock();
        // Numbers only grow.
        if let Ok(at) = state.entries.binary_search_by_key(&self.number, |entry| entry.number) {
            // It was not given up.
            drop(state.remove(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn enter(crowd: &Arc<Crowd>, host: u8) -> Entered {
        crowd.enter(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), CancellationToken::new())
    }

    fn stays(entered: &Entered) -> bool {
        !entered.cut.is_cancelled()
    }

    #[test]
    fn a_flood_gives_up_its_own() {
        let crowd = Crowd::new(100, 100);
        let honest: Vec<_> = (1..=9).map(|host| enter(&crowd, host)).collect();
        let flood: Vec<_> = (0..1000).map(|_| enter(&crowd, 66)).collect();
        let late = enter(&crowd, 10);
        assert!(honest.iter().chain([&late]).all(stays));
        assert_eq!(flood.iter().filter(|entered| stays(entered)).count(), 90);
        assert!(stays(&flood[999]), "the oldest go first");
        drop((honest, flood, late));
        let state = crowd.state.lock();
        assert!(state.entries.is_empty() && state.counts.is_empty());
    }

    #[test]
    fn one_source_has_its_bound_however_much_room_there_is() {
        let crowd = Crowd::new(100, 3);
        let entered: Vec<_> = (0..5).map(|_| enter(&crowd, 1)).collect();
        assert_eq!(entered.iter().map(stays).collect::<Vec<_>>(), [false, false, true, true, true]);
        assert!(stays(&enter(&crowd, 2)));
    }
}
