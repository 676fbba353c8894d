//! Questions that wait because resolvers are asked enough already.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::capture::Question;
use crate::observe::names::Asked;

/// How many wait at a time, of one pod and family.
const MOST: usize = 4096;
/// What they hold together. A question of a stub resolver has less than 100 bytes.
const BYTES: usize = 1 << 20;

/// A question on its way to a resolver.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) question: Question,
    pub(super) asked: Asked,
    pub(super) bytes: Vec<u8>,
    /// When it came.
    pub(super) begun: Instant,
}

/// In the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    all: VecDeque<Sent>,
    bytes: usize,
}

impl Waiting {
    /// Puts a question at the end, unless it is one too many: then it is given back.
    pub(super) fn push(&mut self, sent: Sent) -> Option<Sent> {
        if self.all.len() >= MOST || self.bytes + sent.bytes.len() > BYTES {
            return Some(sent);
        }
        self.bytes += sent.bytes.len();
        self.all.push_back(sent);
        None
    }

    pub(super) fn pop(&mut self) -> Option<Sent> {
        let sent = self.all.pop_front()?;
        self.bytes -= sent.bytes.len();
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::time::Instant;

    use super::{BYTES, MOST, Sent, Waiting};
    use crate::capture::Question;
    use crate::observe::names::Asked;

    fn sent(length: usize) -> Sent {
        let resolver = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        let question = Question::new(length, (resolver, resolver.ip()), resolver);
        let asked = Asked::new(Some(true), false);
        Sent { question, asked, bytes: vec![0; length], begun: Instant::now() }
    }

    #[test]
    fn few_that_are_long_and_many_that_are_short_are_too_many() {
        let mut waiting = Waiting::default();
        for length in [1, BYTES / 4] {
            let mut count = 0;
            while waiting.push(sent(length)).is_none() {
                count += 1;
            }
            assert_eq!(count, if length == 1 { MOST } else { 4 });
            while let Some(one) = waiting.pop() {
                assert_eq!(one.bytes.len(), length);
                count -= 1;
            }
            assert_eq!((count, waiting.bytes), (0, 0));
        }
    }
}
