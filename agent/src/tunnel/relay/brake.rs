//! How a plain connection is taken out of its relay, for another process to go on with.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::task::{Poll, Waker};

use tokio::sync::oneshot;

use super::Leg;

/// One direction, as far as it has come.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Way {
    /// Read, and not written yet.
    pub rest: Vec<u8>,
    /// Its end was passed on.
    pub ended: bool,
}

/// A plain connection that nobody serves.
#[derive(Debug)]
pub struct MovingPlain {
    /// The first end, then the second.
    pub ends: [TcpStream; 2],
    /// From the first end, then from the second.
    pub ways: [Way; 2],
}

/// Both directions of a relay, and the means to stop it between two steps. Where nobody pulls it, it costs a look at a
/// cell whenever the relay is woken.
#[derive(Default)]
pub struct Brake {
    ways: [RefCell<Way>; 2],
    mover: Cell<Option<oneshot::Sender<MovingPlain>>>,
    relay: Cell<Option<Waker>>,
}

impl Brake {
    /// Of a relay that goes on from there.
    pub fn at(ways: [Way; 2]) -> Self {
        Self { ways: ways.map(RefCell::new), ..Self::default() }
    }

    /// Takes the connection out of its relay; none if that has ended.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it leaves the connection where it is.
    pub async fn pull(&self) -> Option<MovingPlain> {
        let (mover, moved) = oneshot::channel();
        self.mover.set(Some(mover));
        // One that has not begun looks at it when it does.
        self.relay.take().into_iter().for_each(Waker::wake);
        moved.await.ok()
    }

    pub(super) fn first(&self) -> &RefCell<Way> {
        &self.ways[0]
    }

    pub(super) fn second(&self) -> &RefCell<Way> {
        &self.ways[1]
    }

    /// Ready when somebody wants the connection.
    pub(super) async fn pulled(&self) {
        poll_fn(|cx| {
            let mover = self.mover.take().filter(|mover| !mover.is_closed());
            if mover.is_some() {
                self.mover.set(mover);
                return Poll::Ready(());
            }
            let known = self.relay.take().filter(|known| known.will_wake(cx.waker()));
            self.relay.set(known.or_else(|| Some(cx.waker().clone())));
            Poll::Pending
        })
        .await;
    }

    /// Gives the connection to who wants it; nobody serves it from here on.
    pub(super) fn give(&self, (first, second): (Leg, Leg)) {
        let ends = [&first, &second].map(|leg| leg.tcp.as_fd().try_clone_to_owned());
        let [Ok(first), Ok(second)] = ends else {
            // No descriptor is left: the ends are reset, and nobody is told that it goes on.
            return tracing::warn!("out of descriptors: a connection cannot be given away");
        };
        let Some(mover) = self.mover.take() else { return };
        let ways = self.ways.each_ref().map(RefCell::take);
        // It was not gone a moment ago, and runs on this thread.
        drop(mover.send(MovingPlain { ends: [first.into(), second.into()], ways }));
    }
}

impl std::fmt::Debug for Brake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Brake").finish_non_exhaustive()
    }
}
