//! Which pods are ours: from Kubernetes labels and CNI calls to captured pods.
//!
//! Input: pods of this node and namespaces (watched), CNI ADD and DEL, what the kernel already
//! holds. Output: calls of a [`Capture`], the pods' annotation, answers to the CNI plugin.
//!
//! Invariant: a pod is captured exactly if it should be, in the namespace it really has; nothing is
//! released because the API server could not be read. [`machine`] decides and is pure; [`run`] acts.
//!
//! | task | started by | ends |
//! |---|---|---|
//! | driver: owns view, machine and jobs | [`run`] | its token |
//! | CNI server | [`run`] | with the driver |
//! | [`enrolled::keep`]: the node's list of enrolled namespaces | the composition root | its token |
//! | jobs: one capture, release, patch or look-up each | driver | by themselves, bounded in time |

mod annotate;
mod backoff;
pub mod cni;
mod condition;
mod driver;
pub mod enrolled;
pub mod facts;
pub mod install;
pub mod machine;
pub mod netns;
pub mod plugin;
pub mod pods;
mod probes;
pub mod remembered;
mod report;
pub mod rules;
pub mod withdraw;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use arcstr::ArcStr;

use crate::mesh::{LocalPod, PodUid};
use crate::sys::netns::Netns;

pub use self::driver::run;

/// What captures pods: the kernel programs, the listeners, the data threads, behind one face.
pub trait Capture: Send + Sync + 'static {
    /// Why it failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Captures a pod's connections; done when both directions are. A pod captured already, in the
    /// same namespace, takes over what is new about it. Idempotent, also after a failure.
    fn capture(
        &self,
        pod: Arc<LocalPod>,
        netns: Netns,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Lets go of a pod; fine if it is not captured. One that only [vanished](Departure::Vanished) is
    /// kept, with an error, for as long as it has its addresses.
    fn release(
        &self,
        uid: &PodUid,
        departure: Departure,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Why a pod is let go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Its labels say so, its sandbox is taken down, or it is to be captured anew.
    Meant,
    /// The API server knows it no longer, as after a forced deletion. Its containers may run on for a
    /// while, and must not do so outside the mesh's policy.
    Vanished,
}

/// A pod the kernel still captures from an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedPod {
    /// Kubernetes UID.
    pub uid: PodUid,
    /// The namespace it was captured in.
    pub netns_inode: u64,
}

/// How enrolment works on this node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kubernetes name of the node.
    pub node_name: ArcStr,
    /// Root of the cgroup hierarchy that pods are in.
    pub cgroup_root: PathBuf,
    /// The host's `/proc`.
    pub proc: PathBuf,
    /// Where the CNI plugin finds us.
    pub cni_socket: PathBuf,
    /// What another run of the agent had captured: see [`remembered`].
    pub remembered: PathBuf,
}

/// What enrolment has come to, for readiness, metrics and the dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Pods and namespaces were listed completely at least once.
    pub synced: bool,
    /// Every pod that is to be captured is, and no other, as far as can be: no pod of a user's holds up the node's agent.
    pub settled: bool,
    /// Pods that are, or are to be, or were captured.
    pub pods: Vec<PodStatus>,
    /// Pods that are asked for and cannot be captured, whatever is done.
    pub left_alone: Vec<LeftAlone>,
    /// Namespaces with pods that are to be captured, of the whole cluster; none before they are known.
    pub namespaces: Option<enrolled::Namespaces>,
}

/// A pod that is asked for and cannot be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// Its namespace.
    pub namespace: ArcStr,
    /// Its name.
    pub name: ArcStr,
    /// Why.
    pub reason: rules::Reason,
}

/// One pod's enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// Kubernetes UID.
    pub uid: PodUid,
    /// The pod as it is, or is to be, captured; none for one adopted and not seen yet.
    pub pod: Option<Arc<LocalPod>>,
    /// How far it is.
    pub state: PodState,
    /// Why it gets no further, after a row of failures.
    pub trouble: Option<Arc<str>>,
}

impl PodStatus {
    /// Whether there is nothing to wait for: it is captured, it has no sandbox yet, or it is in trouble of its own.
    fn is_settled(&self) -> bool {
        let without_address = self.state == PodState::Pending && self.pod.is_none();
        self.state == PodState::Captured || without_address || self.trouble.is_some()
    }
}

/// How far a pod's enrolment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodState {
    /// Captured by an earlier run; nobody listens yet.
    Adopted,
    /// To be captured.
    Pending,
    /// Captured.
    Captured,
    /// To be released.
    Leaving,
}

impl PodState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Adopted, Self::Pending, Self::Captured, Self::Leaving];

    /// As the metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Pending => "pending",
            Self::Captured => "captured",
            Self::Leaving => "leaving",
        }
    }
}

impl Status {
    /// The pods in trouble, for people; none if there are none.
    pub fn troubles(&self) -> Option<String> {
        let troubled = self.pods.iter().filter_map(|pod| Some((pod.trouble.as_deref()?, pod)));
        let mut told: Vec<String> = troubled
            .map(|(trouble, status)| match &status.pod {
                Some(pod) => format!("{}/{}: {trouble}", pod.namespace, pod.name),
                None => format!("{}: {trouble}", status.uid),
            })
            .collect();
        let count = told.len();
        told.truncate(NAMED);
        (count > 0).then(|| format!("pods in trouble: {count}; {}", told.join("; ")))
    }

    /// Why no pod at all is captured, although several should be: no fault of any one of them. None: enrolment works, or
    /// nothing tells whether it does.
    pub fn broken(&self) -> Option<&str> {
        let mut troubles = self.pods.iter().filter_map(|pod| pod.trouble.as_deref());
        let first = troubles.next()?;
        let captured = self.pods.iter().any(|pod| pod.state == PodState::Captured);
        (!captured && troubles.next().is_some()).then_some(first)
    }

    /// Pods by state, all states told.
    pub fn by_state(&self) -> Vec<(&'static str, u64)> {
        let count = |state| self.pods.iter().filter(|pod| pod.state == state).count() as u64;
        PodState::ALL.into_iter().map(|state| (state.as_str(), count(state))).collect()
    }
}

/// Pods in trouble that are named.
const NAMED: usize = 3;

/// Why enrolment could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The socket for the CNI plugin could not be made.
    #[error("failed to listen on {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// New pods cannot start: nobody answers the CNI plugin.
    #[error("the server that the CNI plugin asks broke")]
    Server(#[source] std::io::Error),
    /// The host's network namespace, which no pod may be in, could not be told.
    #[error("failed to tell the host's network namespace")]
    Host(#[from] netns::LocateError),
}
