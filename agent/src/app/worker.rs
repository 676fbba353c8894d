//! A data thread: one current-thread runtime that owns its share of every pod's connections.
//!
//! | task | input | ends |
//! |---|---|---|
//! | the command loop | [`Command`]s, bounded | with the thread |
//! | accepting, one a pod | its listeners | when the pod is released, or at shutdown |
//! | answering, for some pods | its sockets for questions | as accepting |
//! | a connection | the captured socket | by itself, or cut when its pod is gone, or at the drain deadline |
//!
//! One thread accepts a pod's connections, and hands to others what they are to serve ([`Balance`]). From then on
//! a connection lives and dies on its thread, with the tunnel that carries it.

mod leave;
mod share;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::balance::{Balance, Seat};
use super::handover::Turns;
use crate::capture::{Captured, Detached, PodCapture, PodListeners, Questions};
use crate::connection::{self, Context, OpenConnection, Parcel, PlaintextPeers, Shared};
use crate::mesh::PodUid;
use crate::tunnel;
pub(super) use leave::TakeError;
use share::Share;

/// Commands waiting for a thread; the sender waits when it is full.
const QUEUE: usize = 256;
/// How often the totals of open connections are told.
const TELL: Duration = Duration::from_secs(5);
/// After how long without use a thread's buffers are let go; and how often its tunnels are looked at.
const UNUSED: Duration = Duration::from_secs(1);

/// What a data thread is told.
pub(super) enum Command {
    /// Be ready to serve a pod's connections, and accept them if there are listeners: the thread that gets them
    /// must be told last.
    Add { pod: Arc<PodCapture>, balance: Arc<Balance>, listeners: Option<PodListeners> },
    /// Serve a connection that another thread has accepted.
    Serve { connection: Detached, seat: Seat },
    /// Accept no more of a pod's connections, or of any pod's; answered when those that were under way have been
    /// handed to their threads.
    Stop { uid: Option<PodUid>, done: oneshot::Sender<()> },
    /// Forget a pod that no thread accepts for any more. Open connections go on until they end, or until `cut`
    /// resets them; answered when the last has ended.
    Release { uid: PodUid, cut: CancellationToken, done: oneshot::Sender<()> },
    /// Offer all that is open to the agent that has taken over; answered when all has been asked for once. What cannot
    /// leave yet is asked for again, `until` then.
    Leave { turns: Turns, until: CancellationToken, done: oneshot::Sender<()> },
    /// Go on with what the agent before has given away; answered by why not.
    Take { parcel: Box<Parcel>, seat: Seat, answer: oneshot::Sender<Result<(), TakeError>> },
    /// Run what blocks, on a thread of its own.
    Beside { job: Job },
    /// Tell which connections are open.
    List { answer: oneshot::Sender<Vec<OpenConnection>> },
    /// Tell who came in the clear.
    Plaintext { answer: oneshot::Sender<PlaintextPeers> },
    /// Tell peers to go elsewhere, now that no thread accepts any more; answered when the last connection has
    /// ended.
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
    /// Starts so many data threads.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub(super) fn start(count: usize, shared: &Arc<Shared>) -> std::io::Result<Arc<[Self]>> {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(QUEUE)).unzip();
        // Weak: a thread ends when nobody outside can tell it anything any more.
        let all: Arc<[_]> = senders.iter().map(mpsc::Sender::downgrade).collect();
        let started = senders.into_iter().zip(inboxes).enumerate();
        let start = |(index, (commands, inbox))| {
            let (shared, all) = (Arc::clone(shared), Arc::clone(&all));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread =
                std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                    let tasks = LocalSet::new();
                    let here = Here { context: Rc::new(Context::new(shared)), all };
                    tasks.block_on(&runtime, run(here, inbox));
                })?;
            Ok(Self { commands, thread })
        };
        started.map(start).collect()
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

/// What is run beside a data thread.
type Job = Box<dyn FnOnce() + Send>;

