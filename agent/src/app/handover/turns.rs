//! One after the other: what has left stands still until it is answered for, so nothing leaves before its turn.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use super::{Answer, Offer};
use crate::connection::Parcel;

/// What threads hold: where they offer what is open. Clones are of the same.
#[derive(Clone)]
pub(in crate::app) struct Turns {
    offers: mpsc::Sender<Offer>,
    next: Arc<Semaphore>,
}

/// What is held by who passes parcels to the other agent.
pub(super) struct Offered {
    offers: mpsc::Receiver<Offer>,
    next: Arc<Semaphore>,
}

/// For one parcel, that is passed as soon as it is here.
pub(in crate::app) struct Turn<'t> {
    room: mpsc::Permit<'t, Offer>,
    _until_answered: SemaphorePermit<'t>,
}

/// It is nobody's turn until [`Offered::begin`].
pub(super) fn turns() -> (Turns, Offered) {
    let (to, offers) = mpsc::channel(1);
    let next = Arc::new(Semaphore::new(0));
    (Turns { offers: to, next: next.clone() }, Offered { offers, next })
}

impl Turns {
    /// A turn, when it comes; none if nobody takes offers any more.
    pub(in crate::app) async fn next(&self) -> Option<Turn<'_>> {
        let until_answered = self.next.acquire().await.ok()?;
        let room = self.offers.reserve().await.ok()?;
        Some(Turn { room, _until_answered: until_answered })
    }

    /// Nobody takes offers any more.
    pub(in crate::app) fn are_over(&self) -> bool {
        self.offers.is_closed()
    }

    /// Waits for that.
    pub(in crate::app) async fn over(&self) {
        self.offers.closed().await;
    }
}

impl Turn<'_> {
    /// What became of a parcel.
    pub(in crate::app) async fn offer(self, parcel: Parcel) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.room.send(Offer { parcel, since: Instant::now(), answer });
        answered.await.unwrap_or(Answer::Lost)
    }
}

impl Offered {
    /// The other agent is there: the first turn.
    pub(super) fn begin(&self) {
        self.next.add_permits(1);
    }

    /// The next offer; none if nobody offers anything any more.
    pub(super) fn wait(&mut self) -> Option<Offer> {
        self.offers.blocking_recv()
    }

    /// No more turns, as when this is dropped; what has been offered still comes.
    pub(super) fn close(&mut self) {
        self.next.close();
        self.offers.close();
    }
}

/// Else who waits for the first turn would wait for ever.
impl Drop for Offered {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::super::tests::parcel;
    use super::*;

    #[tokio::test]
    async fn nothing_leaves_before_the_other_agent_is_there_nor_two_at_a_time() {
        let (turns, mut offered) = turns();
        assert!(turns.next().now_or_never().is_none(), "nobody is there");
        offered.begin();
        let first = turns.next().await.unwrap();
        let others = turns.clone();
        assert!(others.next().now_or_never().is_none(), "it is the first's turn");
        let mut offering = Box::pin(first.offer(parcel().0));
        assert!((&mut offering).now_or_never().is_none());
        let Offer { answer, .. } = offered.offers.recv().await.unwrap();
        assert!(others.next().now_or_never().is_none(), "the first is not answered for");
        assert!(answer.send(Answer::Taken).is_ok());
        assert!(matches!(offering.await, Answer::Taken));
        assert!(others.next().now_or_never().is_some());
        offered.close();
        assert!(others.next().await.is_none());
        assert!(turns.are_over());
    }

    #[tokio::test]
    async fn nobody_waits_for_the_first_turn_of_who_is_gone() {
        let (turns, offered) = turns();
        let mut next = Box::pin(turns.next());
        assert!((&mut next).now_or_never().is_none());
        drop(offered);
        assert!(next.now_or_never().expect("an answer").is_none());
    }

    #[tokio::test]
    async fn a_turn_that_is_not_used_is_the_nexts() {
        let (turns, offered) = turns();
        offered.begin();
        drop(turns.next().await.unwrap());
        assert!(turns.next().now_or_never().is_some());
        drop(offered);
        assert!(turns.next().await.is_none(), "who took offers is gone");
    }
}
