//! Enrolment's decisions: pure, level-triggered, one state per pod.
//!
//! Inputs say what is wished for, what the runtime did and what came of earlier actions; time is
//! passed in. After each input every pod is looked at, and what it lacks is asked for, with backoff.
//!
//! Invariants: at most one capture, release or look-up of a pod at a time; a pod held in one
//! namespace is released before it is captured in another; nothing is released on an incomplete
//! snapshot; each CNI ticket is answered once.

mod annotation;
mod pod;
mod retry;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;

use self::pod::Pod;
use super::{AdoptedPod, Departure, PodStatus};
use crate::mesh::{LocalPod, PodUid};

/// What is wished for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// To be captured, as this.
    Enroll(Arc<LocalPod>),
    /// To be captured, but its addresses are not known yet: leave things as they are.
    Keep,
    /// Not to be captured.
    Leave,
}

/// A pod of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
    /// What is wished for it.
    pub wish: Wish,
    /// Whether it carries the annotation that it is captured.
    pub annotated: bool,
}

/// A CNI ADD that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A network namespace by path, and the inode it had when it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetnsRef {
    /// Where the runtime keeps it.
    pub path: PathBuf,
    /// What it was.
    pub inode: u64,
}

/// Why a capture failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureFailure {
    /// The pod's namespace was not found.
    NotLocated(String),
    /// The pod is in another namespace than the one it is held in.
    Moved,
    /// It was found, and capturing it failed, perhaps half way.
    Failed {
        /// Where.
        netns_inode: u64,
        /// Why.
        reason: String,
    },
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// What the kernel holds from an earlier run; once, at the start.
    Adopted(Vec<AdoptedPod>),
    /// What an earlier run knew of what the kernel holds; once, after that.
    Remembered(Vec<Arc<LocalPod>>),
    /// All pods of this node: a pod that is not in it is gone.
    Snapshot(HashMap<PodUid, Target>),
    /// The runtime attaches a pod that is to be captured.
    CniAdd {
        /// To answer with.
        ticket: Ticket,
        /// The pod.
        pod: Arc<LocalPod>,
        /// The sandbox.
        container: String,
        /// Its namespace.
        netns: NetnsRef,
    },
    /// The runtime takes a sandbox down.
    CniDel {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// Its UID, where the runtime tells it: a pod adopted is not known by name yet.
        uid: Option<PodUid>,
        /// The sandbox.
        container: String,
        /// Its namespace, where that can still be told.
        netns_inode: Option<u64>,
    },
    /// A capture ended: where the pod is captured.
    Captured {
        /// The pod.
        uid: PodUid,
        /// The inode of its namespace.
        result: Result<u64, CaptureFailure>,
    },
    /// A release ended.
    Released {
        /// The pod.
        uid: PodUid,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// The annotation was written, or removed.
    Annotated {
        /// The pod.
        uid: PodUid,
        /// Whether it was to be there.
        enabled: bool,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// The namespaces of a pod that its processes are in, oldest process first; empty if none was found.
    Located {
        /// The pod.
        uid: PodUid,
        /// Inodes.
        netns_inodes: Vec<u64>,
        /// What is in them.
        inside: Inside,
    },
    /// Time passed.
    Tick,
}

/// What is in a pod's namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// A bridge that one of them has: the pod has a network of its own behind it.
    pub bridge: Option<String>,
    /// The pod's addresses are gone from its own: its runtime took them into a network stack that is not the kernel's.
    pub is_hollow: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Find the pod's namespace, capture it, report [`Input::Captured`].
    Capture {
        /// The pod.
        pod: Arc<LocalPod>,
        /// Its namespace, where the runtime told it.
        netns: Option<NetnsRef>,
        /// The namespace it is held in: if it is in another one now, do nothing and say `Moved`.
        held_in: Option<u64>,
    },
    /// Release the pod, report [`Input::Released`].
    Release {
        /// The pod.
        uid: PodUid,
        /// Why.
        departure: Departure,
    },
    /// Write or remove the annotation, report [`Input::Annotated`].
    Annotate {
        /// The pod.
        uid: PodUid,
        /// Its namespace.
        namespace: ArcStr,
        /// Its name.
        name: ArcStr,
        /// Whether it is to be there.
        enabled: bool,
    },
    /// Tell the pod's user that it is not captured, or not all of it.
    Report {
        /// The pod.
        uid: PodUid,
        /// Its namespace.
        namespace: ArcStr,
        /// Its name.
        name: ArcStr,
        /// What is to be told.
        trouble: Trouble,
    },
    /// Look where the pod's processes are, report [`Input::Located`].
    Locate {
        /// The pod.
        pod: Arc<LocalPod>,
        /// Its namespace, where the runtime told it.
        netns: Option<NetnsRef>,
    },
    /// Answer a CNI ADD.
    Answer {
        /// Which.
        ticket: Ticket,
        /// Why the pod must not start.
        result: Result<(), String>,
    },
}

/// What a pod's user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It is not captured: why.
    NotCaptured(String),
    /// It forwards for others, by a bridge of this name.
    Forwards(String),
    /// Its connections are not made in the node's kernel.
    Hollow,
}