/// Runs what blocks on a thread that has the place of a data thread among the machine's, for what connections wait for: a
/// control thread's steps back, and so does each that it makes.
///
/// # Errors
/// The data threads are gone, or it panicked.
pub(super) async fn beside<T: Send + 'static>(
    workers: &[Worker],
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkerGone> {
    let (to, done) = oneshot::channel();
    let job: Job = Box::new(move || answer(to, job()));
    workers.first().ok_or(WorkerGone)?.tell(Command::Beside { job }).await?;
    done.await.map_err(|_| WorkerGone)
}

/// The thread is made by the one that calls this. Its handle tells nothing: who gave the job waits for what it does.
fn run_beside(job: Job) {
    drop(tokio::task::spawn_blocking(job));
}

/// Tells all threads something that they answer; the answers are not waited for. A thread that is gone has
/// nothing open, and the agent ends with it: it is left out.
pub(super) async fn tell_all(
    workers: &[Worker],
    command: impl Fn(oneshot::Sender<()>) -> Command,
) -> Vec<oneshot::Receiver<()>> {
    let mut answers = Vec::new();
    for worker in workers {
        let (done, answer) = oneshot::channel();
        if worker.tell(command(done)).await.is_ok() {
            answers.push(answer);
        }
    }
    answers
}

/// What a connection finds on its thread.
#[derive(Clone)]
struct Here {
    context: Rc<Context>,
    /// All data threads, this one among them.
    all: Arc<[mpsc::WeakSender<Command>]>,
}

async fn run(here: Here, mut inbox: mpsc::Receiver<Command>) {
    let context = &here.context;
    let mut pods: HashMap<PodUid, Rc<Share>> = HashMap::new();
    let (mut clock, mut unused) = (interval(TELL), interval(UNUSED));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    unused.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            command = inbox.recv() => command,
            _ = unused.tick() => {
                tunnel::free_buffers();
                context.review();
                continue;
            }
            _ = clock.tick() => {
                context.tell();
                continue;
            }
        };
        let Some(command) = command else { return };
        match command {
            Command::Add { pod, balance, listeners } => {
                let uid = pod.pod.uid.clone();
                let old = pods.get(&uid).map(Rc::as_ref);
                let share = Rc::new(Share::after(old, pod.clone(), balance.quota()));
                pods.insert(uid, share.clone());
                if let Some(listeners) = listeners {
                    accept(&here, &share, pod, balance, listeners);
                }
            }
            Command::Serve { connection, seat } => match pods.get(&connection.pod.pod.uid) {
                Some(share) => serve(context, share, connection, seat),
                None => {
                    let pod = &connection.pod.pod.name;
                    warn!(%pod, "dropped a connection that came after its pod's release");
                }
            },
            Command::Stop { uid, done } => stop(&pods, uid.as_ref(), done),
            Command::Release { uid, cut, done } => {
                release(context, pods.remove(&uid), uid, cut, done);
            }
            Command::Leave { turns, until, done } => {
                leave::leave(context, pods.clone(), (turns, until), done);
            }
            Command::Take { parcel, seat, answer: to } => {
                let share = pods.get(&parcel.pod()).cloned();
                leave::take(context, share, *parcel, seat, to);
            }
            Command::Beside { job } => run_beside(job),
            Command::List { answer: to } => answer(to, context.open_connections()),
            Command::Plaintext { answer: to } => answer(to, context.plaintext_peers()),
            Command::Drain { done } => drain(context, &pods, done),
        }
    }
}

/// Stops accepting for a pod, or for all.
fn stop(pods: &HashMap<PodUid, Rc<Share>>, uid: Option<&PodUid>, done: oneshot::Sender<()>) {
    let of = |pod: &PodUid| uid.is_none_or(|uid| uid == pod);
    let shares = pods.iter().filter(|(pod, _)| of(pod));
    let shares: Vec<_> = shares.map(|(_, share)| share.clone()).collect();
    shares.iter().for_each(|share| share.stop());
    tokio::task::spawn_local(async move {
        for share in shares {
            share.loops.wait().await;
        }
        answer(done, ());
    });
}

