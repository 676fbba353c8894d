//! Captures and releases pods: listeners in the pod, programs in the kernel, data threads.
//!
//! Enrolment decides, this does. A pod's connections outlive its release: routes in the pod are
//! taken back when the last of them has ended.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::balance::Balance;
use super::identities::Identities;
use super::worker::{self, Command, TakeError, Worker, WorkerGone};
use crate::capture::bpf::{BpfError, Kernel};
use crate::capture::{ListenError, PodCapture, PodListeners};
use crate::connection::{Means, Parcel};
use crate::enroll::{Capture, Departure};
use crate::mesh::{Account, LocalPod, PodUid};
use crate::sys::Shutdown;
use crate::sys::netns::Netns;

/// The kernel's side, one caller at a time; its calls block for a few milliseconds.
pub(super) type SharedKernel = Arc<Mutex<Kernel>>;

/// The pods of this node that are captured.
#[derive(Clone)]
pub(super) struct Pods {
    kernel: SharedKernel,
    workers: Arc<[Worker]>,
    identities: Identities,
    table: Arc<Mutex<Table>>,
    tasks: Shutdown,
    /// What they have together.
    means: Arc<Means>,
    /// Whether the mesh answers what they ask of resolvers, where they do not say.
    names: bool,
}

/// Which pods are captured, and which still have connections from before their release.
#[derive(Debug, Default)]
struct Table {
    captured: HashMap<PodUid, Arc<PodCapture>>,
    /// Where their connections are, until they are released.
    balances: HashMap<PodUid, Arc<Balance>>,
    /// Who accepts for the newest: threads take turns.
    turn: usize,
    leaving: Vec<Arc<PodCapture>>,
    /// Since when, of those whose connections are redirected.
    since: HashMap<PodUid, Since>,
    /// Captured by an agent before this one, and not again yet.
    adopted: HashSet<PodUid>,
    /// How often a pod's capture began, and how often it ended.
    turns: (u64, u64),
}

/// When a pod's connections began to be redirected.
#[derive(Debug, Clone)]
struct Since {
    pod: Arc<LocalPod>,
    /// None: before this agent started.
    time: Option<SystemTime>,
}

/// A pod whose connections are redirected.
#[derive(Debug, Clone)]
pub(super) struct Redirected {
    /// The pod.
    pub(super) pod: Arc<LocalPod>,
    /// Since when; none if since before this agent started.
    pub(super) since: Option<SystemTime>,
}

impl Table {
    fn capture(&mut self, pod: Arc<PodCapture>) {
        if self.captured.insert(pod.pod.uid.clone(), pod).is_none() {
            self.turns.0 += 1;
        }
    }

    /// Where a pod's connections are, of so many threads: none if it was not captured before.
    fn balance(&mut self, uid: &PodUid, threads: usize, means: &Arc<Means>) -> Arc<Balance> {
        let balance = self.balances.entry(uid.clone()).or_insert_with(|| {
            self.turn = (self.turn + 1) % threads;
            Balance::new(self.turn, threads, means)
        });
        Arc::clone(balance)
    }

    /// The kernel redirects a pod's connections from now on, if it did not before.
    fn redirects(&mut self, pod: &Arc<LocalPod>, now: SystemTime) {
        let adopted = self.adopted.remove(&pod.uid);
        let before = self.since.get(&pod.uid).filter(|since| since.pod == *pod);
        let time = match before {
            Some(since) => since.time,
            None => (!adopted).then_some(now),
        };
        self.since.insert(pod.uid.clone(), Since { pod: pod.clone(), time });
    }

    /// From now on a pod's connections may go past the agent.
    fn lets_out(&mut self, uid: &PodUid) {
        self.since.remove(uid);
        self.adopted.remove(uid);
    }

    fn release(&mut self, uid: &PodUid) -> Option<Arc<PodCapture>> {
        let pod = self.captured.remove(uid)?;
        self.turns.1 += 1;
        self.balances.remove(uid);
        self.leaving.push(Arc::clone(&pod));
        Some(pod)
    }

