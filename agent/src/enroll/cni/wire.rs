//! What plugin and agent say to each other: JSON over HTTP.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Largest request or answer.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// How long the agent takes at most for an ADD.
pub const ADD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(45);

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A pod is about to start.
    Add,
    /// A sandbox is taken down.
    Del,
    /// Is it as it should be?
    Check,
}

impl Verb {
    /// Where to post it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Add => "/cmdadd",
            Self::Del => "/cmddel",
            Self::Check => "/cmdcheck",
        }
    }
}

/// A pod's sandbox, as the runtime tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Request {
    /// Path of its network namespace; may be empty at DEL.
    #[serde(default)]
    pub netns: String,
    /// Pod name.
    pub pod_name: String,
    /// Kubernetes namespace.
    pub pod_namespace: String,
    /// Pod UID, where the runtime tells it.
    #[serde(rename = "PodUID", default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The sandbox.
    #[serde(rename = "ContainerID", default)]
    pub container_id: String,
    /// The pod's addresses; none at DEL.
    #[serde(rename = "IPs", default)]
    pub ips: Vec<IpConfig>,
}

/// An address of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpConfig {
    /// Index of its interface in the plugin's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// With its prefix length.
    pub address: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the pod is captured now.
    pub enrolled: bool,
    /// Why, or why not.
    pub reason: String,
}

/// How an answer counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Go on: the pod is captured, or is not to be.
    Proceed(Answer),
    /// It is to be captured, and that failed.
    Fail(String),
    /// It cannot be told now.
    Unsure(String),
}
