//! Tokens that were asked about are remembered for a while, and questions are asked in turn: of one
//! source few at a time, so that nobody waits behind somebody else's garbage.

mod expiry;

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::caller::{Authenticate, AuthenticateError, Caller, Review};
use super::source::Source;
use expiry::Expiry;

/// How long a token that is good counts as such. What is revoked counts so much longer.
const GOOD: Duration = Duration::from_secs(30);
/// How long one that is not does not: it may have been made for an account that is only just there.
const BAD: Duration = Duration::from_secs(5);
/// Tokens of each sort that are remembered.
const TOKENS: usize = 4096;
/// Questions at a time.
const AT_ONCE: usize = 16;
/// Of them, of one source.
const AT_ONCE_OF_ONE: usize = 2;
/// Questions at a time about tokens that were good before: they wait behind nobody else's.
const AT_ONCE_OF_KNOWN: usize = 4;
/// How long it is remembered that a token was good; no token of a pod lives longer.
const KNOWN: Duration = Duration::from_secs(24 * 3600);
/// How long after it was last found good a token counts while nobody can be asked: an agent that is started anew while
/// the API server is away gets its mesh and its certificates. More than a node's stream lasts, after which it is asked about
/// again. Its own end may come before.
const UNASKED: Duration = Duration::from_secs(2 * 3600);
/// Questions of one source that wait; of more, nobody is asked.
const WAITING_OF_ONE: usize = 64;
/// How long a question may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// A token, as it is remembered.
type Fingerprint = [u8; 32];

/// Asks about tokens, and remembers the answers.
#[derive(Debug)]
pub struct Tokens<R> {
    reviewer: R,
    at_once: Semaphore,
    at_once_of_known: Semaphore,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    good: Remembered<Fingerprint, Caller>,
    bad: Remembered<Fingerprint, String>,
    /// Those that were good, whose they were and when, and that have not been rejected since.
    known: Remembered<Fingerprint, (Caller, Instant)>,
    asking: HashMap<Source, Asking>,
}

/// The questions of one source.
#[derive(Debug)]
struct Asking {
    at_once: Arc<Semaphore>,
    /// Those that are asked and those that wait.
    questions: usize,
}

impl<R: Review> Tokens<R> {
    /// Remembers what `reviewer` says.
    pub fn new(reviewer: R) -> Self {
        Self {
            reviewer,
            at_once: Semaphore::new(AT_ONCE),
            at_once_of_known: Semaphore::new(AT_ONCE_OF_KNOWN),
            book: Mutex::default(),
        }
    }

    fn remembered(
        &self,
        token: &Fingerprint,
        expiry: Expiry,
    ) -> Option<Result<Caller, AuthenticateError>> {
        let now = Instant::now();
        let mut book = self.book.lock();
        if let Some(caller) = book.good.get(token, now).filter(|_| !expiry.has_passed()) {
            return Some(Ok(caller));
        }
        book.bad.get(token, now).map(|reason| Err(AuthenticateError::Rejected(reason)))
    }

    fn remember(&self, token: Fingerprint, answer: &Result<Caller, AuthenticateError>) {
        let now = Instant::now();
        let mut book = self.book.lock();
        match answer {
            Ok(caller) => {
                book.good.put(token, caller.clone(), now + GOOD);
                book.known.put(token, (caller.clone(), now), now + KNOWN);
            }
            Err(AuthenticateError::Rejected(reason)) => {
                book.known.remove(&token);
                book.bad.put(token, reason.clone(), now + BAD);
            }
            Err(AuthenticateError::Unavailable(_)) => {}
        }
    }

