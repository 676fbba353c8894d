//! One pod's enrolment.

use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;

use super::annotation::Annotation;
use super::retry::Retry;
use super::{Action, CaptureFailure, NetnsRef, Target, Ticket, Timing, Wish};
use crate::enroll::{PodState, PodStatus};
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
}

// === inputs ===

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
        }
    }

    /// A pod the kernel holds: one that the first snapshot does not know is gone.
    pub(super) fn adopted(inode: u64, now: Instant) -> Self {
        let pod = Self::new(ArcStr::new(), ArcStr::new(), now);
        Self { held: Held::Adopted { inode }, listed: true, ..pod }
    }

    pub(super) fn is_named(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    pub(super) fn target(&mut self, target: Target) {
        self.listed = true;
        self.namespace = target.namespace;
        self.name = target.name;
        self.annotation.observe(target.annotated);
        self.wanted = match (target.wish, &self.wanted, &self.held) {
            (Wish::Enroll(pod), ..) => Wanted::Enroll(pod),
            (Wish::Leave, ..) => Wanted::Leave,
            (Wish::Keep, Wanted::Enroll(pod), _) => Wanted::Enroll(Arc::clone(pod)),
            (Wish::Keep, _, Held::Captured { pod, .. }) => Wanted::Enroll(Arc::clone(pod)),
            (Wish::Keep, ..) => Wanted::Keep,
        };
    }

    /// A complete snapshot does not have it.
    pub(super) fn missing(&mut self, timing: &Timing, now: Instant) {
        if self.listed || now >= self.created + timing.unlisted {
            self.wanted = Wanted::Gone;
        }
    }

    pub(super) fn attach(
        &mut self,
        ticket: Ticket,
        pod: Arc<LocalPod>,
        container: String,
        netns: NetnsRef,
        now: Instant,
    ) {
        self.wanted = Wanted::Enroll(Arc::clone(&pod));
        self.attachment = Some(Attachment { container, netns, pod });
        self.tickets.push(ticket);
        self.capture_retry = Retry::now(now);
    }

    /// The runtime takes a sandbox down: ours, unless it names another one.
    pub(super) fn detach(
        &mut self,
        container: &str,
        netns_inode: Option<u64>,
        teardown: Duration,
        actions: &mut Vec<Action>,
    ) {
        let ours = match (&self.attachment, self.held.inode(), netns_inode) {
            (Some(attachment), ..) => attachment.container == container,
            (None, Some(held), Some(told)) => held == told,
            (None, ..) => true,
        };
        if ours {
            self.attachment = None;
            self.evict = Some(Evict { pause: teardown });
            let reason = "the sandbox is being taken down";
            answer_all(&mut self.tickets, &Err(reason.to_owned()), actions);
        }
    }

    pub(super) fn captured(
        &mut self,
        result: Result<u64, CaptureFailure>,
        timing: &Timing,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(Busy::Capture { pod, netns, mut tickets }) = self.busy.take() else {
            return;
        };
        match result {
            Ok(inode) => {
                self.held = Held::Captured { inode, pod };
                self.capture_retry = Retry::now(now);
                self.verify_at = Some(now + timing.verify);
                if self.evict.is_none() && self.attachment_inode().is_none_or(|told| told == inode)
                {
                    answer_all(&mut tickets, &Ok(()), actions);
                }
                // Others wait for the namespace that the runtime named last.
                self.tickets.append(&mut tickets);
            }
            Err(CaptureFailure::Moved) => {
                self.evict = Some(Evict { pause: Duration::ZERO });
                self.tickets.append(&mut tickets);
            }
            Err(CaptureFailure::NotLocated(reason)) => {
                // What the runtime told is stale, unless it has told something new since.
                self.attachment.take_if(|attachment| Some(&attachment.netns) == netns.as_ref());
                self.capture_retry.failed(timing, now);
                self.warn(self.capture_retry, "pod's network namespace not found", &reason);
                answer_all(&mut tickets, &Err(reason), actions);
            }
            Err(CaptureFailure::Failed { netns_inode, reason }) => {
                self.held = Held::Partial { inode: netns_inode };
                self.capture_retry.failed(timing, now);
                self.warn(self.capture_retry, "failed to capture pod", &reason);
                answer_all(&mut tickets, &Err(reason), actions);
            }
        }
    }

    pub(super) fn released(&mut self, result: Result<(), String>, timing: &Timing, now: Instant) {
        if !matches!(self.busy, Some(Busy::Release)) {
            return;
        }
        self.busy = None;
        match result {
            Ok(()) => {
                self.held = Held::Nothing;
                self.verify_at = None;
                self.release_retry = Retry::now(now);
                self.capture_retry = Retry::now(now);
            }
            Err(reason) => {
                if let Some(inode) = self.held.inode() {
                    self.held = Held::Partial { inode };
                }
                self.release_retry.failed(timing, now);
                self.warn(self.release_retry, "failed to release pod", &reason);
            }
        }
    }

    pub(super) fn annotated(
        &mut self,
        enabled: bool,
        result: Result<(), String>,
        timing: &Timing,
        now: Instant,
    ) {
        self.annotation.written(enabled, &result, timing, now);
        if let (Err(reason), true) = (&result, self.annotation.is_fresh_failure()) {
            tracing::warn!(pod = %self.name, namespace = %self.namespace, %reason, "failed to annotate pod");
        }
    }

    /// Where its processes are. Any of them in the namespace that is held is good enough: a
    /// container may make namespaces of its own.
    pub(super) fn located(&mut self, inodes: &[u64], timing: &Timing, now: Instant) {
        self.verify_at = Some(now + timing.verify);
        let Held::Captured { inode, .. } = &self.held else { return };
        if self.busy.is_none() && !inodes.is_empty() && !inodes.contains(inode) {
            tracing::warn!(pod = %self.name, namespace = %self.namespace, "pod has a new network namespace");
            if self.attachment_inode() == Some(*inode) {
                self.attachment = None;
            }
            self.evict = Some(Evict { pause: Duration::ZERO });
        }
    }

    /// Once for a row of failures.
    fn warn(&self, retry: Retry, what: &'static str, reason: &str) {
        if retry.is_fresh() {
            tracing::warn!(pod = %self.name, namespace = %self.namespace, reason, "{what}");
        } else {
            tracing::debug!(pod = %self.name, namespace = %self.namespace, reason, "{what}");
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
                self.release(uid, now, actions);
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
            self.release(uid, now, actions);
            return false;
        }
        self.evict = None;
        let pause = if self.tickets.is_empty() { pause } else { Duration::ZERO };
        self.capture_retry = Retry::after(now + pause);
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
                self.release(uid, now, actions);
            }
            Held::Captured { pod: captured, .. } if *captured == pod => {
                answer_all(&mut self.tickets, &Ok(()), actions);
                if self.verify_at.is_some_and(|at| now >= at) {
                    self.verify_at = Some(now + timing.verify);
                    actions.push(Action::Locate { uid: uid.clone() });
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
                    self.release(uid, now, actions);
                }
            }
            // Nobody listens for it: the sooner it is free, the better.
            Held::Adopted { .. } | Held::Partial { .. } => self.release(uid, now, actions),
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

    fn release(&mut self, uid: &PodUid, now: Instant, actions: &mut Vec<Action>) {
        if self.release_retry.is_due(now) {
            self.busy = Some(Busy::Release);
            actions.push(Action::Release { uid: uid.clone() });
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
        Some(PodStatus { uid: uid.clone(), pod, state })
    }
}

fn answer_all(tickets: &mut Vec<Ticket>, result: &Result<(), String>, actions: &mut Vec<Action>) {
    actions
        .extend(tickets.drain(..).map(|ticket| Action::Answer { ticket, result: result.clone() }));
}
