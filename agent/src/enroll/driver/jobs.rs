//! The machine's actions, each as a task that reports back what came of it.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::admit::{Admission, Admit, AdmitError};
use crate::enroll::cni::wire::Request;
use crate::enroll::condition::{self, Of, Told};
use crate::enroll::machine::{Action, CaptureFailure, Input, Inside, NetnsRef, Ticket};
use crate::enroll::netns::{LocateError, Locator};
use crate::enroll::pods::View;
use crate::enroll::report::Report;
use crate::enroll::{Capture, Departure, annotate};
use crate::error::chain;
use crate::mesh::{LocalPod, PodUid};
use crate::sys::netlink::Netlink;
use crate::sys::netns::Netns;

/// Longest time for one capture or release.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(15);
/// Captures, releases and look-ups of processes at a time; the rest waits its turn.
const AT_ONCE: usize = 16;

/// What came of a job.
#[derive(Debug)]
pub(super) enum Done {
    Input(Input),
    Admitted { ticket: Ticket, result: Result<Admission, AdmitError> },
}

/// Runs actions.
pub(super) struct Jobs<C> {
    capture: Arc<C>,
    client: Client,
    locator: Locator,
    turns: Arc<Semaphore>,
    running: JoinSet<Option<Done>>,
}

impl<C: Capture> Jobs<C> {
    pub(super) fn new(capture: Arc<C>, client: Client, locator: Locator) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { capture, client, locator, turns, running: JoinSet::new() }
    }

    /// The next result; none while nothing runs.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Done> {
        loop {
            match self.running.join_next().await? {
                Ok(Some(done)) => return Some(done),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "an enrolment job panicked"),
            }
        }
    }

    pub(super) fn admit(&mut self, ticket: Ticket, admit: Admit) {
        let (client, locator) = (self.client.clone(), self.locator.clone());
        self.running.spawn(async move {
            let result = admit.run(client, locator).await;
            Some(Done::Admitted { ticket, result })
        });
    }

    /// Tells of a sandbox that goes.
    pub(super) fn detach(&mut self, request: Request) {
        self.running.spawn(async move {
            let path = PathBuf::from(&request.netns);
            let open =
                tokio::task::spawn_blocking(move || Netns::open(&path).ok().map(|n| n.inode()));
            Some(Done::Input(Input::CniDel {
                namespace: request.pod_namespace,
                name: request.pod_name,
                uid: request.pod_uid.map(|uid| PodUid(uid.into())),
                container: request.container_id,
                netns_inode: open.await.ok().flatten(),
            }))
        });
    }

    pub(super) fn start(&mut self, action: Action, view: &View) {
        match action {
            Action::Capture { pod, netns, held_in } => {
                let uids = view.runtime_uids(&pod.uid);
                self.start_capture(pod, uids, netns, held_in);
            }
            Action::Release { uid, departure } => self.start_release(uid, departure),
            Action::Annotate { uid, namespace, name, enabled } => {
                let client = self.client.clone();
                self.running.spawn(async move {
                    let result = annotate::annotate(client, &uid, &namespace, &name, enabled).await;
                    let result = result.map_err(|error| chain(&error));
                    Some(Done::Input(Input::Annotated { uid, enabled, result }))
                });
            }
            Action::Locate { pod, netns } => {
                let uids = view.runtime_uids(&pod.uid);
                self.start_locate(pod, uids, netns);
            }
            // The driver answers calls itself, and says who it is in reports.
            Action::Answer { .. } | Action::Report { .. } => {}
        }
    }

    /// Writes what the condition of a pod says; nothing depends on it.
    pub(super) fn condition(&mut self, of: Of, told: Told) {
        let (client, turns) = (self.client.clone(), Arc::clone(&self.turns));
        self.running.spawn(async move {
            let _turn = turns.acquire().await.ok()?;
            condition::write(client, &of, told).await;
            None
        });
    }

    /// Tells a pod's user something, once; nothing depends on it.
    pub(super) fn report(&mut self, node: &str, report: Report) {
        let (client, turns, node) = (self.client.clone(), Arc::clone(&self.turns), node.to_owned());
        self.running.spawn(async move {
            let _turn = turns.acquire().await.ok()?;
            report.write(client, &node).await;
            None
        });
    }

    fn start_capture(
        &mut self,
        pod: Arc<LocalPod>,
        uids: Vec<PodUid>,
        netns: Option<NetnsRef>,
        held_in: Option<u64>,
    ) {
        let (capture, turns) = (Arc::clone(&self.capture), Arc::clone(&self.turns));
        let locator = self.locator.clone();
        self.running.spawn(async move {
            let _turn = turns.acquire().await.ok()?;
            let uid = pod.uid.clone();
            let found = locate(locator, (uids, Arc::clone(&pod)), netns, held_in).await;
            let result = match found {
                Err(reason) => Err(CaptureFailure::NotLocated(reason)),
                Ok(netns) if held_in.is_some_and(|inode| inode != netns.inode()) => {
                    Err(CaptureFailure::Moved)
                }
                Ok(netns) => capture_in(capture, pod, netns).await,
            };
            Some(Done::Input(Input::Captured { uid, result }))
        });
    }

    fn start_release(&mut self, uid: PodUid, departure: Departure) {
        let (capture, turns) = (Arc::clone(&self.capture), Arc::clone(&self.turns));
        self.running.spawn(async move {
            let _turn = turns.acquire().await.ok()?;
            let of = uid.clone();
            let result = bounded(async move { capture.release(&of, departure).await }).await;
            Some(Done::Input(Input::Released { uid, result }))
        });
    }

    fn start_locate(&mut self, pod: Arc<LocalPod>, uids: Vec<PodUid>, netns: Option<NetnsRef>) {
        let (locator, turns) = (self.locator.clone(), Arc::clone(&self.turns));
        self.running.spawn(async move {
            let _turn = turns.acquire().await.ok()?;
            let uid = pod.uid.clone();
            let look = move || -> (Vec<u64>, Inside) {
                let found = locator.of_pod(&uids, &pod);
                let is_hollow = locator.is_hollow(netns.as_ref(), &uids, &pod);
                let inside = Inside { bridge: found.iter().find_map(bridge), is_hollow };
                (found.iter().map(Netns::inode).collect(), inside)
            };
            let (netns_inodes, inside) =
                tokio::task::spawn_blocking(look).await.unwrap_or_default();
            Some(Done::Input(Input::Located { uid, netns_inodes, inside }))
        });
    }
}

