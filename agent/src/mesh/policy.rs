//! Authorization policies as a node enforces them.
//!
//! A policy matches if any group does; a group matches if all its rules do; a rule matches if any
//! of its matches does; a match holds if every non-empty field does. See Istio's `Authorization`.

use std::fmt;

use arcstr::ArcStr;
use ipnet::IpNet;

/// A policy's key, printed `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The part of a policy that matched, printed `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatchedRule {
    /// The policy.
    pub policy: PolicyKey,
    /// Its first group that matches, counted from 0; none while only the policy's name is known.
    pub rule: Option<usize>,
}

impl fmt::Display for MatchedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)
    }
}

impl From<PolicyKey> for MatchedRule {
    fn from(policy: PolicyKey) -> Self {
        Self { policy, rule: None }
    }
}

/// Which workloads a policy governs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyScope {
    /// Every workload.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that name it.
    WorkloadSelector,
}

/// What a matching policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Allow; with any ALLOW policy present, what none allows is denied.
    Allow,
    /// Deny; wins over every ALLOW.
    Deny,
}

/// A string pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(ArcStr),
    /// Starts with.
    Prefix(ArcStr),
    /// Ends with.
    Suffix(ArcStr),
    /// Not empty.
    Presence,
}

/// A service account of a namespace, whatever the trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Service account.
    pub service_account: ArcStr,
}

/// Conditions on one connection; an empty field says nothing, and a match with every field empty
/// matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// The source's namespace.
    pub namespaces: Vec<StringMatch>,
    /// None may match.
    pub not_namespaces: Vec<StringMatch>,
    /// The source's identity, without `spiffe://`.
    pub principals: Vec<StringMatch>,
    /// None may match.
    pub not_principals: Vec<StringMatch>,
    /// The address the connection came from.
    pub source_ips: Vec<IpNet>,
    /// None may match.
    pub not_source_ips: Vec<IpNet>,
    /// The pod's address.
    pub destination_ips: Vec<IpNet>,
    /// None may match.
    pub not_destination_ips: Vec<IpNet>,
    /// The app's port.
    pub destination_ports: Vec<u16>,
    /// None may match.
    pub not_destination_ports: Vec<u16>,
    /// The source's service account.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// None may match.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
}

impl Match {
    /// Whether it has no field, and so matches nothing.
    pub fn is_empty(&self) -> bool {
        let Self {
            namespaces,
            not_namespaces,
            principals,
            not_principals,
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
            destination_ports,
            not_destination_ports,
            service_accounts,
            not_service_accounts,
        } = self;
        namespaces.is_empty()
            && not_namespaces.is_empty()
            && principals.is_empty()
            && not_principals.is_empty()
            && source_ips.is_empty()
            && not_source_ips.is_empty()
            && destination_ips.is_empty()
            && not_destination_ips.is_empty()
            && destination_ports.is_empty()
            && not_destination_ports.is_empty()
            && service_accounts.is_empty()
            && not_service_accounts.is_empty()
    }
}

/// Matches of which one must hold; without any, it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// ORed.
    pub matches: Vec<Match>,
}

/// Rules that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// ANDed.
    pub rules: Vec<Rule>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Namespace and name.
    pub key: PolicyKey,
    /// Whom it governs.
    pub scope: PolicyScope,
    /// What it does.
    pub action: Action,
    /// ORed; none matches nothing.
    pub groups: Vec<Group>,
    /// Logged and counted, never enforced.
    pub dry_run: bool,
}
