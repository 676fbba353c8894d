//! One pod's enrolment: its state, and what is to be done about it.

mod events;

use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;

use super::annotation::Annotation;
use super::retry::Retry;
use super::{Action, NetnsRef, Ticket, Timing};
use crate::enroll::{Departure, PodState, PodStatus};
use crate::mesh::{LocalPod, PodUid};

/// What is wanted for the pod, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Enroll(Arc<LocalPod>),
    Keep,
    Leave,
    Gone,
}

/// What the kernel holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Nothing,
    /// By an earlier run: the programs are there, the listeners are not.
    Adopted {
        inode: u64,
    },
    /// A capture or release failed: something may be there.
    Partial {
        inode: u64,
    },
    Captured {
        inode: u64,
        pod: Arc<LocalPod>,
    },
}

impl Held {
    fn inode(&self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Adopted { inode } | Self::Partial { inode } | Self::Captured { inode, .. } => {
                Some(*inode)
            }
        }
    }
}

/// An action that has not reported back.
#[derive(Debug)]
enum Busy {
    Capture { pod: Arc<LocalPod>, netns: Option<NetnsRef>, tickets: Vec<Ticket> },
    Release,
}

/// What is held must go first; then a pause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evict {
    pause: Duration,
}

/// The sandbox that the runtime told us of.
#[derive(Debug)]
struct Attachment {
    container: String,
    netns: NetnsRef,
    /// Its addresses, known before the API server knows them.
    pod: Arc<LocalPod>,
}

/// A pod that leaves the mesh while it runs.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    release_at: Instant,
    annotation_gone: bool,
}

/// One pod.
#[derive(Debug)]
pub(super) struct Pod {
    namespace: ArcStr,
    name: ArcStr,
    wanted: Wanted,
    listed: bool,
    created: Instant,
    attachment: Option<Attachment>,
    held: Held,
    evict: Option<Evict>,
    busy: Option<Busy>,
    capture_retry: Retry,
    release_retry: Retry,
    tickets: Vec<Ticket>,
    annotation: Annotation,
    leaving: Option<Leaving>,
    verify_at: Option<Instant>,
    /// Why it is not what it should be, after a row of failures.
    trouble: Option<Arc<str>>,
    /// Its user was told that it forwards for others.
    told_of_bridge: bool,
    /// It was captured, but what it does is not in the node's kernel.
    hollow: bool,
}

// === impl Pod: its beginnings ===

impl Pod {
    pub(super) fn new(namespace: ArcStr, name: ArcStr, now: Instant) -> Self {
        Self {
            namespace,
            name,
            wanted: Wanted::Keep,
            listed: false,
            created: now,
            attachment: None,
            held: Held::Nothing,
            evict: None,
            busy: None,
            capture_retry: Retry::now(now),
            release_retry: Retry::now(now),
            tickets: Vec::new(),
            annotation: Annotation::new(now),
            leaving: None,
            verify_at: None,
            trouble: None,
            told_of_bridge: false,
            hollow: false,
        }
    }

    /// A pod the kernel holds: one that the first snapshot does not know is gone.
    pub(super) fn adopted(inode: u64, now: Instant) -> Self {
        let pod = Self::new(ArcStr::new(), ArcStr::new(), now);
        Self { held: Held::Adopted { inode }, listed: true, ..pod }
    }

    /// What it was when an earlier run captured it, until the API server tells what it is.
    pub(super) fn remember(&mut self, pod: Arc<LocalPod>) {
        if self.wanted == Wanted::Keep && matches!(self.held, Held::Adopted { .. }) {
            self.namespace = pod.namespace.clone();
            self.name = pod.name.clone();
            self.wanted = Wanted::Enroll(pod);
        }
    }

    fn attachment_inode(&self) -> Option<u64> {
        self.attachment.as_ref().map(|attachment| attachment.netns.inode)
    }
}

// === decisions ===

impl Pod {
    /// Does what is due. True if nothing is left of the pod.
    pub(super) fn advance(
        &mut self,
        uid: &PodUid,
        timing: &Timing,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        if self.wanted != Wanted::Leave {
            self.leaving = None;
        }
        self.annotate(uid, now, actions);
        if self.busy.is_some() || !self.evicted(uid, now, actions) {
            return false;
        }
        match self.wanted.clone() {
            Wanted::Enroll(pod) => self.pursue(uid, &pod, timing, now, actions),
            Wanted::Keep => {}
            Wanted::Leave => self.leave(uid, timing, now, actions),
            Wanted::Gone => {
                answer_all(&mut self.tickets, &Err("the pod is gone".to_owned()), actions);
                if self.held == Held::Nothing {
                    return true;
                }
                self.release(uid, Departure::Vanished, now, actions);
            }
        }
        self.is_done()
    }

    /// Not ours, and no trace of us is left.
    fn is_done(&self) -> bool {
        self.wanted == Wanted::Leave
            && self.listed
            && self.held == Held::Nothing
            && self.busy.is_none()
            && self.attachment.is_none()
            && self.annotation.is_absent()
    }

    /// The annotation comes last, and goes first.
    fn annotate(&mut self, uid: &PodUid, now: Instant, actions: &mut Vec<Action>) {
        let captured = matches!(self.held, Held::Captured { .. });
        let enabled = match &self.wanted {
            Wanted::Enroll(_) if self.hollow => false,
            Wanted::Enroll(_) if captured && self.busy.is_none() && self.evict.is_none() => true,
            Wanted::Leave => false,
            _ => return,
        };
        if self.annotation.start(enabled, now) {
            let (namespace, name) = (self.namespace.clone(), self.name.clone());
            actions.push(Action::Annotate { uid: uid.clone(), namespace, name, enabled });
        }
    }

