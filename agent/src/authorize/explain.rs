//! A decision with every policy that was considered for it, for people who ask why.

use crate::mesh::policy::{Action, Authorization, PolicyScope};
use crate::mesh::{Mesh, PolicyKey, Workload};

use super::decide::{Selected, sets};
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
}

/// Judges a request to `destination` as [`decide()`] does, and tells how.
pub fn explain(mesh: &Mesh, destination: &Workload, request: &Request) -> Explanation {
    let subject = Subject::new(request);
    let selected = Selected::of(mesh, destination);
    let mut considered = Vec::new();
    for set in sets(mesh, destination) {
        let all = set.deny().chain(set.allow()).chain(set.dry_run());
        considered.extend(all.map(|policy| look_at(&subject, policy)));
    }
    for policy in &selected.known {
        // A policy may both govern the namespace and be named by the workload.
        if !considered.iter().any(|other: &Considered| other.policy == policy.key) {
            considered.push(look_at(&subject, policy));
        }
    }
    let strict = selected.static_strict.map(|policy| Considered {
        action: Some(Action::Deny),
        finding: match request.source {
            None => Finding::Match(None),
            Some(_) => Finding::Differ(vec!["it denies only what has no identity".to_owned()]),
        },
        ..missing(policy)
    });
    considered.extend(strict);
    considered.extend(selected.unknown.iter().map(|policy| missing(policy)));
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

/// Only workloads reference policies by name.
fn missing(policy: &PolicyKey) -> Considered {
    Considered {
        policy: policy.clone(),
        scope: PolicyScope::WorkloadSelector,
        action: None,
        dry_run: false,
        finding: Finding::Missing,
    }
}
