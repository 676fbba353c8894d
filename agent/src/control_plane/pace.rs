//! How often each source may do what costs us work: a number at once, then so many a second.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::source::Source;

/// Connections of one address.
const CONNECTIONS: Rate = Rate { burst: 128, per_second: 32 };
/// Connections of one that an agent is known to have, which may share it with who floods.
const CONNECTIONS_OF_KNOWN: Rate = Rate { burst: 512, per_second: 512 };
/// Requests of one address that give their callers no trust.
const REQUESTS: Rate = Rate { burst: 128, per_second: 32 };
/// How long an agent is known to have an address after it has proven itself from there.
const KNOWN: Duration = Duration::from_secs(3600);
/// Sources that are kept apart; of more, those that come last share a place.
const SOURCES: usize = 4096;
/// How often at most it is told that somebody comes too often.
const TELL: Duration = Duration::from_secs(10);

/// How often.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// At once, after a rest.
    pub burst: u32,
    /// For as long as it goes on.
    pub per_second: u32,
}

/// What each source has done lately.
#[derive(Debug)]
pub struct Pace {
    what: &'static str,
    rate: Rate,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// When each source has rested for all that it did; those that have are left out.
    rested: HashMap<Option<Source>, Instant>,
    told: Option<Instant>,
    untold: u64,
}

/// What a control plane's callers are held to.
#[derive(Debug)]
pub struct Paces {
    strangers: Pace,
    known: Pace,
    requests: Pace,
    /// Where agents are known to be, and since when nobody has proven that again.
    agents: Mutex<HashMap<Source, Instant>>,
}

impl Default for Paces {
    fn default() -> Self {
        Self {
            strangers: Pace::new("connections", CONNECTIONS),
            known: Pace::new("connections", CONNECTIONS_OF_KNOWN),
            requests: Pace::new("requests that prove nothing", REQUESTS),
            agents: Mutex::default(),
        }
    }
}

impl Paces {
    /// Whether `source` may connect once more.
    pub fn may_come(&self, source: Source) -> bool {
        let proven = self.agents.lock().get(&source).copied();
        let pace = match proven {
            Some(proven) if proven.elapsed() < KNOWN => &self.known,
            _ => &self.strangers,
        };
        pace.may(source)
    }

    /// Whether it may ask once more, without proof that it may ask for anything.
    pub fn may_ask(&self, source: Source) -> bool {
        self.requests.may(source)
    }

    /// An agent is at `source`.
    pub fn know(&self, source: Source) {
        let mut agents = self.agents.lock();
        if agents.len() >= SOURCES {
            agents.retain(|_, proven| proven.elapsed() < KNOWN);
        }
        if agents.len() < SOURCES || agents.contains_key(&source) {
            agents.insert(source, Instant::now());
        }
    }
}

impl Pace {
    /// Everybody is rested. `what` is done too often is how it is told.
    pub fn new(what: &'static str, rate: Rate) -> Self {
        Self { what, rate, book: Mutex::default() }
    }

    /// Whether `source` may do it once more now; then it has.
    pub fn may(&self, source: Source) -> bool {
        let now = Instant::now();
        let each = Duration::from_secs(1) / self.rate.per_second;
        let mut book = self.book.lock();
        let place = book.place(source, now);
        let rested = book.rested.get(&place).map_or(now, |rested| (*rested).max(now));
        if rested - now > each * (self.rate.burst - 1) {
            book.tell(self.what, source, now);
            return false;
        }
        book.rested.insert(place, rested + each);
        true
    }
}

impl Book {
    fn place(&mut self, source: Source, now: Instant) -> Option<Source> {
        if self.rested.len() >= SOURCES && !self.rested.contains_key(&Some(source)) {
            self.rested.retain(|_, rested| *rested > now);
            if self.rested.len() >= SOURCES {
                return None;
            }
        }
        Some(source)
    }

    fn tell(&mut self, what: &str, source: Source, now: Instant) {
        self.untold += 1;
        if self.told.is_none_or(|told| now - told >= TELL) {
            self.told = Some(now);
            let refused = std::mem::take(&mut self.untold);
            tracing::warn!(?source, refused, "{what} of one address come too often");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::advance;

    use super::*;

    const RATE: Rate = Rate { burst: 5, per_second: 10 };

    fn source(last: u32) -> Source {
        Source::from(IpAddr::from((10 << 24 | last).to_be_bytes()))
    }

    fn done(pace: &Pace, from: u32, tries: usize) -> usize {
        (0..tries).filter(|_| pace.may(source(from))).count()
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_then_so_many_a_second() {
        let pace = Pace::new("tests", RATE);
        assert_eq!(done(&pace, 1, 20), 5);
        assert_eq!(done(&pace, 2, 3), 3);
        advance(Duration::from_millis(300)).await;
        assert_eq!(done(&pace, 1, 20), 3);
        // A long rest saves no more than a short one.
        advance(Duration::from_secs(3600)).await;
        assert_eq!(done(&pace, 1, 20), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_too_often_loses_nothing_by_trying() {
        let pace = Pace::new("tests", RATE);
        let mut all = 0;
        for _ in 0..1000 {
            all += done(&pace, 1, 3);
            advance(Duration::from_millis(10)).await;
        }
        assert!((5 + 99..=5 + 100).contains(&all), "{all}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let pace = Pace::new("tests", RATE);
        let many = u32::try_from(SOURCES).unwrap();
        assert!((0..2 * many).any(|from| !pace.may(source(from))), "the last share a place");
        assert!(pace.book.lock().rested.len() <= SOURCES + 1);
        advance(Duration::from_secs(1)).await;
        assert!(pace.may(source(9 * many)));
        assert_eq!(pace.book.lock().rested.len(), 1);
    }
}
