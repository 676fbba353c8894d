//! One pod's share of a data thread: what is open, and how it ends.

use std::rc::Rc;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capture::PodCapture;
use crate::connection::{OfPod, Quota};

/// One pod's share of this thread.
pub(super) struct Share {
    /// Stops accepting.
    pub(super) accepting: CancellationToken,
    /// The accept loops, if this thread accepts for the pod.
    pub(super) loops: TaskTracker,
    /// Cuts what is open.
    pub(super) open: CancellationToken,
    /// What is open, and the accept loops.
    pub(super) tasks: TaskTracker,
    pub(super) of_pod: Rc<OfPod>,
    /// Whose it is.
    pub(super) pod: Arc<PodCapture>,
}

impl Share {
    /// The share of a pod; if it is captured again, what is open goes on as a part of it.
    pub(super) fn after(old: Option<&Self>, pod: Arc<PodCapture>, quota: Arc<Quota>) -> Self {
        if let Some(old) = old {
            old.accepting.cancel();
        }
        Self {
            accepting: CancellationToken::new(),
            loops: old.map_or_else(TaskTracker::new, |old| old.loops.clone()),
            open: old.map_or_else(CancellationToken::new, |old| old.open.clone()),
            tasks: old.map_or_else(TaskTracker::new, |old| old.tasks.clone()),
            of_pod: Rc::new(OfPod::new(pod.netns.clone(), quota)),
            pod,
        }
    }

    /// Stops accepting; peers are told to take their tunnels elsewhere.
    pub(super) fn stop(&self) {
        self.accepting.cancel();
        self.loops.close();
    }

    /// There will be no new connections.
    pub(super) fn close(&self) {
        self.stop();
        self.tasks.close();
    }

    /// Waits for the last connection, or cuts those that are left.
    pub(super) async fn ended(&self, cut: CancellationToken) {
        tokio::select! {
            () = self.tasks.wait() => return,
            () = cut.cancelled() => self.open.cancel(),
        }
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;
    use crate::app::testing::{means, pod};

    /// As a connection of the share: it lives until it is cut.
    fn connection(share: &Share) {
        share.tasks.spawn_local(share.open.clone().cancelled_owned());
    }

    #[tokio::test]
    async fn what_is_open_when_a_pod_is_captured_again_is_waited_for_and_cut() {
        let test = async {
            let first = Share::after(None, pod(), means().quota());
            connection(&first);
            let second = Share::after(Some(&first), pod(), means().quota());
            connection(&second);
            assert!(first.accepting.is_cancelled() && !second.accepting.is_cancelled());
            second.close();
            let cut = CancellationToken::new();
            let mut ended = std::pin::pin!(second.ended(cut.clone()));
            timeout(Duration::from_millis(50), &mut ended).await.unwrap_err();
            cut.cancel();
            timeout(Duration::from_secs(5), ended).await.unwrap();
            assert!(first.open.is_cancelled());
        };
        LocalSet::new().run_until(test).await;
    }
}
