//! What the runtime passes: environment, and configuration on standard input.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::PrevResult;
use super::error::{CniError, Code};
use crate::enroll::cni::wire::IpConfig;
use crate::enroll::enrolled;

/// Versions of the CNI specification we speak: all there are.
pub const SUPPORTED_VERSIONS: [&str; 7] =
    ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Where the agent listens unless configured.
pub const DEFAULT_SOCKET: &str = "/run/sotto/cni.sock";
/// The agent's own namespace unless configured.
pub const DEFAULT_AGENT_NAMESPACE: &str = "istio-system";
/// Namespaces whose pods start without the agent unless configured.
const DEFAULT_EXEMPT_NAMESPACES: [&str; 1] = ["kube-system"];

/// The plugin's configuration; what else the file holds is for others.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conf {
    #[serde(default)]
    pub(super) cni_version: String,
    #[serde(default = "default_socket")]
    pub(super) agent_socket: PathBuf,
    #[serde(default = "default_agent_namespace")]
    pub(super) agent_namespace: String,
    #[serde(default = "default_exempt_namespaces")]
    pub(super) exempt_namespaces: Vec<String>,
    #[serde(default = "default_enrolled_list")]
    pub(super) enrolled_list: PathBuf,
    #[serde(default)]
    pub(super) prev_result: Option<PrevResult>,
}

impl Conf {
    pub(super) fn parse(stdin: &[u8]) -> Result<Self, CniError> {
        let conf: Self = serde_json::from_slice(stdin).map_err(|error| {
            CniError::new(Code::Decode, "failed to decode the configuration").because(&error)
        })?;
        for (key, path) in
            [("agentSocket", &conf.agent_socket), ("enrolledList", &conf.enrolled_list)]
        {
            if !path.is_absolute() {
                let message = format!("{key} {} is not an absolute path", path.display());
                return Err(CniError::new(Code::Config, message));
            }
        }
        if conf.prev_result.as_ref().is_some_and(|result| !result.is_object()) {
            return Err(CniError::new(Code::Config, "prevResult is not an object"));
        }
        Ok(conf)
    }

    /// No version stands for 0.1.0, as in libcni.
    pub(super) fn check_version(&self) -> Result<(), CniError> {
        if self.cni_version.is_empty() || SUPPORTED_VERSIONS.contains(&self.cni_version.as_str()) {
            return Ok(());
        }
        let message = format!(
            "cniVersion {:?} is not supported, only {}",
            self.cni_version,
            SUPPORTED_VERSIONS.join(", ")
        );
        Err(CniError::new(Code::Version, message))
    }

    /// Whether a namespace's pods start without the agent.
    pub(super) fn is_exempt(&self, namespace: &str) -> bool {
        self.agent_namespace == namespace
            || self.exempt_namespaces.iter().any(|exempt| exempt == namespace)
    }
}

fn default_socket() -> PathBuf {
    PathBuf::from(DEFAULT_SOCKET)
}

fn default_agent_namespace() -> String {
    DEFAULT_AGENT_NAMESPACE.to_owned()
}

fn default_enrolled_list() -> PathBuf {
    enrolled::file_in(Path::new(enrolled::DEFAULT_STATE_DIR))
}

fn default_exempt_namespaces() -> Vec<String> {
    DEFAULT_EXEMPT_NAMESPACES.map(str::to_owned).to_vec()
}

/// The addresses of a result's interfaces inside the sandbox. What is malformed is left out: the
/// agent then knows the address from the pod's status, or refuses.
pub(super) fn ips(result: &Value) -> Vec<IpConfig> {
    let inside = |ip: &IpConfig| {
        ip.interface.is_none_or(|index| {
            let sandbox = result["interfaces"][index]["sandbox"].as_str();
            sandbox.is_some_and(|sandbox| !sandbox.is_empty())
        })
    };
    let listed = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Before 0.3.0 a result had one address of each family, and no interfaces.
    let single = ["ip4", "ip6"].map(|family| &result[family]).into_iter().filter_map(|old| {
        let gateway = old["gateway"].as_str().and_then(|gateway| gateway.parse().ok());
        Some(IpConfig { interface: None, address: old["ip"].as_str()?.parse().ok()?, gateway })
    });
    listed.iter().filter_map(ip).filter(inside).chain(single).collect()
}

fn ip(value: &Value) -> Option<IpConfig> {
    Some(IpConfig {
        interface: value["interface"].as_u64().and_then(|index| usize::try_from(index).ok()),
        address: value["address"].as_str()?.parse().ok()?,
        gateway: value["gateway"].as_str().and_then(|gateway| gateway.parse().ok()),
    })
}

/// The environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Env {
    pub(super) command: String,
    pub(super) container_id: String,
    pub(super) netns: String,
    pub(super) interface: String,
    pub(super) args: String,
}

impl Env {
    pub(super) fn from_process() -> Self {
        let text = |name| {
            std::env::var_os(name)
                .map(|value| value.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        Self {
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            interface: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
        }
    }

    /// As the specification wants it for ADD and CHECK.
    pub(super) fn validate(&self, netns_needed: bool) -> Result<(), CniError> {
        let wrong = |name: &str, value: &str, why: &str| {
            Err(CniError::new(Code::Environment, format!("{name} {value:?} {why}")))
        };
        if !is_container_id(&self.container_id) {
            return wrong("CNI_CONTAINERID", &self.container_id, "is not a container ID");
        }
        if !is_interface(&self.interface) {
            return wrong("CNI_IFNAME", &self.interface, "is not an interface name");
        }
        if netns_needed && !self.netns.starts_with('/') {
            return wrong("CNI_NETNS", &self.netns, "is not an absolute path");
        }
        Ok(())
    }
}

fn is_container_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// As the kernel's `dev_valid_name`.
fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

/// The pod of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

impl Pod {
    /// The pod of `CNI_ARGS`; none if the sandbox is not Kubernetes's.
    pub(super) fn of(args: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut pairs = args.split(';').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, value)| *name == key && !value.is_empty()).map(|(_, v)| v.to_owned())
        };
        Some(Self {
            namespace: value("K8S_POD_NAMESPACE")?,
            name: value("K8S_POD_NAME")?,
            uid: value("K8S_POD_UID"),
        })
    }
}