/// Lets a pod's share end.
fn release(
    context: &Rc<Context>,
    share: Option<Rc<Share>>,
    uid: PodUid,
    cut: CancellationToken,
    done: oneshot::Sender<()>,
) {
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

/// Lets everything end.
fn drain(context: &Rc<Context>, pods: &HashMap<PodUid, Rc<Share>>, done: oneshot::Sender<()>) {
    // They are known still: what is open may leave for another agent meanwhile.
    let shares: Vec<_> = pods.values().cloned().collect();
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

fn answer<T>(to: oneshot::Sender<T>, value: T) {
    if to.send(value).is_err() {
        debug!("nobody waits for a data thread's answer any more");
    }
}

/// Starts accepting a pod's connections.
fn accept(
    here: &Here,
    share: &Rc<Share>,
    pod: Arc<PodCapture>,
    balance: Arc<Balance>,
    mut listeners: PodListeners,
) {
    if let Some(questions) = listeners.take_questions() {
        answer_names(here, share, pod.clone(), questions);
    }
    let (here, of_task) = (here.clone(), share.clone());
    let accepting = async move {
        let stop = of_task.accepting.clone();
        let name = pod.pod.name.clone();
        let take = move |captured| place(&here, &of_task, &balance, captured);
        if let Err(error) = listeners.run(pod, take, stop).await {
            error!(%error, pod = %name, "a data thread cannot accept the pod's connections");
        }
    };
    share.loops.reopen();
    share.loops.spawn_local(share.tasks.track_future(accepting));
}

/// Starts answering what a pod asks of its resolvers.
fn answer_names(here: &Here, share: &Rc<Share>, pod: Arc<PodCapture>, questions: Questions) {
    let (context, of_pod) = (here.context.clone(), share.of_pod.clone());
    let stop = share.accepting.clone();
    let answering = async move {
        let name = pod.pod.name.clone();
        let served = connection::answer_names(context, of_pod, (pod, questions), stop).await;
        if let Err(error) = served {
            error!(%error, pod = %name, "a data thread cannot answer what the pod asks of resolvers");
        }
    };
    share.loops.reopen();
    share.loops.spawn_local(share.tasks.track_future(answering));
}

/// Serves a connection here or has it served elsewhere, as its pod's balance wants it.
fn place(here: &Here, share: &Share, balance: &Arc<Balance>, captured: Captured) {
    let (role, seat) = (captured.role, balance.next(captured.role));
    if seat.thread() == balance.home() {
        return open(&here.context, share, captured, seat);
    }
    let connection = match captured.detach() {
        Ok(connection) => connection,
        Err(error) => return warn!(%error, "a connection was lost on its way to another thread"),
    };
    if let Some(connection) = hand_over(here.all.get(seat.thread()), connection, seat) {
        serve(&here.context, share, connection, balance.at_home(role));
    }
}

/// Has a connection served by another thread. Nobody waits for one that has much to do: what it cannot take comes
/// back, without the seat.
fn hand_over(
    to: Option<&mpsc::WeakSender<Command>>,
    connection: Detached,
    seat: Seat,
) -> Option<Detached> {
    let Some(to) = to.and_then(mpsc::WeakSender::upgrade) else { return Some(connection) };
    let Ok(room) = to.try_reserve() else { return Some(connection) };
    room.send(Command::Serve { connection, seat });
    None
}

/// Serves a connection that no runtime watches.
fn serve(context: &Rc<Context>, share: &Share, connection: Detached, seat: Seat) {
    match connection.attach() {
        Ok(captured) => open(context, share, captured, seat),
        Err(error) => warn!(%error, "a data thread cannot watch a connection"),
    }
}

/// Lets a connection live, as a task of its pod.
fn open(context: &Rc<Context>, share: &Share, captured: Captured, seat: Seat) {
    let (cut, stop) = (share.open.clone(), share.accepting.clone());
    let mut handled = connection::handle(context.clone(), captured, share.of_pod.clone(), stop);
    share.tasks.spawn_local(async move {
        let _seat = seat;
        // By reference: moved, it would have room in the task twice, and most tasks are this one.
        tokio::select! {
            () = &mut handled => {}
            () = cut.cancelled() => {}
        }
    });
}

#[cfg(test)]
mod tests;
