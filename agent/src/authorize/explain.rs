//! A decision with every policy that was considered for it, for people who ask why.

use crate::mesh::policy::{Action, Authorization, PolicyScope};
use crate::mesh::{Mesh, PolicyKey, Workload};

use super::decide::Governing;
use super::matches::Subject;
use super::{Decision, Request, decide};

/// A decision and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What [`decide()`] says.
    pub decision: Decision,
    /// The policies that govern the destination: enforced DENY first, dry runs last.
    pub considered: Vec<Considered>,
}

/// One policy that governs the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// Which.
    pub policy: PolicyKey,
    /// Whom it governs.
    pub scope: PolicyScope,
    /// What it does; none while it is only referenced.
    pub action: Option<Action>,
    /// Never enforced.
    pub dry_run: bool,
    /// What came of it.
    pub finding: Finding,
}

/// What came of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It matches, by this rule (counted from 0) if its content is here.
    Match(Option<usize>),
    /// It does not match; why, a line for each rule.
    Differ(Vec<String>),
    /// The destination references it, and it has not arrived.
    Missing,
    /// It has arrived, and its content cannot be read.
    Unreadable,
}

/// Judges a request to `destination` as [`decide()`] does, and tells how.
pub fn explain(mesh: &Mesh, destination: &Workload, request: &Request) -> Explanation {
    let subject = Subject::new(request);
    let governing = Governing::of(mesh, destination);
    let mut considered = Vec::new();
    for set in governing.sets() {
        let all = set.deny().iter().chain(set.allow().iter()).chain(set.dry_run());
        considered.extend(all.map(|policy| look_at(&subject, policy)));
    }
    for policy in governing.selected.iter().flat_map(|selected| selected.known()) {
        // A policy may both govern the namespace and be named by the workload.
        if !considered.iter().any(|other: &Considered| other.policy == policy.key) {
            considered.push(look_at(&subject, policy));
        }
    }
    let strict = governing.static_strict().map(|policy| Considered {
        action: Some(Action::Deny),
        finding: match request.source {
            None => Finding::Match(None),
            Some(_) => Finding::Differ(vec!["it denies only what has no identity".to_owned()]),
        },
        ..unknown(mesh, policy)
    });
    considered.extend(strict);
    if request.source.is_some() {
        considered.extend(governing.of_plaintext(mesh).map(|policy| Considered {
            action: Some(Action::Deny),
            finding: Finding::Differ(vec!["it denies only what has no identity".to_owned()]),
            ..unknown(mesh, policy)
        }));
    }
    considered.extend(governing.unknown(mesh, request).map(|policy| unknown(mesh, policy)));
    considered.sort_by_key(|policy| (policy.dry_run, policy.action == Some(Action::Allow)));
    Explanation { decision: decide(mesh, destination, request), considered }
}

fn look_at(subject: &Subject<'_>, policy: &Authorization) -> Considered {
    Considered {
        policy: policy.key.clone(),
        scope: policy.scope,
        action: Some(policy.action),
        dry_run: policy.dry_run,
        finding: match subject.matched_by(policy) {
            Some(rule) => Finding::Match(Some(rule)),
            None => Finding::Differ(subject.why_not(policy)),
        },
    }
}

/// Without content; only workloads reference policies by name.
fn unknown(mesh: &Mesh, policy: &PolicyKey) -> Considered {
    let unreadable = mesh.unreadable_policy(policy);
    Considered {
        policy: policy.clone(),
        scope: unreadable.unwrap_or(PolicyScope::WorkloadSelector),
        action: None,
        dry_run: false,
        finding: unreadable.map_or(Finding::Missing, |_| Finding::Unreadable),
    }
}