    /// The connections of one release have ended. True if the pod has no others: neither is it back, nor does
    /// an earlier release of it wait.
    fn ended(&mut self, pod: &Arc<PodCapture>) -> bool {
        if let Some(at) = self.leaving.iter().position(|other| Arc::ptr_eq(other, pod)) {
            self.leaving.swap_remove(at);
        }
        let same =
            |other: &Arc<PodCapture>| other.pod.uid == pod.pod.uid && other.netns == pod.netns;
        !self.captured.contains_key(&pod.pod.uid) && !self.leaving.iter().any(same)
    }

    /// Whether a captured pod has its addresses still.
    fn is_attached(&self, uid: &PodUid) -> bool {
        self.captured.get(uid).is_some_and(|pod| !is_gone(pod))
    }

    fn is_known(&self, account: &Account) -> bool {
        let mut all = self.captured.values().chain(&self.leaving);
        all.any(|pod| pod.pod.account == *account)
    }
}

/// From connect(2) to the listener, for a thread that is preempted between the two.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// How often a released pod with open connections is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why a pod is not captured, or not released.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    /// No listeners in the pod.
    #[error("failed to listen in the pod")]
    Listen(#[from] ListenError),
    /// The kernel refuses.
    #[error("failed to redirect the pod's connections")]
    Kernel(#[from] BpfError),
    /// A data thread is gone.
    #[error("failed to hand the pod to a data thread")]
    Worker(#[from] WorkerGone),
    /// The pod is unknown to the API server, and may run still.
    #[error(
        "it still has its addresses, so its containers may run: it stays captured until it has not"
    )]
    StillThere,
    /// The step panicked.
    #[error("a step of the capture panicked")]
    Panic(#[from] tokio::task::JoinError),
}

impl Pods {
    /// No pods yet, but those that an agent before this one left captured.
    pub(super) fn new(
        kernel: SharedKernel,
        workers: Arc<[Worker]>,
        identities: Identities,
        tasks: Shutdown,
        adopted: impl IntoIterator<Item = PodUid>,
        (means, names): (Arc<Means>, bool),
    ) -> Self {
        let table = Table { adopted: adopted.into_iter().collect(), ..Table::default() };
        let table = Arc::new(Mutex::new(table));
        Self { kernel, workers, identities, table, tasks, means, names }
    }

    /// How often a pod's capture began, and how often it ended.
    pub(super) fn begun_and_ended(&self) -> (u64, u64) {
        self.table.lock().turns
    }

    /// The pods whose connections are redirected.
    pub(super) fn redirected(&self) -> Vec<Redirected> {
        let table = self.table.lock();
        let redirected = |s: &Since| Redirected { pod: s.pod.clone(), since: s.time };
        table.since.values().map(redirected).collect()
    }

    /// Goes on with connections that the agent before has given away.
    ///
    /// # Errors
    /// Their pod is not captured, or they make no sense, or there is no room for them.
    pub(super) async fn take(&self, parcel: Parcel) -> Result<(), TakeError> {
        let role = parcel.role();
        let seat = self.table.lock().balances.get(&parcel.pod()).map(|all| all.next(role));
        let seat = seat.ok_or(TakeError::Pod)?;
        let (answer, taken) = oneshot::channel();
        let worker = self.workers.get(seat.thread()).ok_or(TakeError::Gone)?;
        let take = Command::Take { parcel: Box::new(parcel), seat, answer };
        worker.tell(take).await.map_err(|_| TakeError::Gone)?;
        taken.await.unwrap_or(Err(TakeError::Gone))
    }

    /// Another agent captures them from now on: since when is for it to say.
    pub(super) fn gave_way(&self) {
        let mut table = self.table.lock();
        let redirected: Vec<_> = table.since.drain().map(|(uid, _)| uid).collect();
        table.adopted.extend(redirected);
    }

    /// Listeners first, the kernel's redirection last; both block.
    async fn redirect(&self, pod: Arc<PodCapture>) -> Result<PodListeners, CaptureError> {
        let kernel = self.kernel.clone();
        let names = pod.pod.exclusions.names.unwrap_or(self.names);
        tokio::task::spawn_blocking(move || {
            // Not even for a moment in another's.
            kernel.lock().ensure_free(&pod)?;
            let mut listeners = PodListeners::bind(&pod)?;
            if names {
                listeners = listeners.with_questions(&pod)?;
            }
            kernel.lock().capture(&pod, &listeners)?;
            Ok(listeners)
        })
        .await?
    }

    /// Waits for the last connection, then takes back the routes, unless the pod is back.
    async fn finish(
        self,
        pod: Arc<PodCapture>,
        cut: CancellationToken,
        ends: Vec<oneshot::Receiver<()>>,
    ) {
        let mut ended = pin!(join_all(ends));
        while timeout(LOOK, &mut ended).await.is_err() {
            if is_gone(&pod) {
                cut.cancel();
            }
        }
        let account = pod.pod.account.clone();
        let (kernel, table) = (self.kernel.clone(), self.table.clone());
        let done = tokio::task::spawn_blocking(move || {
            // Under the kernel's lock, so that a new capture is either seen or comes after. What is open from
            // another release needs the loop still: without it, its bytes would leave the pod in the clear.
            let mut kernel = kernel.lock();
            if table.lock().ended(&pod) { kernel.finish_release(&pod) } else { Ok(()) }
        })
        .await;
        self.forget(&account);
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the pod's namespace is gone already"),
            Err(error) => warn!(%error, "finishing a release panicked"),
        }
    }

    /// Forgets an account that no pod has any more, nor a connection that may ask for its certificate.
    fn forget(&self, account: &Account) {
        let table = self.table.lock();
        if !table.is_known(account) {
            self.identities.forget(account);
        }
    }
}

