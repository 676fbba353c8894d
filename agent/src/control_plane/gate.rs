//! Connections whose caller has not proven yet who it is: few of one source, a bounded number in
//! all. When there is no room the oldest gives way, of the source that has the most: whoever comes
//! gets in, and who floods pushes out nobody but itself. And nobody comes, or asks for what it has not
//! proven that it may, more often than its pace.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;
use tonic::Extensions;

use super::pace::Paces;
use super::source::Source;

/// How many connections may be unproven.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of one source.
    pub per_source: usize,
    /// Of all.
    pub total: usize,
}

/// Lets connections in. Clones share the book.
#[derive(Debug, Clone)]
pub struct Gate {
    limits: Limits,
    book: Arc<Mutex<Book>>,
    paces: Arc<Paces>,
    dropped: Counter,
}

/// The unproven connections, by source, the oldest first.
#[derive(Debug, Default)]
struct Book {
    next: u64,
    total: usize,
    sources: HashMap<Source, BTreeMap<u64, CancellationToken>>,
}

impl Book {
    /// Makes room for one more of `source`; whether another had to give way.
    fn make_room(&mut self, source: Source, limits: Limits) -> bool {
        let own = self.sources.get(&source).map_or(0, BTreeMap::len);
        let from = if own >= limits.per_source {
            Some(source)
        } else if self.total >= limits.total {
            // Of several that have as many, the one with the oldest.
            let ranked = self.sources.iter().filter_map(|(source, connections)| {
                let (oldest, _) = connections.first_key_value()?;
                Some((connections.len(), std::cmp::Reverse(*oldest), *source))
            });
            ranked.max().map(|(_, _, source)| source)
        } else {
            None
        };
        let Some(from) = from else { return false };
        let oldest = self.sources.get(&from).and_then(|c| c.first_key_value());
        let Some((number, stop)) = oldest.map(|(number, stop)| (*number, stop.clone())) else {
            return false;
        };
        self.remove(from, number);
        stop.cancel();
        true
    }

    fn remove(&mut self, source: Source, number: u64) {
        let Some(connections) = self.sources.get_mut(&source) else { return };
        if connections.remove(&number).is_some() {
            self.total -= 1;
        }
        if connections.is_empty() {
            self.sources.remove(&source);
        }
    }
}

impl Gate {
    /// With nobody in it. `dropped` counts the connections that had to give way.
    pub fn new(limits: Limits, dropped: Counter) -> Self {
        Self { limits, book: Arc::default(), paces: Arc::default(), dropped }
    }

    /// Whether another connection of `source` may come now.
    pub fn may_come(&self, source: Source) -> bool {
        let may = self.paces.may_come(source);
        if !may {
            self.dropped.inc();
        }
        may
    }

    /// Lets a connection in.
    pub fn admit(&self, source: Source) -> Ticket {
        let stop = CancellationToken::new();
        let mut book = self.book.lock();
        if book.make_room(source, self.limits) {
            self.dropped.inc();
        }
        let number = book.next;
        book.next += 1;
        book.total += 1;
        book.sources.entry(source).or_default().insert(number, stop.clone());
        drop(book);
        Ticket { gate: self.clone(), source, number, stop, proven: AtomicBool::new(false) }
    }
}

/// A connection's place.
#[derive(Debug)]
pub struct Ticket {
    gate: Gate,
    source: Source,
    number: u64,
    stop: CancellationToken,
    proven: AtomicBool,
}

impl Ticket {
    /// The ticket of the connection that a request came by.
    pub fn of(extensions: &Extensions) -> Option<Arc<Self>> {
        extensions.get::<Arc<Self>>().cloned()
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// A caller that is trusted came by it: it gives way to nobody any more.
    pub fn prove(&self) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.gate.book.lock().remove(self.source, self.number);
            self.gate.paces.know(self.source);
        }
    }

    /// A request came by it that gives its caller no trust. Whether its source may make another: else the connection
    /// ends, unless it is proven.
    pub fn spend(&self) -> bool {
        if self.proven() || self.gate.paces.may_ask(self.source) {
            return true;
        }
        if !self.stop.is_cancelled() {
            self.gate.dropped.inc();
            self.stop.cancel();
        }
        false
    }

    /// Whether it ends.
    pub fn ends(&self) -> bool {
        self.stop.is_cancelled() && !self.proven()
    }

    /// Whether one did.
    pub fn proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Until it has to give way.
    pub async fn evicted(&self) {
        self.stop.cancelled().await;
    }

    /// Counts that it ended unproven.
    pub fn gave_up(&self) {
        self.gate.dropped.inc();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.book.lock().remove(self.source, self.number);
    }
}

#[cfg(test)]
mod tests;
