//! Memory for large responses: however many nodes come at once, those that are told everything take turns.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for all responses together, in units, and the bytes of a unit. A response is there as its resources, as its
/// message, and in part as what is on its way; so it counts this many times.
const UNITS: u32 = 64;
const UNIT: usize = 1 << 20;
const TIMES: usize = 3;
/// Smaller ones do not wait: changes of a policy are not to be behind a node that is slow to take a whole mesh.
const SMALL: usize = 256 << 10;

/// The room.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNITS as usize)))
    }
}

impl Room {
    /// Waits until there is room for a response of so many bytes, in the order of asking; none is needed for a small one.
    /// One that is larger than all of it has it alone.
    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= SMALL {
            return None;
        }
        let units = u32::try_from((bytes * TIMES).div_ceil(UNIT)).unwrap_or(UNITS).min(UNITS);
        // It is never closed.
        self.0.clone().acquire_many_owned(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn large_ones_take_turns_and_small_ones_do_not_wait() {
        let room = Room::default();
        let take = |bytes| room.take(bytes).now_or_never();
        let half = (UNITS as usize / 2 / TIMES) * UNIT;
        let held = [take(half), take(half)].map(|taken| taken.flatten().unwrap());
        assert!(take(half).is_none(), "it waits");
        assert!(take(SMALL).is_some_and(|taken| taken.is_none()));
        drop(held);
        let all = take(usize::MAX / TIMES).flatten();
        assert!(all.is_some() && take(half).is_none());
    }
}
