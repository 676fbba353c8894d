//! Policies, indexed by whom they govern, so that a judgement reads only those that may apply.

use std::sync::Arc;

use arcstr::ArcStr;
use imbl::{HashMap, OrdMap};

use super::policy::{Action, Authorization, PolicyKey, PolicyScope};

/// The policies of one scope, in the order of their keys.
#[derive(Debug, Clone, Default)]
pub struct PolicySet {
    deny: OrdMap<PolicyKey, Arc<Authorization>>,
    allow: OrdMap<PolicyKey, Arc<Authorization>>,
    dry_run: OrdMap<PolicyKey, Arc<Authorization>>,
}

impl PolicySet {
    /// Enforced DENY policies.
    pub fn deny(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.deny.values()
    }

    /// Enforced ALLOW policies.
    pub fn allow(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.allow.values()
    }

    /// Policies that are only reported.
    pub fn dry_run(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.dry_run.values()
    }

    fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty() && self.dry_run.is_empty()
    }

    fn part(&mut self, policy: &Authorization) -> &mut OrdMap<PolicyKey, Arc<Authorization>> {
        match policy {
            Authorization { dry_run: true, .. } => &mut self.dry_run,
            Authorization { action: Action::Deny, .. } => &mut self.deny,
            Authorization { action: Action::Allow, .. } => &mut self.allow,
        }
    }

    fn insert(&mut self, policy: &Arc<Authorization>) {
        self.part(policy).insert(policy.key.clone(), policy.clone());
    }

    fn remove(&mut self, policy: &Authorization) {
        self.part(policy).remove(&policy.key);
    }
}

/// All policies.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    by_key: HashMap<PolicyKey, Arc<Authorization>>,
    by_namespace: HashMap<ArcStr, PolicySet>,
    global: PolicySet,
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

    /// Adds or replaces; tells whether anything changed.
    pub(super) fn insert(&mut self, policy: Arc<Authorization>) -> bool {
        if self.by_key.get(&policy.key) == Some(&policy) {
            return false;
        }
        self.remove(&policy.key);
        match policy.scope {
            PolicyScope::Global => self.global.insert(&policy),
            PolicyScope::Namespace => {
                self.by_namespace.entry(policy.key.namespace.clone()).or_default().insert(&policy);
            }
            // Found by the workloads that name it.
            PolicyScope::WorkloadSelector => {}
        }
        self.by_key.insert(policy.key.clone(), policy);
        true
    }

    /// Removes; tells whether it was there.
    pub(super) fn remove(&mut self, key: &PolicyKey) -> bool {
        let Some(policy) = self.by_key.remove(key) else { return false };
        match policy.scope {
            PolicyScope::Global => self.global.remove(&policy),
            PolicyScope::Namespace => {
                if let Some(set) = self.by_namespace.get_mut(&key.namespace) {
                    set.remove(&policy);
                    if set.is_empty() {
                        self.by_namespace.remove(&key.namespace);
                    }
                }
            }
            PolicyScope::WorkloadSelector => {}
        }
        true
    }
}