/// Times; the defaults are for production.
#[derive(Debug, Clone)]
pub struct Timing {
    /// First pause after a failure; doubles each time.
    pub retry_first: Duration,
    /// Longest pause after failures.
    pub retry_most: Duration,
    /// How long a pod that leaves stays captured after its annotation is gone, so that peers learn
    /// of it before its tunnel port closes.
    pub leave_grace: Duration,
    /// How long it stays at most if the annotation cannot be removed.
    pub leave_deadline: Duration,
    /// How long a pod that the runtime attached may be missing from snapshots.
    pub unlisted: Duration,
    /// How long a sandbox's processes may take to end after CNI DEL.
    pub teardown: Duration,
    /// How soon after its CNI ADD a pod is looked up: what its runtime does to its network is done then.
    pub first_look: Duration,
    /// How often a captured pod's namespace is looked up again.
    pub verify: Duration,
    /// How long a snapshot may lag behind what we wrote.
    pub watch_lag: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_first: Duration::from_millis(250),
            retry_most: Duration::from_secs(30),
            leave_grace: Duration::from_secs(2),
            leave_deadline: Duration::from_secs(10),
            unlisted: Duration::from_secs(60),
            teardown: Duration::from_secs(5),
            first_look: Duration::from_secs(5),
            verify: Duration::from_secs(60),
            watch_lag: Duration::from_secs(5),
        }
    }
}

/// The state of all pods.
#[derive(Debug)]
pub struct Machine {
    pods: BTreeMap<PodUid, Pod>,
    timing: Timing,
    wake: Option<Instant>,
}

impl Machine {
    /// No pods yet.
    pub fn new(timing: Timing) -> Self {
        Self { pods: BTreeMap::new(), timing, wake: None }
    }

    /// Takes an input in and says what to do now.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.take(input, now, &mut actions);
        let timing = &self.timing;
        self.pods.retain(|uid, pod| !pod.advance(uid, timing, now, &mut actions));
        self.wake = self.pods.values().filter_map(|pod| pod.wake(now)).min();
        actions
    }

    /// When to send the next [`Input::Tick`].
    pub fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// How far each pod is.
    pub fn status(&self) -> Vec<PodStatus> {
        self.pods.iter().filter_map(|(uid, pod)| pod.status(uid)).collect()
    }

    fn take(&mut self, input: Input, now: Instant, actions: &mut Vec<Action>) {
        match input {
            Input::Adopted(pods) => self.adopt(pods, now),
            Input::Remembered(pods) => {
                for pod in pods {
                    self.with(&pod.uid.clone(), |state, _| state.remember(pod));
                }
            }
            Input::Snapshot(targets) => self.snapshot(targets, now),
            Input::CniAdd { ticket, pod, container, netns } => {
                let entry = self.pods.entry(pod.uid.clone());
                let state =
                    entry.or_insert_with(|| Pod::new(pod.namespace.clone(), pod.name.clone(), now));
                state.attach(ticket, pod, container, netns, now);
            }
            Input::CniDel { namespace, name, uid, container, netns_inode } => {
                let meant = self.pods.iter_mut().filter(|(known, pod)| {
                    uid.as_ref() == Some(known) || pod.is_named(&namespace, &name)
                });
                for (_, pod) in meant {
                    pod.detach(&container, netns_inode, self.timing.teardown, actions);
                }
            }
            Input::Captured { uid, result } => {
                self.with(&uid, |pod, timing| pod.captured(result, timing, now, actions));
            }
            Input::Released { uid, result } => {
                self.with(&uid, |pod, timing| pod.released(result, timing, now));
            }
            Input::Annotated { uid, enabled, result } => {
                self.with(&uid, |pod, timing| pod.annotated(enabled, result, timing, now));
            }
            Input::Located { uid, netns_inodes, inside } => {
                self.with(&uid, |pod, timing| {
                    pod.located(&netns_inodes, timing, now);
                    pod.looked_into(&uid, inside, actions);
                });
            }
            Input::Tick => {}
        }
    }

    fn with(&mut self, uid: &PodUid, f: impl FnOnce(&mut Pod, &Timing)) {
        if let Some(pod) = self.pods.get_mut(uid) {
            f(pod, &self.timing);
        }
    }

    fn adopt(&mut self, adopted: Vec<AdoptedPod>, now: Instant) {
        for AdoptedPod { uid, netns_inode } in adopted {
            self.pods.entry(uid).or_insert_with(|| Pod::adopted(netns_inode, now));
        }
    }

    fn snapshot(&mut self, mut targets: HashMap<PodUid, Target>, now: Instant) {
        for (uid, pod) in &mut self.pods {
            match targets.remove(uid) {
                Some(target) => pod.target(target),
                None => pod.missing(&self.timing, now),
            }
        }
        for (uid, target) in targets {
            // A pod that is not ours and carries no trace of us needs no state.
            if target.wish != Wish::Leave || target.annotated {
                let mut pod = Pod::new(target.namespace.clone(), target.name.clone(), now);
                pod.target(target);
                self.pods.insert(uid, pod);
            }
        }
    }
}

#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;
