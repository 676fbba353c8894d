//! What happens to a pod, and what we know of it then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::retry::Retry;
use super::super::{
    Action, CaptureFailure, Inside, NetnsRef, Target, Ticket, Timing, Trouble, Wish,
};
use super::{Attachment, Busy, Evict, Held, Pod, Wanted, answer_all};
use crate::enroll::rules::Reason;
use crate::mesh::{LocalPod, PodUid};

impl Pod {
    pub(in crate::enroll::machine) fn is_named(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    pub(in crate::enroll::machine) fn target(&mut self, target: Target) {
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
    pub(in crate::enroll::machine) fn missing(&mut self, timing: &Timing, now: Instant) {
        if self.listed || now >= self.created + timing.unlisted {
            self.wanted = Wanted::Gone;
        }
    }

    pub(in crate::enroll::machine) fn attach(
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
        self.capture_retry = self.capture_retry.at_time(now);
    }

    /// The runtime takes a sandbox down: ours, if it is the one that was attached or is held. Runtimes repeat
    /// this for sandboxes long dead, without a namespace: that must not free a pod that runs.
    pub(in crate::enroll::machine) fn detach(
        &mut self,
        container: &str,
        netns_inode: Option<u64>,
        teardown: Duration,
        actions: &mut Vec<Action>,
    ) {
        let ours = match (&self.attachment, self.held.inode(), netns_inode) {
            (Some(attachment), ..) => attachment.container == container,
            (None, Some(held), told) => told == Some(held),
            (None, None, told) => told.is_some(),
        };
        if ours {
            self.attachment = None;
            self.evict = Some(Evict { pause: teardown });
            let reason = "the sandbox is being taken down";
            answer_all(&mut self.tickets, &Err(reason.to_owned()), actions);
        }
    }

    pub(in crate::enroll::machine) fn captured(
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
                self.trouble = None;
                self.hollow = false;
                let look = if tickets.is_empty() { timing.verify } else { timing.first_look };
                self.verify_at = Some(now + look);
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
                self.stuck(&pod, &reason, actions);
                answer_all(&mut tickets, &Err(reason), actions);
            }
            Err(CaptureFailure::Failed { netns_inode, reason }) => {
                self.held = Held::Partial { inode: netns_inode };
                self.capture_retry.failed(timing, now);
                self.warn(self.capture_retry, "failed to capture pod", &reason);
                self.stuck(&pod, &reason, actions);
                answer_all(&mut tickets, &Err(reason), actions);
            }
        }
    }

    pub(in crate::enroll::machine) fn released(
        &mut self,
        result: Result<(), String>,
        timing: &Timing,
        now: Instant,
    ) {
        if !matches!(self.busy, Some(Busy::Release)) {
            return;
        }
        self.busy = None;
        match result {
            Ok(()) => {
                self.held = Held::Nothing;
                self.verify_at = None;
                self.release_retry = Retry::now(now);
                self.capture_retry = self.capture_retry.at_time(now);
            }
            Err(reason) => {
                if let Some(inode) = self.held.inode() {
                    self.held = Held::Partial { inode };
                }
                self.release_retry.failed(timing, now);
                self.warn(self.release_retry, "failed to release pod", &reason);
                if self.release_retry.is_stuck() {
                    self.trouble = Some(reason.into());
                }
            }
        }
    }

    pub(in crate::enroll::machine) fn annotated(
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
    pub(in crate::enroll::machine) fn located(
        &mut self,
        inodes: &[u64],
        timing: &Timing,
        now: Instant,
    ) {
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

    /// Tells the pod's user, once, of what is not captured though the pod is, or that nothing is: such a pod goes, to
    /// be tried again.
    pub(in crate::enroll::machine) fn looked_into(
        &mut self,
        uid: &PodUid,
        Inside { bridge, is_hollow }: Inside,
        actions: &mut Vec<Action>,
    ) {
        if !matches!(self.held, Held::Captured { .. }) || self.busy.is_some() {
            return;
        }
        let trouble = match bridge {
            _ if is_hollow => {
                self.hollow = true;
                self.evict = Some(Evict { pause: Duration::ZERO });
                self.trouble = Some(Reason::Sandboxed.to_string().into());
                Trouble::Hollow
            }
            Some(bridge) if !self.told_of_bridge => {
                self.told_of_bridge = true;
                Trouble::Forwards(bridge)
            }
            _ => return,
        };
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        actions.push(Action::Report { uid: uid.clone(), namespace, name, trouble });
    }

    /// Tells the pod's user, once for a row of failures.
    fn stuck(&mut self, pod: &LocalPod, reason: &str, actions: &mut Vec<Action>) {
        if !self.capture_retry.is_stuck() {
            return;
        }
        if self.capture_retry.has_just_stuck() && !self.hollow {
            actions.push(Action::Report {
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                trouble: Trouble::NotCaptured(reason.to_owned()),
            });
        }
        if !self.hollow {
            self.trouble = Some(reason.into());
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
}
