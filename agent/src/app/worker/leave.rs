//! A thread's connections leave it, for those of the agent that has taken over; and come to it.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::answer;
use super::share::Share;
use crate::app::balance::Seat;
use crate::app::handover::{Answer, Turns};
use crate::connection::{Context, Departure, Host, Parcel, ResumeError, departures, resume};
use crate::error::chain;
use crate::mesh::PodUid;

/// How long one is waited for before the next is asked. What is quiet leaves at once.
const PATIENCE: Duration = Duration::from_millis(20);
/// What could not leave is asked again so much later.
const AGAIN: Duration = Duration::from_millis(250);

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(in crate::app) enum TakeError {
    /// The pod is not captured, or not yet.
    #[error("its pod is not captured here")]
    Pod,
    /// It makes no sense, or there is no room for it.
    #[error("it cannot be gone on with")]
    Resume(#[from] ResumeError),
    /// A data thread is gone.
    #[error("its data thread is gone")]
    Gone,
}

type Shares = HashMap<PodUid, Rc<Share>>;

/// Offers all that is open, again and again, `until` then, or nobody takes offers.
pub(super) fn leave(
    context: &Rc<Context>,
    pods: Shares,
    (turns, until): (Turns, CancellationToken),
    done: oneshot::Sender<()>,
) {
    let context = context.clone();
    tokio::task::spawn_local(async move {
        let mut done = Some(done);
        while !turns.are_over() && !until.is_cancelled() {
            for departure in departures(&context) {
                // What is left of a pod that has left the mesh ends here, and what it needs in the pod with it.
                if !pods.contains_key(departure.pod()) {
                    continue;
                }
                if until.is_cancelled() || !give(&context, &pods, &departure, &turns).await {
                    break;
                }
            }
            done.take().into_iter().for_each(|done| answer(done, ()));
            tokio::select! {
                () = turns.over() => {}
                () = until.cancelled() => {}
                () = sleep(AGAIN) => {}
            }
        }
    });
}

/// Gives one away, if it can leave; false if nobody takes offers.
async fn give(context: &Rc<Context>, pods: &Shares, departure: &Departure, turns: &Turns) -> bool {
    // Before it leaves: from then on each moment is a pause of its.
    let Some(turn) = turns.next().await else { return false };
    let Ok(Some(parcel)) = timeout(PATIENCE, departure.leave(context)).await else { return true };
    match turn.offer(parcel).await {
        Answer::Taken => {}
        Answer::Refused(parcel) => {
            let share = pods.get(&parcel.pod());
            let back = match share {
                Some(share) => begin(context, share, *parcel, None).await,
                None => Err(TakeError::Pod),
            };
            if let Err(error) = back {
                error!(error = chain(&error), "connections that were not taken are reset");
            }
        }
        Answer::Lost => warn!("connections are reset: it is not known whether they were taken"),
    }
    true
}

/// Goes on with what another agent gave away.
pub(super) fn take(
    context: &Rc<Context>,
    share: Option<Rc<Share>>,
    parcel: Parcel,
    seat: Seat,
    to: oneshot::Sender<Result<(), TakeError>>,
) {
    let context = context.clone();
    tokio::task::spawn_local(async move {
        let begun = match share {
            Some(share) => begin(&context, &share, parcel, Some(seat)).await,
            None => Err(TakeError::Pod),
        };
        answer(to, begun);
    });
}

/// Lets connections live, as tasks of their pod.
async fn begin(
    context: &Rc<Context>,
    share: &Share,
    parcel: Parcel,
    seat: Option<Seat>,
) -> Result<(), TakeError> {
    let host = Host {
        context: context.clone(),
        pod: share.pod.clone(),
        of_pod: share.of_pod.clone(),
        stop: share.accepting.clone(),
    };
    let seat = Rc::new(seat);
    let carried = resume(host, parcel).await?;
    debug!(tasks = carried.len(), pod = %share.pod.pod.name, "goes on with connections of another agent");
    for carrying in carried {
        let (cut, seat) = (share.open.clone(), seat.clone());
        share.tasks.spawn_local(async move {
            let _seat = seat;
            tokio::select! {
                () = carrying => {}
                () = cut.cancelled() => {}
            }
        });
    }
    Ok(())
}
