//! The task that calls the CA.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{CALL_TIMEOUT, CertificateSource, FetchError, MAX_SLEEP, Shared};
use crate::identify::svid::Svid;
use crate::mesh::SpiffeId;

/// Calls to the CA at one time.
const MAX_CALLS: usize = 8;

/// The task that calls the CA.
pub struct Renewal<S> {
    pub(super) shared: Arc<Shared>,
    pub(super) source: S,
}

impl<S> fmt::Debug for Renewal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").finish_non_exhaustive()
    }
}

impl<S: CertificateSource> Renewal<S> {
    /// Keeps every wanted certificate valid until `stop`; calls under way are then dropped, and
    /// those that wait for a certificate are told.
    pub async fn run(self, stop: CancellationToken) {
        let mut calls = FuturesUnordered::new();
        loop {
            while calls.len() < MAX_CALLS
                && let Some(identity) = self.shared.start_next()
            {
                calls.push(self.call(identity));
            }
            // With every call taken, only the end of one changes anything.
            let pause = if calls.len() < MAX_CALLS { self.shared.until_next() } else { MAX_SLEEP };
            tokio::select! {
                () = stop.cancelled() => break,
                Some((identity, result)) = calls.next() => self.shared.settle(&identity, result),
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.shared.identities.lock().clear();
    }

    async fn call(&self, identity: SpiffeId) -> (SpiffeId, Result<Svid, FetchError>) {
        let result = match timeout(CALL_TIMEOUT, self.source.issue(&identity)).await {
            Ok(Ok(issued)) => {
                let (clock, revocations) = (&self.shared.clock, &self.shared.revocations);
                let svid = Svid::new(&identity, issued, Arc::clone(clock), revocations.clone());
                svid.map_err(FetchError::from)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(FetchError::Timeout),
        };
        (identity, result)
    }
}
