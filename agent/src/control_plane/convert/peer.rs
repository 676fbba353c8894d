//! PeerAuthentication: the effective mode of a workload, and the policies that enforce it.
//!
//! A mode is decided by at most one policy of each level, the oldest, ties by name:
//!
//! 1. mesh: in the root namespace, without a selector;
//! 2. namespace: in the workload's namespace, without a selector (an empty one is none);
//! 3. workload: in the workload's namespace, with a selector that matches; if there is none,
//!    **in the root namespace, with a selector that matches**. Istio drops the latter kind; here
//!    they apply to matching workloads of every namespace, below the namespace's own.
//!
//! A policy whose selector cannot be read counts wherever it may belong: at its namespace's level,
//! and as one that selects each workload.
//!
//! A narrower level wins unless its mode is `UNSET`. Modes by port count at the workload level
//! only. `DISABLE` is `PERMISSIVE`, under a STRICT parent with `UNSET` mode too.
//!
//! Nodes never see the resource. A workload that is STRICT on every port names the one static
//! policy; a mix of ports is a policy of its own, made per PeerAuthentication:
//! `converted_peer_authentication_<name>` in its namespace. A root policy of mode `UNSET` inherits
//! differently from namespace to namespace, so it has two, the one for STRICT parents with the
//! suffix `_strict` (no Kubernetes name holds an underscore).

use std::collections::BTreeMap;

use sotto_proto::security::{
    Action, Authorization, Group, Match, Presence, Rules, Scope, string_match::MatchType,
};

use super::{CONVERTED_PREFIX, STATIC_STRICT, matching};
use crate::control_plane::model::{
    Labels, Mode, ObjectKey, PeerAuthentication, Selector, of_namespace, selects,
};

/// Every PeerAuthentication of the cluster, by namespace and name.
pub type Policies = BTreeMap<ObjectKey, PeerAuthentication>;

/// Names of the policies that make a workload's effective mode, to put in its
/// `authorization_policies`; none means PERMISSIVE on every port.
pub fn references(
    policies: &Policies,
    root: &str,
    namespace: &str,
    labels: &Labels,
) -> Option<ObjectKey> {
    let parent = parent_is_strict(policies, root, namespace);
    let Some(policy) = governing(policies, root, namespace, labels) else {
        return parent.then(|| static_strict_key(root));
    };
    match enforcement(policy, parent) {
        Enforcement::None => None,
        Enforcement::Strict => Some(static_strict_key(root)),
        Enforcement::StrictExcept(_) | Enforcement::StrictOn(_) => {
            Some(converted_key(policy, root, parent))
        }
    }
}

/// Every `Authorization` that PeerAuthentications make, sorted by name.
pub fn authorizations(policies: &Policies, root: &str) -> Vec<Authorization> {
    let mut made = Vec::new();
    if !policies.is_empty() {
        made.push(static_strict(root));
    }
    for policy in policies.values().filter(|p| matches!(p.selector, Selector::Labels(_))) {
        let in_root = policy.key.namespace == *root;
        let parents: &[bool] = match (in_root && policy.mode == Mode::Unset, in_root) {
            (true, _) => &[false, true],
            (false, true) => &[false],
            (false, false) => &[parent_is_strict(policies, root, &policy.key.namespace)],
        };
        for &parent in parents {
            let groups = match enforcement(policy, parent) {
                Enforcement::None | Enforcement::Strict => continue,
                Enforcement::StrictExcept(ports) => vec![except(&ports)],
                Enforcement::StrictOn(ports) => ports.iter().map(|port| only(*port)).collect(),
            };
            made.push(deny(converted_key(policy, root, parent), groups));
        }
    }
    made.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    made
}

/// The policy that denies whatever has no identity.
pub fn static_strict(root: &str) -> Authorization {
    let rule = Rules { matches: vec![no_identity()] };
    deny(static_strict_key(root), vec![Group { rules: vec![rule] }])
}

/// What must be enforced on the workloads of one policy.
#[derive(Debug, PartialEq, Eq)]
enum Enforcement {
    None,
    Strict,
    StrictExcept(Vec<u16>),
    StrictOn(Vec<u16>),
}

