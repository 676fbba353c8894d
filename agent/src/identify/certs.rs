//! One certificate for each identity, got when first wanted and renewed in time.
//!
//! [`Certificates`] is the handle that connections use; [`Renewal`] is the one task that calls the
//! CA. What is wanted is a map, not a queue: nothing can be lost, and it is as large as the number
//! of this node's identities. Reading a valid certificate takes no lock.

mod renewal;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::anchor::{Root, RootsId};
use super::ca::{CaClient, CaError};
use super::clock::Clock;
use super::revocation::Revocations;
use super::schedule::Schedule;
use super::svid::{CertificateInfo, Issued, Svid, SvidError};
use crate::error::chain;
use crate::mesh::SpiffeId;
pub use renewal::Renewal;

/// One call, whatever the source does.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection waits for a certificate.
const WAIT: Duration = Duration::from_secs(10);
/// The wall clock may jump, so it is looked at this often.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// So long after a change a certificate that still comes with other roots is asked for again: not every replica of the
/// control plane may know of the change at once. Beside one whose answers hold others than the file, that is all.
const MOVING: Duration = Duration::from_secs(120);

/// Where certificates come from.
pub trait CertificateSource: Send + Sync + 'static {
    /// Has a new key certified for `identity`.
    fn issue(&self, identity: &SpiffeId) -> impl Future<Output = Result<Issued, CaError>> + Send;
}

impl CertificateSource for CaClient {
    fn issue(&self, identity: &SpiffeId) -> impl Future<Output = Result<Issued, CaError>> + Send {
        self.fetch(identity)
    }
}

/// Why a call brought no certificate.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The CA gave none.
    #[error("failed to get a certificate")]
    Ca(#[from] CaError),
    /// What it gave cannot be used.
    #[error("failed to use a certificate")]
    Svid(#[from] SvidError),
    /// It took too long.
    #[error("no certificate within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
}

/// Why a connection got no certificate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificateError {
    /// The last call failed.
    #[error("no valid certificate for {identity}")]
    Unavailable {
        /// Whose.
        identity: SpiffeId,
        /// Why the last call failed.
        source: Arc<FetchError>,
    },
    /// No call ended in time.
    #[error("no certificate for {0} yet")]
    Pending(SpiffeId),
    /// The identity left the node, or the agent stops.
    #[error("certificates for {0} are no longer kept")]
    Forgotten(SpiffeId),
}

/// What is told of an identity's certificate.
#[derive(Debug, Clone)]
pub struct IdentityState {
    /// Whose.
    pub identity: SpiffeId,
    /// Whether it can be used.
    pub condition: Condition,
    /// The certificate and its intermediates, even if expired; empty if there was none ever.
    pub chain: Vec<CertificateInfo>,
    /// Roots of the mesh as of that certificate.
    pub roots: Vec<CertificateInfo>,
    /// The one of them that it hangs on.
    pub root: Option<Root>,
    /// When it expires.
    pub not_after: Option<SystemTime>,
    /// Calls that failed since the last good one.
    pub failures: u32,
}

/// Whether a certificate can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The first call has not ended.
    Initializing,
    /// Yes.
    Available,
    /// No, and why.
    Unavailable(String),
}

/// The certificates of this node's identities.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    revocations: Revocations,
    /// Over which renewals after a change of the roots are spread.
    spread: Duration,
    /// Written only with `identities` locked.
    current: ArcSwap<imbl::HashMap<SpiffeId, Arc<Svid>>>,
    identities: Mutex<HashMap<SpiffeId, Identity>>,
    /// The roots that the mesh is said to have.
    roots: Mutex<Option<Roots>>,
    /// Something became due.
    wake: Notify,
}

/// The roots that the mesh is said to have.
#[derive(Clone, Copy)]
struct Roots {
    id: RootsId,
    /// When they were not these any more; none if they are the first.
    changed: Option<Instant>,
}

struct Identity {
    schedule: Schedule,
    state: watch::Sender<State>,
}

#[derive(Clone, Default)]
struct State {
    svid: Option<Arc<Svid>>,
    error: Option<Arc<FetchError>>,
}

impl Identity {
    fn new() -> Self {
        Self { schedule: Schedule::new(), state: watch::Sender::default() }
    }

    /// A connection waits for it.
    fn wanted(&self) -> bool {
        self.state.receiver_count() > 0
    }
}

