//! What the agent keeps in memory of its own program: what runs, not what ran.

use tokio::sync::watch;
use tracing::debug;

use crate::enroll;
use crate::sys::heap;
use crate::sys::memory::Files;

/// Ticks of [`Calm`] without an enrolment, after which none is expected.
const CALM: u32 = 5;

/// The program's code. What fails with it costs memory alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Footprint(Files);

impl Footprint {
    /// Finds it, and lets no more of it be in memory than what runs. Takes some milliseconds.
    pub(super) fn new() -> Self {
        let files = Files::mapped().unwrap_or_else(|error| {
            debug!(%error, "code that does not run stays in memory");
            Files::default()
        });
        if let Err(error) = files.split() {
            debug!(%error, "more code is in memory than runs");
        }
        Self(files)
    }

    /// Forgets what ran until now; what is still needed comes back by itself.
    pub(super) fn give_back(&self) {
        if let Err(error) = self.0.give_back() {
            debug!(%error, "code that does not run stays in memory");
        }
    }
}

/// Gives back the memory and the code that the start and each burst of enrolments needed, once that is over.
pub(super) struct Calm {
    footprint: Footprint,
    enrolled: watch::Receiver<enroll::Status>,
    ticks: u32,
}

impl Calm {
    pub(super) fn new(footprint: Footprint, enrolled: watch::Receiver<enroll::Status>) -> Self {
        Self { footprint, enrolled, ticks: 0 }
    }

    /// To be called five times a second, with whether the agent is ready.
    pub(super) fn tick(&mut self, ready: bool) {
        if !ready || self.enrolled.has_changed().unwrap_or(false) {
            self.enrolled.mark_unchanged();
            self.ticks = 0;
            return;
        }
        self.ticks = self.ticks.saturating_add(1);
        // Connections do not wait until nothing more is enrolled: code goes at once, and once more at the end.
        if self.ticks == 1 || self.ticks == CALM {
            self.footprint.give_back();
        }
        if self.ticks == CALM {
            heap::give_back();
        }
    }
}
