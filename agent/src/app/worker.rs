//! A data thread: one current-thread runtime that owns its share of every pod's connections.
//!
//! | task | input | ends |
//! |---|---|---|
//! | the command loop | [`Command`]s, bounded | with the thread |
//! | accepting, one a pod | its listeners | when the pod is released, or at shutdown |
//! | a connection | the captured socket | by itself, or cut when its pod is gone, or at the drain deadline |
//!
//! A connection lives and dies on its thread, with the tunnel that carries it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::capture::listeners::ThreadListeners;
use crate::capture::{Captured, PodCapture};
use crate::connection::{self, Context, OfPod, OpenConnection, PlaintextPeers, Quota, Shared};
use crate::mesh::PodUid;
use crate::tunnel;

/// Commands waiting for a thread; the sender waits when it is full.
const QUEUE: usize = 256;
/// How often the totals of open connections are told.
const TELL: Duration = Duration::from_secs(5);
/// After how long without use a thread's buffers are let go.
const UNUSED: Duration = Duration::from_secs(1);

/// What a data thread is told.
pub(super) enum Command {
    /// Accept a pod's connections.
    Add { pod: Arc<PodCapture>, listeners: ThreadListeners },
    /// Stop accepting a pod's connections. Open ones go on until they end, or until `cut` resets
    /// them; answered when the last has ended.
    Release { uid: PodUid, cut: CancellationToken, done: oneshot::Sender<()> },
    /// Tell which connections are open.
    List { answer: oneshot::Sender<Vec<OpenConnection>> },
    /// Tell who came in the clear.
    Plaintext { answer: oneshot::Sender<PlaintextPeers> },
    /// Stop accepting, tell peers to go elsewhere, answered when the last connection has ended.
    Drain { done: oneshot::Sender<()> },
}

/// The handle of a data thread.
#[derive(Debug)]
pub(super) struct Worker {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

/// The thread is gone: it panicked, or was told to stop.
#[derive(Debug, thiserror::Error)]
#[error("a data thread is gone")]
pub(super) struct WorkerGone;

impl Worker {
    /// Starts data thread number `index`.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub(super) fn start(index: usize, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread =
            std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                let tasks = LocalSet::new();
                tasks.block_on(&runtime, run(Rc::new(Context::new(shared)), inbox));
            })?;
        Ok(Self { commands, thread })
    }

    /// Tells the thread something.
    pub(super) async fn tell(&self, command: Command) -> Result<(), WorkerGone> {
        self.commands.send(command).await.map_err(|_| WorkerGone)
    }

    /// Whether the thread has ended, which it should not by itself.
    pub(super) fn is_gone(&self) -> bool {
        self.thread.is_finished()
    }
}

/// One pod's share of this thread.
struct Share {
    /// Stops accepting.
    accepting: CancellationToken,
    /// Cuts what is open.
    open: CancellationToken,
    tasks: TaskTracker,
    quota: Rc<Quota>,
}

impl Share {
    /// The share of a pod; if it is captured again, what is open goes on as a part of it.
    fn after(old: Option<&Self>, max_open: usize) -> Self {
        if let Some(old) = old {
            old.accepting.cancel();
        }
        Self {
            accepting: CancellationToken::new(),
            open: old.map_or_else(CancellationToken::new, |old| old.open.clone()),
            tasks: old.map_or_else(TaskTracker::new, |old| old.tasks.clone()),
            quota: old.map_or_else(|| Quota::new(max_open), |old| old.quota.clone()),
        }
    }

    /// Stops accepting; idle tunnels of peers are told to go elsewhere.
    fn close(&self) {
        self.accepting.cancel();
        self.tasks.close();
    }

    /// Waits for the last connection, or cuts those that are left.
    async fn ended(&self, cut: CancellationToken) {
        tokio::select! {
            () = self.tasks.wait() => return,
            () = cut.cancelled() => self.open.cancel(),
        }
        self.tasks.wait().await;
    }
}

async fn run(context: Rc<Context>, mut inbox: mpsc::Receiver<Command>) {
    let mut pods: HashMap<PodUid, Rc<Share>> = HashMap::new();
    let (mut clock, mut unused) = (interval(TELL), interval(UNUSED));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    unused.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            command = inbox.recv() => command,
            _ = unused.tick() => {
                tunnel::free_buffers();
                continue;
            }
            _ = clock.tick() => {
                context.tell();
                continue;
            }
        };
        let Some(command) = command else { return };
        match command {
            Command::Add { pod, listeners } => {
                let uid = pod.pod.uid.clone();
                let share = Share::after(pods.get(&uid).map(Rc::as_ref), context.max_open);
                pods.insert(uid, accept(&context, share, pod, listeners));
            }
            Command::Release { uid, cut, done } => {
                let share = pods.remove(&uid);
                share.iter().for_each(|share| share.close());
                let context = context.clone();
                tokio::task::spawn_local(async move {
                    if let Some(share) = share {
                        share.ended(cut).await;
                    }
                    context.pool.forget(&uid);
                    answer(done, ());
                });
            }
            Command::List { answer: to } => answer(to, context.open_connections()),
            Command::Plaintext { answer: to } => answer(to, context.plaintext_peers()),
            Command::Drain { done } => {
                let shares: Vec<_> = pods.drain().map(|(_, share)| share).collect();
                shares.iter().for_each(|share| share.close());
                let context = context.clone();
                tokio::task::spawn_local(async move {
                    for share in shares {
                        share.tasks.wait().await;
                    }
                    context.pool.drain().await;
                    answer(done, ());
                });
            }
        }
    }
}

fn answer<T>(to: oneshot::Sender<T>, value: T) {
    if to.send(value).is_err() {
        debug!("nobody waits for a data thread's answer any more");
    }
}

/// Starts accepting a pod's connections.
fn accept(
    context: &Rc<Context>,
    share: Share,
    pod: Arc<PodCapture>,
    listeners: ThreadListeners,
) -> Rc<Share> {
    let share = Rc::new(share);
    let (context, of_task) = (context.clone(), share.clone());
    share.tasks.spawn_local(async move {
        let stop = of_task.accepting.clone();
        let name = pod.pod.name.clone();
        let of_pod = Rc::new(OfPod::new(pod.netns.clone(), of_task.quota.clone()));
        let take = move |captured| open(&context, &of_task, &of_pod, captured);
        let accepting = listeners.run(pod, take, stop);
        if let Err(error) = accepting.await {
            tracing::error!(%error, pod = %name, "a data thread cannot accept the pod's connections");
        }
    });
    share
}

/// Lets a connection live, as a task of its pod.
fn open(context: &Rc<Context>, share: &Share, of_pod: &Rc<OfPod>, captured: Captured) {
    let (cut, stop) = (share.open.clone(), share.accepting.clone());
    let handled = connection::handle(context.clone(), captured, of_pod.clone(), stop);
    share.tasks.spawn_local(async move {
        tokio::select! {
            () = handled => {}
            () = cut.cancelled() => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// As a connection of the share: it lives until it is cut.
    fn connection(share: &Share) {
        share.tasks.spawn_local(share.open.clone().cancelled_owned());
    }

    #[tokio::test]
    async fn what_is_open_when_a_pod_is_captured_again_is_waited_for_and_cut() {
        let test = async {
            let first = Share::after(None, 1);
            connection(&first);
            let second = Share::after(Some(&first), 1);
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