    /// Whether nothing is held any more of what had to go.
    fn evicted(&mut self, uid: &PodUid, now: Instant, actions: &mut Vec<Action>) -> bool {
        let Some(Evict { pause }) = self.evict else { return true };
        if self.held != Held::Nothing {
            self.release(uid, Departure::Meant, now, actions);
            return false;
        }
        self.evict = None;
        let pause = if self.tickets.is_empty() { pause } else { Duration::ZERO };
        self.capture_retry = self.capture_retry.at_time(now + pause);
        true
    }

    fn pursue(
        &mut self,
        uid: &PodUid,
        pod: &Arc<LocalPod>,
        timing: &Timing,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let pod = self.as_attached(pod);
        let told = self.attachment_inode();
        match &self.held {
            held if told.is_some() && held.inode().is_some() && held.inode() != told => {
                self.evict = Some(Evict { pause: Duration::ZERO });
                self.release(uid, Departure::Meant, now, actions);
            }
            Held::Captured { pod: captured, .. } if *captured == pod => {
                answer_all(&mut self.tickets, &Ok(()), actions);
                if self.verify_at.is_some_and(|at| now >= at) {
                    self.verify_at = Some(now + timing.verify);
                    let netns = self.attachment.as_ref().map(|attachment| attachment.netns.clone());
                    actions.push(Action::Locate { pod, netns });
                }
            }
            _ => self.capture(pod, now, actions),
        }
    }

    /// The pod with the addresses that the runtime told.
    fn as_attached(&self, pod: &Arc<LocalPod>) -> Arc<LocalPod> {
        let Some(Attachment { pod: attached, .. }) = &self.attachment else {
            return Arc::clone(pod);
        };
        if (attached.ip4, attached.ip6) == (pod.ip4, pod.ip6) {
            return Arc::clone(pod);
        }
        Arc::new(LocalPod { ip4: attached.ip4, ip6: attached.ip6, ..LocalPod::clone(pod) })
    }

    fn leave(&mut self, uid: &PodUid, timing: &Timing, now: Instant, actions: &mut Vec<Action>) {
        // A pod that is not ours may start.
        answer_all(&mut self.tickets, &Ok(()), actions);
        match &self.held {
            Held::Nothing => {
                self.attachment = None;
                self.leaving = None;
            }
            Held::Captured { .. } => {
                let leaving = self.leaving.get_or_insert(Leaving {
                    release_at: now + timing.leave_deadline,
                    annotation_gone: false,
                });
                if self.annotation.is_absent() && !leaving.annotation_gone {
                    leaving.annotation_gone = true;
                    leaving.release_at = leaving.release_at.min(now + timing.leave_grace);
                }
                if now >= leaving.release_at {
                    self.release(uid, Departure::Meant, now, actions);
                }
            }
            // Nobody listens for it: the sooner it is free, the better.
            Held::Adopted { .. } | Held::Partial { .. } => {
                self.release(uid, Departure::Meant, now, actions)
            }
        }
    }

    fn capture(&mut self, pod: Arc<LocalPod>, now: Instant, actions: &mut Vec<Action>) {
        if !self.capture_retry.is_due(now) {
            return;
        }
        let netns = self.attachment.as_ref().map(|attachment| attachment.netns.clone());
        let tickets = std::mem::take(&mut self.tickets);
        self.busy = Some(Busy::Capture { pod: Arc::clone(&pod), netns: netns.clone(), tickets });
        actions.push(Action::Capture { pod, netns, held_in: self.held.inode() });
    }

    fn release(
        &mut self,
        uid: &PodUid,
        departure: Departure,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if self.release_retry.is_due(now) {
            self.busy = Some(Busy::Release);
            actions.push(Action::Release { uid: uid.clone(), departure });
        }
    }

    /// When time alone changes something; later than `now`, at which everything due was done.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let own = [
            Some(self.capture_retry.at()),
            Some(self.release_retry.at()),
            self.leaving.map(|leaving| leaving.release_at),
            self.verify_at,
        ];
        let times = own.into_iter().chain(self.annotation.times()).flatten();
        times.filter(|at| *at > now).min()
    }

    pub(super) fn status(&self, uid: &PodUid) -> Option<PodStatus> {
        let state = match (&self.wanted, &self.held) {
            (Wanted::Leave | Wanted::Gone, Held::Nothing) => return None,
            (Wanted::Leave | Wanted::Gone, _) => PodState::Leaving,
            (_, Held::Adopted { .. }) => PodState::Adopted,
            (_, Held::Captured { .. }) if self.evict.is_none() => PodState::Captured,
            _ => PodState::Pending,
        };
        let pod = match (&self.wanted, &self.held) {
            (Wanted::Enroll(pod), _) => Some(self.as_attached(pod)),
            (_, Held::Captured { pod, .. }) => Some(Arc::clone(pod)),
            _ => None,
        };
        Some(PodStatus { uid: uid.clone(), pod, state, trouble: self.trouble.clone() })
    }
}

fn answer_all(tickets: &mut Vec<Ticket>, result: &Result<(), String>, actions: &mut Vec<Action>) {
    actions
        .extend(tickets.drain(..).map(|ticket| Action::Answer { ticket, result: result.clone() }));
}