impl Certificates {
    /// The handle, and the task that does the work: `Renewal::run` must be spawned.
    ///
    /// When the mesh's roots change, certificates are renewed within `spread`, each at a moment of its own.
    pub fn new<S: CertificateSource>(
        source: S,
        clock: Arc<dyn Clock>,
        revocations: Revocations,
        spread: Duration,
    ) -> (Self, Renewal<S>) {
        let shared = Arc::new(Shared {
            clock,
            revocations,
            spread,
            current: ArcSwap::default(),
            identities: Mutex::default(),
            roots: Mutex::default(),
            wake: Notify::new(),
        });
        (Self { shared: Arc::clone(&shared) }, Renewal { shared, source })
    }

    /// The certificate of `identity`; asks for it if need be and waits up to 10 s.
    ///
    /// # Errors
    /// There is no valid one, and the CA gave none in time.
    ///
    /// # Cancel safety
    /// Dropping the future only stops the waiting.
    pub async fn svid(&self, identity: &SpiffeId) -> Result<Arc<Svid>, CertificateError> {
        if let Some(svid) = self.current(identity) {
            return Ok(svid);
        }
        let mut state = self.shared.subscribe(identity);
        match timeout(WAIT, self.shared.wait_for(&mut state)).await {
            Ok(Some(svid)) => Ok(svid),
            Ok(None) => Err(CertificateError::Forgotten(identity.clone())),
            Err(_) => Err(match state.borrow().error.clone() {
                Some(source) => {
                    CertificateError::Unavailable { identity: identity.clone(), source }
                }
                None => CertificateError::Pending(identity.clone()),
            }),
        }
    }

    /// The certificate of `identity` if there is a valid one now.
    pub fn current(&self, identity: &SpiffeId) -> Option<Arc<Svid>> {
        let current = self.shared.current.load();
        current.get(identity).filter(|svid| svid.is_valid(self.shared.clock.now())).cloned()
    }

    /// The time by which certificates are valid.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// What was revoked.
    pub fn revocations(&self) -> &Revocations {
        &self.shared.revocations
    }

    /// Asks for the certificate of `identity`, ahead of its first connection: for each pod that has it, so that none waits
    /// for what was refused to another.
    pub fn prefetch(&self, identity: &SpiffeId) {
        let mut identities = self.shared.identities.lock();
        let due = match identities.get_mut(identity) {
            Some(known) => known.schedule.ask_anew(),
            None => identities.insert(identity.clone(), Identity::new()).is_none(),
        };
        if due {
            self.shared.wake.notify_one();
        }
    }

    /// Lets go of `identity`, whose last pod left the node.
    pub fn forget(&self, identity: &SpiffeId) {
        let mut identities = self.shared.identities.lock();
        if identities.remove(identity).is_some() {
            self.shared.current.rcu(|current| current.without(identity));
        }
    }

    /// The mesh has these roots now. If they are others than before, every certificate is renewed soon.
    pub(super) fn roots_are(&self, id: RootsId) {
        let now = (Instant::now(), self.shared.clock.now());
        let mut roots = self.shared.roots.lock();
        let before = roots.map(|roots| roots.id);
        if before == Some(id) {
            return;
        }
        *roots = Some(Roots { id, changed: before.map(|_| now.0) });
        drop(roots);
        if before.is_none() {
            return;
        }
        let mut identities = self.shared.identities.lock();
        let spread = self.shared.spread;
        identities.values_mut().for_each(|known| known.schedule.hasten(now, spread, dice()));
        let certificates = identities.len();
        drop(identities);
        tracing::info!(certificates, "the mesh's roots have changed: every certificate is renewed");
        self.shared.wake.notify_one();
    }

    /// How many identities have a certificate that can be used; and of the others those that were denied one `times` in a
    /// row or more, sorted, each with the last reason.
    pub fn denied(&self, times: u32) -> (usize, Vec<(SpiffeId, Arc<FetchError>)>) {
        let now = self.shared.clock.now();
        let (mut usable, mut denied) = (0, Vec::new());
        for (id, known) in self.shared.identities.lock().iter() {
            let state = known.state.borrow();
            if state.svid.as_ref().is_some_and(|svid| svid.is_valid(now)) {
                usable += 1;
            } else if let Some(error) =
                state.error.as_ref().filter(|_| known.schedule.failures() >= times)
            {
                denied.push((id.clone(), Arc::clone(error)));
            }
        }
        denied.sort_by(|(a, _), (b, _)| a.cmp(b));
        (usable, denied)
    }