impl Capture for Pods {
    type Error = CaptureError;

    async fn capture(&self, pod: Arc<LocalPod>, netns: Netns) -> Result<(), CaptureError> {
        let stand_ins = self.kernel.lock().stand_ins();
        let capture = Arc::new(PodCapture { pod, netns, stand_ins });
        self.table.lock().capture(capture.clone());
        // Only now that the account is known to be ours, lest another pod's end forgets it.
        self.identities.want(&capture.pod.account);
        let listeners = self.redirect(capture.clone()).await?;
        self.table.lock().redirects(&capture.pod, SystemTime::now());
        // Connections wait in the backlog; none is lost. Who accepts comes last: all others are ready then.
        let (uid, threads) = (&capture.pod.uid, self.workers.len());
        let balance = self.table.lock().balance(uid, threads, &self.means);
        let home = balance.home();
        let others = self.workers.iter().enumerate().filter(|(index, _)| *index != home);
        for (_, worker) in others {
            let (pod, balance) = (capture.clone(), balance.clone());
            worker.tell(Command::Add { pod, balance, listeners: None }).await?;
        }
        let add = Command::Add { pod: capture, balance, listeners: Some(listeners) };
        self.workers[home].tell(add).await?;
        Ok(())
    }

    async fn release(&self, uid: &PodUid, departure: Departure) -> Result<(), CaptureError> {
        if departure == Departure::Vanished && self.table.lock().is_attached(uid) {
            return Err(CaptureError::StillThere);
        }
        self.table.lock().lets_out(uid);
        let (kernel, of_kernel) = (self.kernel.clone(), uid.clone());
        tokio::task::spawn_blocking(move || kernel.lock().let_out(&of_kernel)).await??;
        tokio::time::sleep(UNDER_WAY).await;
        let (kernel, of_kernel) = (self.kernel.clone(), uid.clone());
        tokio::task::spawn_blocking(move || kernel.lock().release(&of_kernel)).await??;
        // What was accepted is with its thread before the thread forgets the pod. A release that ends here can be
        // tried again.
        let stop = |done| Command::Stop { uid: Some(uid.clone()), done };
        join_all(worker::tell_all(&self.workers, stop).await).await;
        let Some(pod) = self.table.lock().release(uid) else { return Ok(()) };
        let cut = CancellationToken::new();
        let release = |done| Command::Release { uid: uid.clone(), cut: cut.clone(), done };
        let ends = worker::tell_all(&self.workers, release).await;
        self.tasks.spawn(self.clone().finish(pod, cut, ends));
        Ok(())
    }
}