    /// The answer; where nobody could be asked, what was known of the token not long ago.
    fn or_known(
        &self,
        token: &Fingerprint,
        expiry: Expiry,
        answer: Result<Caller, AuthenticateError>,
    ) -> Result<Caller, AuthenticateError> {
        let Err(AuthenticateError::Unavailable(why)) = answer else { return answer };
        let now = Instant::now();
        let mut book = self.book.lock();
        match book.known.get(token, now).filter(|_| expiry.is_ahead()) {
            Some((caller, found_good)) if now < found_good + UNASKED => {
                tracing::warn!(
                    account = %caller.account,
                    why = %why,
                    "nobody can be asked about a token: what was known of it counts"
                );
                book.good.put(*token, caller.clone(), now + GOOD);
                Ok(caller)
            }
            _ => Err(AuthenticateError::Unavailable(why)),
        }
    }

    fn queue(&self, source: Source) -> Result<Turn<'_, R>, AuthenticateError> {
        let mut book = self.book.lock();
        let asking = book.asking.entry(source).or_insert_with(|| Asking {
            at_once: Arc::new(Semaphore::new(AT_ONCE_OF_ONE)),
            questions: 0,
        });
        if asking.questions >= WAITING_OF_ONE {
            return Err(unavailable("too many tokens are asked about from this address"));
        }
        asking.questions += 1;
        Ok(Turn { tokens: self, source, own: asking.at_once.clone() })
    }
}

impl<R: Review> Authenticate for Tokens<R> {
    async fn authenticate(
        &self,
        token: &SecretString,
        source: Source,
    ) -> Result<Caller, AuthenticateError> {
        let fingerprint: Fingerprint = Sha256::digest(token.expose_secret().as_bytes()).into();
        let expiry = Expiry::of(token.expose_secret());
        if let Some(answer) = self.remembered(&fingerprint, expiry) {
            return answer;
        }
        let known = self.book.lock().known.get(&fingerprint, Instant::now()).is_some();
        let turn = if known { None } else { Some(self.queue(source)?) };
        let waiting = async {
            match &turn {
                None => (None, self.at_once_of_known.acquire().await),
                // First the source's own turn: what is in the line of all is little of each.
                Some(turn) => (Some(turn.own.acquire().await), self.at_once.acquire().await),
            }
        };
        let _place = timeout(PATIENCE, waiting)
            .await
            .map_err(|_| unavailable("too many tokens are asked about"))?;
        // Meanwhile somebody may have asked about the same.
        if let Some(answer) = self.remembered(&fingerprint, expiry) {
            return answer;
        }
        let answer = self.reviewer.review(token).await;
        self.remember(fingerprint, &answer);
        self.or_known(&fingerprint, expiry, answer)
    }
}

fn unavailable(why: &'static str) -> AuthenticateError {
    AuthenticateError::Unavailable(why.into())
}

/// A question's place in its source's line.
struct Turn<'t, R> {
    tokens: &'t Tokens<R>,
    source: Source,
    own: Arc<Semaphore>,
}

impl<R> Drop for Turn<'_, R> {
    fn drop(&mut self) {
        let mut book = self.tokens.book.lock();
        if let Some(asking) = book.asking.get_mut(&self.source) {
            asking.questions -= 1;
            if asking.questions == 0 {
                book.asking.remove(&self.source);
            }
        }
    }
}

/// Values that are kept until a time, the newest [`TOKENS`] of them.
#[derive(Debug)]
struct Remembered<K, V> {
    values: HashMap<K, (Instant, V)>,
    /// In the order of their coming, which is that of their times.
    order: VecDeque<(Instant, K)>,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Remembered<K, V> {
    fn get(&mut self, key: &K, now: Instant) -> Option<V> {
        self.forget(now);
        self.values.get(key).map(|(_, value)| value.clone())
    }

    fn put(&mut self, key: K, value: V, until: Instant) {
        self.values.insert(key, (until, value));
        self.order.push_back((until, key));
        while self.order.len() > TOKENS {
            self.forget_first();
        }
    }

    fn remove(&mut self, key: &K) {
        self.values.remove(key);
    }

    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((until, key)) = self.order.pop_front() else { return };
        // A newer answer to the same question stays.
        if self.values.get(&key).is_some_and(|(kept, _)| *kept == until) {
            self.values.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
