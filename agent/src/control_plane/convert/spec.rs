//! The security resources as users write them, parsed strictly: an unknown mode or field is an
//! error, never a default. A condition we do not know must not make a policy wider.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::control_plane::model::{Labels, Mode};

/// `spec` of a PeerAuthentication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PeerAuthenticationSpec {
    /// Whom it governs.
    pub selector: Option<WorkloadSelector>,
    /// For every port.
    pub mtls: Option<MutualTls>,
    /// By workload port.
    pub port_level_mtls: Option<BTreeMap<u16, MutualTls>>,
}

/// Labels of workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadSelector {
    /// Each must be there.
    pub match_labels: Option<Labels>,
}

/// A mode, as `mtls: {mode: STRICT}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MutualTls {
    /// None is `UNSET`.
    pub mode: Option<ModeName>,
}

/// A mode's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names of the modes")]
pub enum ModeName {
    Unset,
    Disable,
    Permissive,
    Strict,
}

impl From<MutualTls> for Mode {
    fn from(mtls: MutualTls) -> Self {
        match mtls.mode {
            None | Some(ModeName::Unset) => Self::Unset,
            Some(ModeName::Disable) => Self::Disable,
            Some(ModeName::Permissive) => Self::Permissive,
            Some(ModeName::Strict) => Self::Strict,
        }
    }
}

/// `spec` of an AuthorizationPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationPolicySpec {
    /// Whom it governs.
    pub selector: Option<WorkloadSelector>,
    /// A waypoint or service it is for, instead of workloads.
    pub target_ref: Option<serde_json::Value>,
    /// Several of them.
    pub target_refs: Option<Vec<serde_json::Value>>,
    /// None matches nothing.
    pub rules: Option<Vec<Rule>>,
    /// None is `ALLOW`.
    pub action: Option<ActionName>,
    /// Who decides, for `CUSTOM`.
    pub provider: Option<serde_json::Value>,
}

impl AuthorizationPolicySpec {
    /// Whether it is for waypoints or services, not for workloads.
    pub fn targeted(&self) -> bool {
        self.target_ref.is_some() || self.target_refs.as_ref().is_some_and(|refs| !refs.is_empty())
    }
}

/// An action's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names of the actions")]
pub enum ActionName {
    Allow,
    Deny,
    Audit,
    Custom,
}

/// One rule: its three parts are ANDed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// ORed.
    pub from: Option<Vec<FromSource>>,
    /// ORed.
    pub to: Option<Vec<ToOperation>>,
    /// ANDed.
    pub when: Option<Vec<Condition>>,
}

/// Wraps a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FromSource {
    /// The source.
    pub source: Option<Source>,
}

/// Who connects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "each field is the condition of the same name")]
pub struct Source {
    pub principals: Option<Vec<String>>,
    pub not_principals: Option<Vec<String>>,
    pub request_principals: Option<Vec<String>>,
    pub not_request_principals: Option<Vec<String>>,
    pub namespaces: Option<Vec<String>>,
    pub not_namespaces: Option<Vec<String>>,
    pub service_accounts: Option<Vec<String>>,
    pub not_service_accounts: Option<Vec<String>>,
    pub ip_blocks: Option<Vec<String>>,
    pub not_ip_blocks: Option<Vec<String>>,
    pub remote_ip_blocks: Option<Vec<String>>,
    pub not_remote_ip_blocks: Option<Vec<String>>,
    pub trust_domains: Option<Vec<String>>,
    pub not_trust_domains: Option<Vec<String>>,
}

/// Wraps an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToOperation {
    /// The operation.
    pub operation: Option<Operation>,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "each field is the condition of the same name")]
pub struct Operation {
    pub hosts: Option<Vec<String>>,
    pub not_hosts: Option<Vec<String>>,
    pub ports: Option<Vec<String>>,
    pub not_ports: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub not_methods: Option<Vec<String>>,
    pub paths: Option<Vec<String>>,
    pub not_paths: Option<Vec<String>>,
}

/// A condition on an attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// The attribute's name.
    pub key: String,
    /// One must match.
    #[serde(default)]
    pub values: Option<Vec<String>>,
    /// None may match.
    #[serde(default)]
    pub not_values: Option<Vec<String>>,
}