/// A bridge of the namespace; none also where that cannot be told.
fn bridge(netns: &Netns) -> Option<String> {
    let look = || Netlink::open().and_then(Netlink::bridge);
    netns.enter(look).and_then(|found| found).unwrap_or_else(|error| {
        tracing::debug!(%error, "a pod's devices are not known");
        None
    })
}

/// The pod's namespace: where the runtime told, else where its processes are.
async fn locate(
    locator: Locator,
    (uids, pod): (Vec<PodUid>, Arc<LocalPod>),
    told: Option<NetnsRef>,
    held_in: Option<u64>,
) -> Result<Netns, String> {
    let find = move || -> Result<Netns, LocateError> {
        match told {
            Some(told) => locator.reopen(&told, &pod),
            None => locator.find(&uids, held_in, &pod),
        }
    };
    match tokio::task::spawn_blocking(find).await {
        Ok(found) => found.map_err(|error| chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

async fn capture_in<C: Capture>(
    capture: Arc<C>,
    pod: Arc<LocalPod>,
    netns: Netns,
) -> Result<u64, CaptureFailure> {
    let netns_inode = netns.inode();
    match bounded(async move { capture.capture(pod, netns).await }).await {
        Ok(()) => Ok(netns_inode),
        Err(reason) => Err(CaptureFailure::Failed { netns_inode, reason }),
    }
}

/// Runs a task for a bounded time. A panic is a failure like others: its pod is tried again.
async fn bounded<E: std::error::Error + Send + 'static>(
    task: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Result<(), String> {
    let task = AbortOnDropHandle::new(tokio::spawn(task));
    match tokio::time::timeout(CAPTURE_TIMEOUT, task).await {
        Ok(Ok(result)) => result.map_err(|error| chain(&error)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no result within {CAPTURE_TIMEOUT:?}")),
    }
}
