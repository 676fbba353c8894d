//! A policy in the dump.

use ipnet::IpNet;
use serde::Serialize;

use crate::mesh::policy::{
    Action, Authorization, Group, Match, PolicyScope, ServiceAccountMatch, StringMatch,
};

/// A policy of the mesh.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDump {
    /// Name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// `Global`, `Namespace` or `WorkloadSelector`.
    pub scope: &'static str,
    /// `Allow` or `Deny`.
    pub action: &'static str,
    /// Groups (any of) of rules (all of) of matches (any of).
    pub rules: Vec<Vec<Vec<MatchDump>>>,
    /// Logged, never enforced.
    pub dry_run: bool,
}

/// Conditions; empty ones are left out.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MatchDump {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<StringMatchDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_namespaces: Vec<StringMatchDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    principals: Vec<StringMatchDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_principals: Vec<StringMatchDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_accounts: Vec<ServiceAccountDump>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_service_accounts: Vec<ServiceAccountDump>,
}

#[derive(Debug, Clone, Serialize)]
enum StringMatchDump {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// An empty list, as istioctl expects it.
    Presence([(); 0]),
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceAccountDump {
    namespace: String,
    service_account: String,
}

impl From<&Authorization> for PolicyDump {
    fn from(policy: &Authorization) -> Self {
        Self {
            name: policy.key.name.to_string(),
            namespace: policy.key.namespace.to_string(),
            scope: match policy.scope {
                PolicyScope::Global => "Global",
                PolicyScope::Namespace => "Namespace",
                PolicyScope::WorkloadSelector => "WorkloadSelector",
            },
            action: match policy.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            },
            rules: policy.groups.iter().map(group).collect(),
            dry_run: policy.dry_run,
        }
    }
}

fn group(group: &Group) -> Vec<Vec<MatchDump>> {
    group.rules.iter().map(|rule| rule.matches.iter().map(one_match).collect()).collect()
}

fn one_match(from: &Match) -> MatchDump {
    MatchDump {
        namespaces: strings(&from.namespaces),
        not_namespaces: strings(&from.not_namespaces),
        principals: strings(&from.principals),
        not_principals: strings(&from.not_principals),
        source_ips: from.source_ips.clone(),
        not_source_ips: from.not_source_ips.clone(),
        destination_ips: from.destination_ips.clone(),
        not_destination_ips: from.not_destination_ips.clone(),
        destination_ports: from.destination_ports.clone(),
        not_destination_ports: from.not_destination_ports.clone(),
        service_accounts: accounts(&from.service_accounts),
        not_service_accounts: accounts(&from.not_service_accounts),
    }
}

fn strings(from: &[StringMatch]) -> Vec<StringMatchDump> {
    let one = |pattern: &StringMatch| match pattern {
        StringMatch::Exact(text) => StringMatchDump::Exact(text.to_string()),
        StringMatch::Prefix(text) => StringMatchDump::Prefix(text.to_string()),
        StringMatch::Suffix(text) => StringMatchDump::Suffix(text.to_string()),
        StringMatch::Presence => StringMatchDump::Presence([]),
    };
    from.iter().map(one).collect()
}

fn accounts(from: &[ServiceAccountMatch]) -> Vec<ServiceAccountDump> {
    let one = |account: &ServiceAccountMatch| ServiceAccountDump {
        namespace: account.namespace.to_string(),
        service_account: account.service_account.to_string(),
    };
    from.iter().map(one).collect()
}
