//! How an agent ends that is told to: what it still takes, and what becomes of what is open.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::farewell::Farewell;
use super::state::State;
use super::worker::{self, Command, Worker};

/// So long before its deadline an agent that nobody follows takes no more connections: brief ones have then ended.
const CLOSING: Duration = Duration::from_secs(2);
/// How often it is looked whether any is open.
const LOOK: Duration = Duration::from_millis(250);

/// Why an agent ends that could go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to, and is in charge still: no other has come.
    Told,
    /// The same, and none will come: the mesh leaves the node.
    Leaves,
    /// Somebody asked for it, or another agent is in charge.
    Quit,
}

/// What an agent in charge does that is told to end: as its DaemonSet has no other for the node before this one is gone, it
/// goes on until nothing is open, or there are only moments left of `deadline`.
pub(super) async fn last_call(
    state: Arc<State>,
    farewell: Arc<Farewell>,
    deadline: Duration,
) -> End {
    info!("told to end, and no agent has come to follow: serving until nothing is open");
    let spare = timeout(deadline.saturating_sub(CLOSING), nothing_open(&state));
    let (mut spare, mut leaves) = (pin!(spare), pin!(farewell.leaves()));
    let leaves = tokio::select! {
        _ = &mut spare => leaves.await,
        leaves = &mut leaves => {
            if !leaves && spare.await.is_err() {
                warn!(after = ?deadline, "connections are open still: new ones are refused until the next agent is there");
            }
            leaves
        }
    };
    if leaves { End::Leaves } else { End::Told }
}

/// Tunnels that carry nothing do not count: peers keep them for what may come.
async fn nothing_open(state: &State) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if state.connections().await.is_empty() {
            return;
        }
    }
}

/// Waits for the last connection.
pub(super) async fn drained(workers: &[Worker]) {
    // First none accepts any more: what one has accepted may be another's to serve.
    let stop = |done| Command::Stop { uid: None, done };
    join_all(worker::tell_all(workers, stop).await).await;
    join_all(worker::tell_all(workers, |done| Command::Drain { done }).await).await;
}
