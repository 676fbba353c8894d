//! Policies, indexed by whom they govern and by what they ask for, so that a judgement reads only
//! those that may apply.
//!
//! Everything is on persistent maps: a change of one policy touches its own entries alone, however
//! many there are.

mod index;
mod keys;
mod selection;

use std::sync::Arc;

use arcstr::ArcStr;
use imbl::{HashMap, OrdMap, OrdSet};

use super::policy::{Action, Authorization, PolicyKey, PolicyScope};

pub use index::PolicyIndex;
pub use keys::Probe;
pub use selection::{PolicyList, Selection};

#[cfg(test)]
mod tests;

/// The policies of one scope, in the order of their keys.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    deny: PolicyIndex<PolicyKey>,
    allow: PolicyIndex<PolicyKey>,
    dry_run: OrdMap<PolicyKey, Arc<Authorization>>,
    unreadable: OrdSet<PolicyKey>,
}

impl PolicySet {
    /// Enforced DENY policies.
    pub fn deny(&self) -> &PolicyIndex<PolicyKey> {
        &self.deny
    }

    /// Enforced ALLOW policies.
    pub fn allow(&self) -> &PolicyIndex<PolicyKey> {
        &self.allow
    }

    /// Policies that are only reported.
    pub fn dry_run(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.dry_run.values()
    }

    /// Policies that are here and say what we cannot read.
    pub fn unreadable(&self) -> impl Iterator<Item = &PolicyKey> {
        self.unreadable.iter()
    }

    fn is_empty(&self) -> bool {
        self.deny.is_empty()
            && self.allow.is_empty()
            && self.dry_run.is_empty()
            && self.unreadable.is_empty()
    }

    fn insert(&mut self, policy: &Arc<Authorization>) {
        let key = policy.key.clone();
        match (policy.dry_run, policy.action) {
            (true, _) => drop(self.dry_run.insert(key, policy.clone())),
            (false, Action::Deny) => self.deny.insert(key, policy.clone()),
            (false, Action::Allow) => self.allow.insert(key, policy.clone()),
        }
    }

    fn remove(&mut self, policy: &Authorization) {
        match (policy.dry_run, policy.action) {
            (true, _) => drop(self.dry_run.remove(&policy.key)),
            (false, Action::Deny) => self.deny.remove(&policy.key),
            (false, Action::Allow) => self.allow.remove(&policy.key),
        }
    }
}

/// All policies.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    by_key: HashMap<PolicyKey, Arc<Authorization>>,
    by_namespace: HashMap<ArcStr, PolicySet>,
    global: PolicySet,
    unreadable: HashMap<PolicyKey, PolicyScope>,
    /// Another one after every change: who holds it knows that nothing changed.
    state: Arc<()>,
}

impl Policies {
    pub(super) fn get(&self, key: &PolicyKey) -> Option<&Arc<Authorization>> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Authorization>> {
        self.by_key.values()
    }

    pub(super) fn of_namespace(&self, namespace: &ArcStr) -> Option<&PolicySet> {
        self.by_namespace.get(namespace)
    }

    pub(super) fn global(&self) -> &PolicySet {
        &self.global
    }

    pub(super) fn unreadable(&self, key: &PolicyKey) -> Option<PolicyScope> {
        self.unreadable.get(key).copied()
    }

    pub(super) fn all_unreadable(&self) -> impl Iterator<Item = (&PolicyKey, PolicyScope)> {
        self.unreadable.iter().map(|(key, scope)| (key, *scope))
    }

    /// Adds or replaces; tells whether anything changed.
    pub(super) fn insert(&mut self, policy: Arc<Authorization>) -> bool {
        if self.by_key.get(&policy.key) == Some(&policy) {
            return false;
        }
        self.remove(&policy.key);
        self.within(policy.scope, &policy.key.namespace, |set| set.insert(&policy));
        self.by_key.insert(policy.key.clone(), policy);
        self.state = Arc::default();
        true
    }

    /// Notes a policy whose content cannot be read; a version that could be stays in force.
    pub(super) fn insert_unreadable(&mut self, key: PolicyKey, scope: PolicyScope) -> bool {
        if self.by_key.contains_key(&key) || self.unreadable.get(&key) == Some(&scope) {
            return false;
        }
        self.remove(&key);
        self.within(scope, &key.namespace, |set| drop(set.unreadable.insert(key.clone())));
        self.unreadable.insert(key, scope);
        self.state = Arc::default();
        true
    }

    /// Removes; tells whether it was there.
    pub(super) fn remove(&mut self, key: &PolicyKey) -> bool {
        if let Some(policy) = self.by_key.remove(key) {
            self.within(policy.scope, &key.namespace, |set| set.remove(&policy));
        } else if let Some(scope) = self.unreadable.remove(key) {
            self.within(scope, &key.namespace, |set| drop(set.unreadable.remove(key)));
        } else {
            return false;
        }
        self.state = Arc::default();
        true
    }

    /// Changes the set of a scope; there is none for policies found by the workloads that name them.
    fn within(
        &mut self,
        scope: PolicyScope,
        namespace: &ArcStr,
        change: impl FnOnce(&mut PolicySet),
    ) {
        match scope {
            PolicyScope::Global => change(&mut self.global),
            PolicyScope::Namespace => {
                let set = self.by_namespace.entry(namespace.clone()).or_default();
                change(set);
                if set.is_empty() {
                    self.by_namespace.remove(namespace);
                }
            }
            PolicyScope::WorkloadSelector => {}
        }
    }
}