/// Whether a pod has lost its addresses, and so whatever was connected to them: the runtime takes
/// them before the namespace goes, and without them a peer's silence would be the only sign.
fn is_gone(pod: &PodCapture) -> bool {
    let Ok(addresses) = pod.netns.addresses() else { return true };
    !addresses.into_iter().any(|address| pod.pod.owns(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::{means, pod};

    #[test]
    fn a_pod_released_twice_keeps_its_loop_until_the_first_connections_end() {
        let mut table = Table::default();
        let (first, second) = (pod(), pod());
        for pod in [&first, &second] {
            table.capture(Arc::clone(pod));
            table.release(&pod.pod.uid).unwrap();
        }
        assert!(!table.ended(&second), "connections of the first release are open");
        assert!(table.is_known(&first.pod.account));
        assert!(table.ended(&first));
        assert!(!table.is_known(&first.pod.account));
    }

    #[test]
    fn pods_take_turns_at_the_threads_and_keep_theirs_until_they_are_released() {
        let (mut table, pod) = (Table::default(), pod());
        let uid = &pod.pod.uid;
        table.capture(Arc::clone(&pod));
        let first = table.balance(uid, 2, &means());
        let other = table.balance(&PodUid("2".into()), 2, &means());
        assert_ne!(first.home(), other.home());
        assert!(Arc::ptr_eq(&first, &table.balance(uid, 2, &means())));
        table.release(uid).unwrap();
        assert!(!Arc::ptr_eq(&first, &table.balance(uid, 2, &means())));
    }

    /// Since when a pod is known to be redirected, as seconds.
    fn since(table: &Table, uid: &PodUid) -> Option<Option<u64>> {
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        table.since.get(uid).map(|since| since.time.map(|time| seconds(time).as_secs()))
    }

    #[test]
    fn a_pod_is_redirected_since_its_first_capture_with_what_is_excluded_now() {
        let (mut table, capture) = (Table::default(), pod());
        let (pod, uid) = (&capture.pod, &capture.pod.uid);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        table.redirects(pod, at(1));
        table.redirects(pod, at(2));
        assert_eq!(since(&table, uid), Some(Some(1)), "nothing has changed since then");
        let mut other = (**pod).clone();
        other.exclusions.outbound_ports = vec![80];
        table.redirects(&Arc::new(other), at(3));
        assert_eq!(since(&table, uid), Some(Some(3)));
        table.lets_out(uid);
        assert_eq!(since(&table, uid), None);
        table.redirects(pod, at(4));
        assert_eq!(since(&table, uid), Some(Some(4)));
    }

    #[test]
    fn since_when_an_adopted_pod_is_redirected_is_not_known() {
        let capture = pod();
        let uid = &capture.pod.uid;
        let mut table = Table { adopted: HashSet::from([uid.clone()]), ..Table::default() };
        table.redirects(&capture.pod, SystemTime::UNIX_EPOCH);
        table.redirects(&capture.pod, SystemTime::now());
        assert_eq!(since(&table, uid), Some(None));
        table.lets_out(uid);
        table.redirects(&capture.pod, SystemTime::UNIX_EPOCH);
        assert_eq!(since(&table, uid), Some(Some(0)));
    }

    #[test]
    fn a_pod_that_is_back_keeps_its_loop() {
        let mut table = Table::default();
        let pod = pod();
        table.capture(Arc::clone(&pod));
        table.release(&pod.pod.uid).unwrap();
        table.capture(Arc::clone(&pod));
        assert!(!table.ended(&pod));
        assert!(table.is_known(&pod.pod.account));
    }
}