fn enforcement(policy: &PeerAuthentication, parent_strict: bool) -> Enforcement {
    let strict = inherit(policy.mode, parent_strict);
    let ports_of = |wanted: fn(Mode) -> bool| -> Vec<u16> {
        policy.ports.iter().filter(|(_, mode)| wanted(**mode)).map(|(port, _)| *port).collect()
    };
    if strict {
        let exceptions = ports_of(|mode| matches!(mode, Mode::Permissive | Mode::Disable));
        if exceptions.is_empty() {
            Enforcement::Strict
        } else {
            Enforcement::StrictExcept(exceptions)
        }
    } else {
        let strict_ports = ports_of(|mode| mode == Mode::Strict);
        if strict_ports.is_empty() {
            Enforcement::None
        } else {
            Enforcement::StrictOn(strict_ports)
        }
    }
}

fn inherit(mode: Mode, parent_strict: bool) -> bool {
    match mode {
        Mode::Unset => parent_strict,
        Mode::Strict => true,
        Mode::Permissive | Mode::Disable => false,
    }
}

/// Whether mesh and namespace, without any workload policy, make `namespace` STRICT.
fn parent_is_strict(policies: &Policies, root: &str, namespace: &str) -> bool {
    let level = |namespace: &str| {
        let all = |p: &&PeerAuthentication| !matches!(p.selector, Selector::Labels(_));
        oldest(of_namespace(policies, namespace).filter(all)).map_or(Mode::Unset, |p| p.mode)
    };
    let mesh = inherit(level(root), false);
    if namespace == root { mesh } else { inherit(level(namespace), mesh) }
}

/// The workload-level policy of a workload.
fn governing<'p>(
    policies: &'p Policies,
    root: &str,
    namespace: &str,
    labels: &Labels,
) -> Option<&'p PeerAuthentication> {
    let matching = |namespace: &str| {
        oldest(of_namespace(policies, namespace).filter(|policy| match &policy.selector {
            Selector::All => false,
            Selector::Labels(wanted) => selects(wanted, labels),
            Selector::Unreadable => true,
        }))
    };
    matching(namespace).or_else(|| if namespace == root { None } else { matching(root) })
}

fn oldest<'p>(
    policies: impl Iterator<Item = &'p PeerAuthentication>,
) -> Option<&'p PeerAuthentication> {
    policies.min_by(|a, b| (a.created, &a.key.name).cmp(&(b.created, &b.key.name)))
}

fn static_strict_key(root: &str) -> ObjectKey {
    ObjectKey::new(root, STATIC_STRICT)
}

fn converted_key(policy: &PeerAuthentication, root: &str, parent_strict: bool) -> ObjectKey {
    let ObjectKey { namespace, name } = &policy.key;
    let inherits = *namespace == *root && policy.mode == Mode::Unset;
    let suffix = if inherits && parent_strict { "_strict" } else { "" };
    ObjectKey::new(namespace, &format!("{CONVERTED_PREFIX}{name}{suffix}"))
}

fn no_identity() -> Match {
    Match { not_principals: vec![matching(MatchType::Presence(Presence {}))], ..Match::default() }
}

/// Denies what has no identity, on every port but these: rules are ANDed.
fn except(ports: &[u16]) -> Group {
    let port_is_not =
        |port: &u16| Match { not_destination_ports: vec![u32::from(*port)], ..Match::default() };
    let matches = std::iter::once(no_identity()).chain(ports.iter().map(port_is_not));
    Group { rules: matches.map(|m| Rules { matches: vec![m] }).collect() }
}

/// Denies what has no identity on one port.
fn only(port: u16) -> Group {
    let wanted = Match { destination_ports: vec![u32::from(port)], ..no_identity() };
    Group { rules: vec![Rules { matches: vec![wanted] }] }
}

fn deny(key: ObjectKey, groups: Vec<Group>) -> Authorization {
    Authorization {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        groups,
        ..Authorization::default()
    }
}

#[cfg(test)]
mod tests;