    /// What is known of every identity, sorted.
    pub fn states(&self) -> Vec<IdentityState> {
        let now = self.shared.clock.now();
        let identities = self.shared.identities.lock();
        let mut states: Vec<_> =
            identities.iter().map(|(id, identity)| identity.tell(id, now)).collect();
        drop(identities);
        states.sort_by(|a, b| a.identity.cmp(&b.identity));
        states
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Identity {
    fn tell(&self, identity: &SpiffeId, now: SystemTime) -> IdentityState {
        let State { svid, error } = self.state.borrow().clone();
        let condition = match (&svid, &error) {
            (Some(svid), _) if svid.is_valid(now) => Condition::Available,
            (_, Some(error)) => Condition::Unavailable(chain(&**error)),
            (Some(_), None) => Condition::Unavailable("expired".to_owned()),
            (None, None) => Condition::Initializing,
        };
        IdentityState {
            identity: identity.clone(),
            condition,
            chain: svid.as_ref().map_or_else(Vec::new, |svid| svid.chain().to_vec()),
            roots: svid.as_ref().map_or_else(Vec::new, |svid| svid.roots().to_vec()),
            root: svid.as_ref().map(|svid| svid.root().clone()),
            not_after: svid.as_ref().map(|svid| svid.not_after()),
            failures: self.schedule.failures(),
        }
    }
}

impl Shared {
    fn subscribe(&self, identity: &SpiffeId) -> watch::Receiver<State> {
        let mut identities = self.identities.lock();
        let known = identities.entry(identity.clone()).or_insert_with(Identity::new);
        let receiver = known.state.subscribe();
        drop(identities);
        // A waiting connection shortens the pause after a failure.
        self.wake.notify_one();
        receiver
    }

    /// A valid certificate, or none once the identity is forgotten.
    async fn wait_for(&self, state: &mut watch::Receiver<State>) -> Option<Arc<Svid>> {
        let valid = |svid: &Arc<Svid>| svid.is_valid(self.clock.now());
        let found = state.wait_for(|state| state.svid.as_ref().is_some_and(valid)).await;
        found.ok().and_then(|state| state.svid.clone())
    }

    /// The most urgent identity that is due, marked as under way.
    fn start_next(&self) -> Option<SpiffeId> {
        let (now, wall) = (Instant::now(), self.clock.now());
        let mut identities = self.identities.lock();
        let (id, identity) = identities
            .iter_mut()
            .filter(|(_, known)| {
                known.schedule.wait(now, wall, known.wanted()) == Some(Duration::ZERO)
            })
            // Connections that wait come first, then pods without any, then renewals.
            .max_by_key(|(_, known)| (known.wanted(), known.state.borrow().svid.is_none()))?;
        identity.schedule.start();
        Some(id.clone())
    }

    fn until_next(&self) -> Duration {
        let (now, wall) = (Instant::now(), self.clock.now());
        let identities = self.identities.lock();
        let waits = identities.values().filter_map(|k| k.schedule.wait(now, wall, k.wanted()));
        waits.min().unwrap_or(MAX_SLEEP).min(MAX_SLEEP)
    }

    /// Whether the roots have changed lately, and not for this certificate.
    fn is_of_before(&self, svid: &Svid) -> bool {
        let Some(Roots { id, changed: Some(changed) }) = *self.roots.lock() else { return false };
        id != svid.roots_id() && changed.elapsed() < MOVING
    }

    fn settle(&self, identity: &SpiffeId, result: Result<Svid, FetchError>) {
        let wall = self.clock.now();
        let mut identities = self.identities.lock();
        let Some(known) = identities.get_mut(identity) else {
            // Forgotten while the call was under way.
            return;
        };
        match result {
            Ok(svid) => {
                let validity = (svid.not_before(), svid.not_after());
                known.schedule.succeed(validity, wall, dice());
                if self.is_of_before(&svid) {
                    known.schedule.hasten((Instant::now(), wall), self.spread, dice());
                }
                let svid = Arc::new(svid);
                self.current.rcu(|current| current.update(identity.clone(), Arc::clone(&svid)));
                known.state.send_replace(State { svid: Some(svid), error: None });
                tracing::info!(%identity, "certificate issued");
            }
            Err(error) => {
                known.schedule.fail(Instant::now(), dice());
                let failures = known.schedule.failures();
                let why = chain(&error);
                tracing::warn!(%identity, failures, error = why, "no certificate issued");
                known.state.send_modify(|state| state.error = Some(Arc::new(error)));
            }
        }
    }
}

/// Within -1 and 1.
fn dice() -> f64 {
    rand::random_range(-1.0..=1.0)
}

#[cfg(test)]
mod tests;
