//! The annotation that tells the control plane that a pod is captured.

use tokio::time::Instant;

use super::Timing;
use super::retry::Retry;

/// What we know of a pod's annotation.
#[derive(Debug)]
pub(super) struct Annotation {
    /// Whether it is there, as far as we know.
    present: bool,
    /// What the last snapshot said.
    observed: bool,
    /// We wrote it: until then snapshots may be older than that.
    trust_snapshots_at: Option<Instant>,
    busy: bool,
    retry: Retry,
}

impl Annotation {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            present: false,
            observed: false,
            trust_snapshots_at: None,
            busy: false,
            retry: Retry::now(now),
        }
    }

    pub(super) fn observe(&mut self, present: bool) {
        self.observed = present;
        if self.trust_snapshots_at.is_none() && !self.busy {
            self.present = present;
        }
    }

    /// Whether it must be written now, to be as `enabled` says.
    pub(super) fn start(&mut self, enabled: bool, now: Instant) -> bool {
        if self.trust_snapshots_at.is_some_and(|at| now >= at) {
            self.trust_snapshots_at = None;
            self.present = self.observed;
        }
        let start = !self.busy && self.present != enabled && self.retry.is_due(now);
        self.busy |= start;
        start
    }

    pub(super) fn written(
        &mut self,
        enabled: bool,
        result: &Result<(), String>,
        timing: &Timing,
        now: Instant,
    ) {
        self.busy = false;
        match result {
            Ok(()) => {
                self.present = enabled;
                self.trust_snapshots_at = Some(now + timing.watch_lag);
                self.retry = Retry::now(now);
            }
            Err(_) => self.retry.failed(timing, now),
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        !self.present && !self.busy
    }

    pub(super) fn is_fresh_failure(&self) -> bool {
        self.retry.is_fresh()
    }

    /// Times at which it wants to be looked at.
    pub(super) fn times(&self) -> [Option<Instant>; 2] {
        [self.trust_snapshots_at, Some(self.retry.at())]
    }
}
