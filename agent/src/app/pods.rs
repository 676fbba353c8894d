//! Captures and releases pods: listeners in the pod, programs in the kernel, data threads.
//!
//! Enrolment decides, this does. A pod's connections outlive its release: rules and routes in the
//! pod are taken back when the last of them has ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use nix::ifaddrs::getifaddrs;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::worker::{Command, Worker, WorkerGone};
use crate::capture::PodCapture;
use crate::capture::bpf::{BpfError, Kernel};
use crate::capture::listeners::{ListenError, PodListeners};
use crate::enroll::{Capture, Departure};
use crate::identify::certs::Certificates;
use crate::mesh::{LocalPod, PodUid, SpiffeId};
use crate::sys::Shutdown;
use crate::sys::netns::Netns;

/// The kernel's side, one caller at a time; its calls block for a few milliseconds.
pub(super) type SharedKernel = Arc<Mutex<Kernel>>;

/// The pods of this node that are captured.
#[derive(Clone)]
pub(super) struct Pods {
    kernel: SharedKernel,
    workers: Arc<[Worker]>,
    certificates: Certificates,
    table: Arc<Mutex<Table>>,
    tasks: Shutdown,
}

/// Which pods are captured, and which still have connections from before their release.
#[derive(Debug, Default)]
struct Table {
    captured: HashMap<PodUid, Arc<PodCapture>>,
    leaving: Vec<Arc<PodCapture>>,
}

impl Table {
    fn capture(&mut self, pod: Arc<PodCapture>) {
        self.captured.insert(pod.pod.uid.clone(), pod);
    }

    fn release(&mut self, uid: &PodUid) -> Option<Arc<PodCapture>> {
        let pod = self.captured.remove(uid)?;
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

    fn is_known(&self, identity: &SpiffeId) -> bool {
        let mut all = self.captured.values().chain(&self.leaving);
        all.any(|pod| pod.pod.identity == *identity)
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
    /// No pods yet.
    pub(super) fn new(
        kernel: SharedKernel,
        workers: Arc<[Worker]>,
        certificates: Certificates,
        tasks: Shutdown,
    ) -> Self {
        Self { kernel, workers, certificates, table: Arc::default(), tasks }
    }

    /// Listeners first, the kernel's redirection last; both block.
    async fn redirect(&self, pod: Arc<PodCapture>) -> Result<PodListeners, CaptureError> {
        let (kernel, threads) = (self.kernel.clone(), self.workers.len());
        tokio::task::spawn_blocking(move || {
            let listeners = PodListeners::bind(&pod, threads)?;
            kernel.lock().capture(&pod, &listeners)?;
            Ok(listeners)
        })
        .await?
    }

    /// Waits for the last connection, then takes back rules and routes, unless the pod is back.
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
        let identity = pod.pod.identity.clone();
        let (kernel, table) = (self.kernel.clone(), self.table.clone());
        let done = tokio::task::spawn_blocking(move || {
            // Under the kernel's lock, so that a new capture is either seen or comes after. What is open from
            // another release needs the loop still: without it, its bytes would leave the pod in the clear.
            let mut kernel = kernel.lock();
            if table.lock().ended(&pod) { kernel.finish_release(&pod) } else { Ok(()) }
        })
        .await;
        self.forget(&identity);
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the pod's namespace is gone already"),
            Err(error) => warn!(%error, "finishing a release panicked"),
        }
    }

    /// Forgets an identity that no pod has any more, nor a connection that may ask for it.
    fn forget(&self, identity: &SpiffeId) {
        let table = self.table.lock();
        if !table.is_known(identity) {
            self.certificates.forget(identity);
        }
    }
}

impl Capture for Pods {
    type Error = CaptureError;

    async fn capture(&self, pod: Arc<LocalPod>, netns: Netns) -> Result<(), CaptureError> {
        let capture = Arc::new(PodCapture { pod, netns });
        self.table.lock().capture(capture.clone());
        // Only now that the identity is known to be ours, lest another pod's end forgets it.
        self.certificates.prefetch(&capture.pod.identity);
        let mut listeners = self.redirect(capture.clone()).await?;
        for (index, worker) in self.workers.iter().enumerate() {
            // From here on connections wait in the backlog; none is lost.
            if let Some(listeners) = listeners.take_thread(index) {
                worker.tell(Command::Add { pod: capture.clone(), listeners }).await?;
            }
        }
        Ok(())
    }

    async fn release(&self, uid: &PodUid, departure: Departure) -> Result<(), CaptureError> {
        if departure == Departure::Vanished && self.table.lock().is_attached(uid) {
            return Err(CaptureError::StillThere);
        }
        let (kernel, of_kernel) = (self.kernel.clone(), uid.clone());
        tokio::task::spawn_blocking(move || kernel.lock().let_out(&of_kernel)).await??;
        tokio::time::sleep(UNDER_WAY).await;
        let (kernel, of_kernel) = (self.kernel.clone(), uid.clone());
        tokio::task::spawn_blocking(move || kernel.lock().release(&of_kernel)).await??;
        let Some(pod) = self.table.lock().release(uid) else { return Ok(()) };
        let cut = CancellationToken::new();
        let mut ends = Vec::new();
        for worker in self.workers.iter() {
            let (done, end) = oneshot::channel();
            worker.tell(Command::Release { uid: uid.clone(), cut: cut.clone(), done }).await?;
            ends.push(end);
        }
        self.tasks.spawn(self.clone().finish(pod, cut, ends));
        Ok(())
    }
}

/// Whether a pod has lost its addresses, and so whatever was connected to them: the runtime takes
/// them before the namespace goes, and without them a peer's silence would be the only sign.
fn is_gone(pod: &PodCapture) -> bool {
    let Ok(Ok(mut interfaces)) = pod.netns.enter(getifaddrs) else { return true };
    !interfaces.any(|interface| {
        let address = interface.address;
        let ip4 = address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| IpAddr::V4(a.ip()));
        let ip6 = address.as_ref().and_then(|a| a.as_sockaddr_in6()).map(|a| IpAddr::V6(a.ip()));
        ip4.or(ip6).is_some_and(|ip| pod.pod.owns(ip))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Arc<PodCapture> {
        let pod = LocalPod {
            uid: PodUid("1".into()),
            namespace: "ns".into(),
            name: "pod".into(),
            identity: SpiffeId::new("cluster.local", "ns", "sa").unwrap(),
            ip4: None,
            ip6: None,
            exclusions: crate::mesh::local::Exclusions::default(),
        };
        Arc::new(PodCapture { pod: Arc::new(pod), netns: Netns::current().unwrap() })
    }

    #[test]
    fn a_pod_released_twice_keeps_its_loop_until_the_first_connections_end() {
        let mut table = Table::default();
        let (first, second) = (pod(), pod());
        for pod in [&first, &second] {
            table.capture(Arc::clone(pod));
            table.release(&pod.pod.uid).unwrap();
        }
        assert!(!table.ended(&second), "connections of the first release are open");
        assert!(table.is_known(&first.pod.identity));
        assert!(table.ended(&first));
        assert!(!table.is_known(&first.pod.identity));
    }

    #[test]
    fn a_pod_that_is_back_keeps_its_loop() {
        let mut table = Table::default();
        let pod = pod();
        table.capture(Arc::clone(&pod));
        table.release(&pod.pod.uid).unwrap();
        table.capture(Arc::clone(&pod));
        assert!(!table.ended(&pod));
        assert!(table.is_known(&pod.pod.identity));
    }
}
