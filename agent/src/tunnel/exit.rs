//! Out of a tunnel's task: how a tunnel is taken to another process.

use std::fmt;

use super::driver::{Link, Moving};

/// A tunnel that may be taken elsewhere. Clones are of the same tunnel.
#[derive(Clone)]
pub struct Exit(Link);

impl Exit {
    pub(super) fn new(link: Link) -> Self {
        Self(link)
    }

    /// Takes the tunnel, once it can be left: when each of its streams is answered and has an application. Its streams end
    /// with [`RelayError::Moved`](super::RelayError::Moved). None if it ends before, or is to stay: where its records are
    /// not ours.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it leaves the tunnel where it is.
    pub async fn leave(&self) -> Option<Box<Moving>> {
        self.0.leave().await
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exit")
    }
}
