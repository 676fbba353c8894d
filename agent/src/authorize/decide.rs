//! The judgement: DENY, then what is unknown, then ALLOW.

use std::sync::Arc;

use crate::mesh::policy::Action;
use crate::mesh::{MatchedRule, Mesh, PolicyIndex, PolicyKey, PolicySet, Selection, Workload};

use super::matches::Subject;
use super::{CONVERTED_PREFIX, Decision, Denial, Permit, Request, STATIC_STRICT};

/// A policy that would have acted, were it enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    /// Which.
    pub policy: PolicyKey,
    /// What it would have done.
    pub action: Action,
}

/// Judges a request to `destination`.
///
/// A DENY that matches wins whatever else is unknown: nothing that may arrive can overrule it.
/// Named is the first policy that matches: of the mesh, then of the namespace, each by key, then of
/// the workload as it lists them.
pub fn decide(mesh: &Mesh, destination: &Workload, request: &Request) -> Decision {
    let subject = Subject::new(request);
    let governing = Governing::of(mesh, destination);
    let plaintext_denied = governing.static_strict().filter(|_| request.source.is_none());
    let plaintext_denied = plaintext_denied.cloned().map(MatchedRule::from);
    if let Some(by) = plaintext_denied.or_else(|| governing.first(&subject, Action::Deny)) {
        return Decision::Deny(Denial::Explicit(by));
    }
    let unknown: Vec<_> = governing.unknown(mesh, request).cloned().collect();
    if !unknown.is_empty() {
        return Decision::Unknown(unknown);
    }
    match governing.first(&subject, Action::Allow) {
        Some(by) => Decision::Allow(Permit { by: Some(by) }),
        None if governing.allows_all() => Decision::Allow(Permit { by: None }),
        None => Decision::Deny(Denial::NotAllowed),
    }
}

/// The policies that match a request but are not enforced.
pub fn dry_run(mesh: &Mesh, destination: &Workload, request: &Request) -> Vec<DryRun> {
    let subject = Subject::new(request);
    let governing = Governing::of(mesh, destination);
    let selected = governing.selected.iter().flat_map(|selected| selected.known());
    governing
        .sets()
        .flat_map(PolicySet::dry_run)
        .chain(selected.filter(|policy| policy.dry_run))
        .filter(|policy| subject.matched_by(policy).is_some())
        .map(|policy| DryRun { policy: policy.key.clone(), action: policy.action })
        .collect()
}

/// The policies that govern a workload.
pub(super) struct Governing<'a> {
    global: &'a PolicySet,
    namespace: Option<&'a PolicySet>,
    /// Those it names.
    pub(super) selected: Option<Arc<Selection>>,
}

impl<'a> Governing<'a> {
    pub(super) fn of(mesh: &'a Mesh, destination: &Workload) -> Self {
        Self {
            global: mesh.global_policies(),
            namespace: mesh.policies_of_namespace(&destination.namespace),
            selected: mesh.selected_policies(destination),
        }
    }

    /// Those that govern it without being named.
    pub(super) fn sets(&self) -> impl Iterator<Item = &'a PolicySet> + use<'a> {
        std::iter::once(self.global).chain(self.namespace)
    }

    /// The policy that denies plaintext, where it is named and not here.
    pub(super) fn static_strict(&self) -> Option<&PolicyKey> {
        self.missing().rfind(|key| key.name == STATIC_STRICT)
    }

    /// What should be known and is not: it allows nothing to this request.
    pub(super) fn unknown(
        &self,
        mesh: &Mesh,
        request: &Request,
    ) -> impl Iterator<Item = &PolicyKey> {
        let passes = |key: &PolicyKey| request.source.is_some() && is_of_plaintext(mesh, key);
        let missing = self.missing();
        let missing = missing.filter(move |key| key.name != STATIC_STRICT && !passes(key));
        self.sets().flat_map(PolicySet::unreadable).chain(missing)
    }

    /// Policies that are named and not here, and could deny nothing to who has an identity.
    pub(super) fn of_plaintext(&self, mesh: &Mesh) -> impl Iterator<Item = &PolicyKey> {
        self.missing().filter(|key| is_of_plaintext(mesh, key))
    }

    fn missing(&self) -> impl DoubleEndedIterator<Item = &PolicyKey> {
        self.selected.iter().flat_map(|selected| selected.unknown())
    }

    /// The first enforced policy that matches.
    fn first(&self, subject: &Subject<'_>, action: Action) -> Option<MatchedRule> {
        let of_set = |set: &PolicySet| match action {
            Action::Deny => in_index(subject, set.deny()),
            Action::Allow => in_index(subject, set.allow()),
        };
        self.sets().find_map(of_set).or_else(|| {
            let selected = self.selected.as_ref()?;
            match action {
                Action::Deny => in_index(subject, selected.deny()),
                Action::Allow => in_index(subject, selected.allow()),
            }
        })
    }

    /// Without any ALLOW policy, what is not denied is allowed.
    fn allows_all(&self) -> bool {
        self.sets().all(|set| set.allow().is_empty())
            && self.selected.as_ref().is_none_or(|selected| selected.allow().is_empty())
    }
}

/// Whether a policy that is not here could deny plaintext alone. One that has arrived and cannot be read
/// may say anything.
fn is_of_plaintext(mesh: &Mesh, key: &PolicyKey) -> bool {
    key.name.starts_with(CONVERTED_PREFIX) && mesh.unreadable_policy(key).is_none()
}

fn in_index<R: Ord + Clone>(
    subject: &Subject<'_>,
    policies: &PolicyIndex<R>,
) -> Option<MatchedRule> {
    let (policy, rule) = policies.first(subject.probe(), |policy| subject.matched_by(policy))?;
    Some(MatchedRule { policy: policy.key.clone(), rule: Some(rule) })
}
