//! The judgement: DENY, then what is unknown, then ALLOW.

use std::sync::Arc;

use crate::mesh::policy::{Action, Authorization};
use crate::mesh::{MatchedRule, Mesh, PolicyKey, PolicySet, Workload};

use super::matches::Subject;
use super::{Decision, Denial, Permit, Request, STATIC_STRICT};

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
pub fn decide(mesh: &Mesh, destination: &Workload, request: &Request) -> Decision {
    let subject = Subject::new(request);
    let selected = Selected::of(mesh, destination);
    let sets = sets(mesh, destination);

    let plaintext_denied = selected.static_strict.filter(|_| request.source.is_none());
    let plaintext_denied = plaintext_denied.map(|policy| Hit { policy, rule: None });
    let denied = plaintext_denied.or_else(|| {
        let governing = sets.iter().flat_map(|set| set.deny());
        let deny = governing.chain(selected.enforced(Action::Deny));
        first_match(&subject, deny)
    });
    if let Some(by) = denied {
        return Decision::Deny(Denial::Explicit(by.into()));
    }
    if !selected.unknown.is_empty() {
        return Decision::Unknown(selected.unknown.into_iter().cloned().collect());
    }
    let allow = || {
        let governing = sets.iter().flat_map(|set| set.allow());
        governing.chain(selected.enforced(Action::Allow))
    };
    match first_match(&subject, allow()) {
        Some(by) => Decision::Allow(Permit { by: Some(by.into()) }),
        None if allow().next().is_none() => Decision::Allow(Permit { by: None }),
        None => Decision::Deny(Denial::NotAllowed),
    }
}

/// The policies that match a request but are not enforced.
pub fn dry_run(mesh: &Mesh, destination: &Workload, request: &Request) -> Vec<DryRun> {
    let subject = Subject::new(request);
    let selected = Selected::of(mesh, destination);
    let sets = sets(mesh, destination);
    let governing = sets.iter().flat_map(|set| set.dry_run());
    governing
        .chain(selected.known.iter().copied().filter(|policy| policy.dry_run))
        .filter(|policy| subject.matched_by(policy).is_some())
        .map(|policy| DryRun { policy: policy.key.clone(), action: policy.action })
        .collect()
}

/// The policies that select a workload.
pub(super) struct Selected<'a> {
    pub(super) known: Vec<&'a Arc<Authorization>>,
    pub(super) unknown: Vec<&'a PolicyKey>,
    /// Referenced, not here, but its content is known.
    pub(super) static_strict: Option<&'a PolicyKey>,
}

impl<'a> Selected<'a> {
    pub(super) fn of(mesh: &'a Mesh, destination: &'a Workload) -> Self {
        let mut selected = Self { known: Vec::new(), unknown: Vec::new(), static_strict: None };
        for key in &destination.authorization_policies {
            match mesh.policy(key) {
                Some(policy) => selected.known.push(policy),
                None if key.name == STATIC_STRICT => selected.static_strict = Some(key),
                None => selected.unknown.push(key),
            }
        }
        selected
    }

    fn enforced(&self, action: Action) -> impl Iterator<Item = &'a Arc<Authorization>> {
        self.known.iter().copied().filter(move |p| p.action == action && !p.dry_run)
    }
}

/// The policies that govern a workload without naming it.
pub(super) fn sets<'a>(mesh: &'a Mesh, destination: &Workload) -> Vec<&'a PolicySet> {
    let namespace = mesh.policies_of_namespace(&destination.namespace);
    std::iter::once(mesh.global_policies()).chain(namespace).collect()
}

fn first_match<'a>(
    subject: &Subject<'_>,
    mut policies: impl Iterator<Item = &'a Arc<Authorization>>,
) -> Option<Hit<'a>> {
    policies.find_map(|policy| {
        let rule = Some(subject.matched_by(policy)?);
        Some(Hit { policy: &policy.key, rule })
    })
}

/// A policy that matches.
struct Hit<'a> {
    policy: &'a PolicyKey,
    /// None while only the policy's name is known.
    rule: Option<usize>,
}

impl From<Hit<'_>> for MatchedRule {
    fn from(hit: Hit<'_>) -> Self {
        Self { policy: hit.policy.clone(), rule: hit.rule }
    }
}
