//! The policies a workload names, looked up once for as long as no policy changes.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::Policies;
use super::index::PolicyIndex;
use crate::mesh::policy::{Action, Authorization, PolicyKey};

/// The names of the policies that select a workload, in the control plane's order. Copies are one list.
///
/// It remembers what the names stood for when last asked; that is no part of its value.
#[derive(Clone, Default)]
pub struct PolicyList(Option<Arc<List>>);

struct List {
    keys: Box<[PolicyKey]>,
    last: ArcSwapOption<Selection>,
}

/// What the names of a workload stand for.
#[derive(Debug)]
pub struct Selection {
    state: Arc<()>,
    known: Vec<Arc<Authorization>>,
    deny: PolicyIndex<usize>,
    allow: PolicyIndex<usize>,
    unknown: Vec<PolicyKey>,
}

impl Selection {
    /// The policies that are here, in the order of the names.
    pub fn known(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.known.iter()
    }

    /// Enforced DENY policies.
    pub fn deny(&self) -> &PolicyIndex<usize> {
        &self.deny
    }

    /// Enforced ALLOW policies.
    pub fn allow(&self) -> &PolicyIndex<usize> {
        &self.allow
    }

    /// Names that stand for nothing.
    pub fn unknown(&self) -> &[PolicyKey] {
        &self.unknown
    }

    fn new(policies: &Policies, keys: &[PolicyKey]) -> Self {
        let mut selection = Self {
            state: policies.state.clone(),
            known: Vec::new(),
            deny: PolicyIndex::default(),
            allow: PolicyIndex::default(),
            unknown: Vec::new(),
        };
        for (rank, key) in keys.iter().enumerate() {
            let Some(policy) = policies.get(key) else {
                selection.unknown.push(key.clone());
                continue;
            };
            match (policy.dry_run, policy.action) {
                (true, _) => {}
                (false, Action::Deny) => selection.deny.insert(rank, policy.clone()),
                (false, Action::Allow) => selection.allow.insert(rank, policy.clone()),
            }
            selection.known.push(policy.clone());
        }
        selection
    }
}

impl Policies {
    /// What the names stand for; none if there are no names.
    pub(in crate::mesh) fn select(&self, list: &PolicyList) -> Option<Arc<Selection>> {
        let list = list.0.as_ref()?;
        let current = |last: &&Arc<Selection>| Arc::ptr_eq(&last.state, &self.state);
        if let Some(selection) = list.last.load().as_ref().filter(current) {
            return Some(selection.clone());
        }
        // Several threads may come here at once: all find the same.
        let selection = Arc::new(Selection::new(self, &list.keys));
        list.last.store(Some(selection.clone()));
        Some(selection)
    }
}

// === impl PolicyList ===

impl PolicyList {
    /// Whether nobody else has the list.
    pub fn is_unshared(&self) -> bool {
        self.0.as_ref().is_some_and(|list| Arc::strong_count(list) == 1)
    }
}

impl Deref for PolicyList {
    type Target = [PolicyKey];

    fn deref(&self) -> &[PolicyKey] {
        self.0.as_ref().map(|list| &*list.keys).unwrap_or_default()
    }
}

impl From<Vec<PolicyKey>> for PolicyList {
    fn from(keys: Vec<PolicyKey>) -> Self {
        let list = |keys: Vec<_>| List { keys: keys.into(), last: ArcSwapOption::empty() };
        Self((!keys.is_empty()).then(|| Arc::new(list(keys))))
    }
}

impl FromIterator<PolicyKey> for PolicyList {
    fn from_iter<I: IntoIterator<Item = PolicyKey>>(keys: I) -> Self {
        Vec::from_iter(keys).into()
    }
}

impl PartialEq for PolicyList {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for PolicyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
