//! What a peer may do that is allowed but useless.

use super::code::Violation;

/// Counts down with abuse; comes back with useful work, and with time.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    max: u32,
    refill: u32,
    what: &'static str,
}

impl Budget {
    pub(super) const fn new(max: u32, refill: u32, what: &'static str) -> Self {
        Self { left: max, max, refill, what }
    }

    /// # Errors
    /// ENHANCE_YOUR_CALM when there is not so much left.
    pub(super) fn spend(&mut self, cost: u32) -> Result<(), Violation> {
        self.left = self.left.checked_sub(cost).ok_or_else(|| Violation::abuse(self.what))?;
        Ok(())
    }

    pub(super) fn earn(&mut self, amount: u32) {
        self.left = self.max.min(self.left + amount);
    }

    pub(super) fn refill(&mut self) {
        self.earn(self.refill);
    }
}

/// The budgets of a connection.
#[derive(Debug)]
pub(super) struct Budgets {
    /// Streams that ended by RST_STREAM before they were answered (rapid reset), or that were more
    /// than allowed. Earned by answering.
    pub(super) resets: Budget,
    /// Streams whose peer made us reset them by an error, which no honest peer does often.
    pub(super) errors: Budget,
    /// Frames that move nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown ones,
    /// late ones. Earned by DATA in both directions.
    pub(super) idle: Budget,
}

/// A SETTINGS frame may touch every stream.
pub(super) const SETTINGS_COST: u32 = 10;
/// What a DATA frame of ours earns: it is answered by WINDOW_UPDATE for the stream and for the
/// connection, by some peers for every 4 KiB of it.
pub(super) const fn sending_earns(bytes: u32) -> u32 {
    2 + bytes / 1024
}

impl Budgets {
    pub(super) const fn new() -> Self {
        Self {
            resets: Budget::new(1000, 500, "too many streams reset"),
            errors: Budget::new(100, 10, "too many stream errors"),
            idle: Budget::new(2000, 500, "too many frames without use"),
        }
    }

    pub(super) fn refill(&mut self) {
        self.resets.refill();
        self.errors.refill();
        self.idle.refill();
    }
}
