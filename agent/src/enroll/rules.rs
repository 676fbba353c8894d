//! Which pods are to be captured, and as what: pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::PodFacts;
use crate::mesh::local::LocalPod;
use crate::mesh::spiffe::{Account, SpiffeIdError};

/// Value of the label `istio.io/dataplane-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the mesh.
    Ambient,
    /// Out of it.
    None,
}

impl Mode {
    /// The mode a label's value asks for; any other value asks for nothing, as in Istio.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "ambient" => Some(Self::Ambient),
            "none" => Some(Self::None),
            _ => None,
        }
    }
}

/// Whether a pod is to be captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Enroll,
    /// It is not.
    Leave(Reason),
}

/// Why a pod is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It shares the node's network: capturing it would capture the node.
    HostNetwork,
    /// Its runtime keeps its network from the node's kernel.
    Sandboxed,
    /// It is a virtual machine's, which makes its connections itself.
    Machine,
    /// It has a sidecar proxy.
    Sidecar,
    /// It has ended.
    Terminal,
    /// Its label says `none`.
    OptedOut,
    /// Neither it nor its namespace asks for it.
    NotSelected,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostNetwork => "it uses the host network",
            Self::Sandboxed => {
                "its runtime class has a network stack of its own (gVisor, Kata), which the node's kernel does not see into"
            }
            Self::Machine => {
                "it runs a virtual machine (KubeVirt), whose connections are not made in the pod but pass through it"
            }
            Self::Sidecar => "it has a sidecar",
            Self::Terminal => "it has ended",
            Self::OptedOut => "its label istio.io/dataplane-mode is none",
            Self::NotSelected => {
                "neither it nor its namespace is labelled istio.io/dataplane-mode=ambient"
            }
        })
    }
}

/// Whether `pod` is to be captured, in a namespace labelled `namespace`.
pub fn judge(pod: &PodFacts, namespace: Option<Mode>) -> Verdict {
    if pod.host_network {
        return Verdict::Leave(Reason::HostNetwork);
    }
    if pod.sandboxed {
        return Verdict::Leave(Reason::Sandboxed);
    }
    if pod.machine {
        return Verdict::Leave(Reason::Machine);
    }
    if pod.sidecar {
        return Verdict::Leave(Reason::Sidecar);
    }
    if pod.terminal {
        return Verdict::Leave(Reason::Terminal);
    }
    match (pod.mode, namespace) {
        (Some(Mode::None), _) => Verdict::Leave(Reason::OptedOut),
        (Some(Mode::Ambient), _) | (None, Some(Mode::Ambient)) => Verdict::Enroll,
        (None, _) => Verdict::Leave(Reason::NotSelected),
    }
}

/// Why a pod that is asked for can never be captured, if so.
pub fn out_of_reach(pod: &PodFacts, namespace: Option<Mode>) -> Option<Reason> {
    let reachable =
        PodFacts { host_network: false, sandboxed: false, machine: false, ..pod.clone() };
    match judge(pod, namespace) {
        Verdict::Leave(reason @ (Reason::HostNetwork | Reason::Sandboxed | Reason::Machine)) => {
            (judge(&reachable, namespace) == Verdict::Enroll).then_some(reason)
        }
        _ => None,
    }
}

/// The pod with the addresses `ips`: the first of each family counts.
///
/// # Errors
/// Its namespace or service account cannot be part of an identity.
pub fn local_pod(pod: &PodFacts, ips: &[IpAddr]) -> Result<LocalPod, SpiffeIdError> {
    let canonical = || ips.iter().map(IpAddr::to_canonical);
    Ok(LocalPod {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        account: Account::new(pod.namespace.clone(), pod.service_account.clone())?,
        ip4: canonical().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        ip6: canonical().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
        exclusions: pod.exclusions.clone(),
    })
}

/// The ports of an annotation. What is not a port excludes nothing, and is warned of.
pub(super) fn ports(text: &str, warnings: &mut Vec<String>) -> Vec<u16> {
    let parse = |item: &str| item.parse::<u16>().ok().filter(|port| *port != 0);
    let mut ports = items(text, super::facts::EXCLUDE_PORTS_ANNOTATION, "a port", parse, warnings);
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The ranges of an annotation, bare addresses included. What is neither excludes nothing, and is warned of.
pub(super) fn cidrs(text: &str, warnings: &mut Vec<String>) -> Vec<IpNet> {
    let parse = |item: &str| match item.parse::<IpNet>() {
        Ok(range) => Some(range.trunc()),
        Err(_) => item.parse::<IpAddr>().ok().map(|ip| IpNet::from(ip.to_canonical())),
    };
    let mut ranges = items(text, super::facts::EXCLUDE_CIDRS_ANNOTATION, "a CIDR", parse, warnings);
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// What an annotation switches on or off, in Go's words as Istio reads it. Anything else is warned of, and says nothing.
pub(super) fn flag(text: &str, annotation: &str, warnings: &mut Vec<String>) -> Option<bool> {
    match text {
        "" => None,
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => {
            warnings.push(format!("annotation {annotation}: {text:?} is neither true nor false"));
            None
        }
    }
}

fn items<T>(
    text: &str,
    annotation: &str,
    kind: &str,
    parse: impl Fn(&str) -> Option<T>,
    warnings: &mut Vec<String>,
) -> Vec<T> {
    let mut found = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match parse(item) {
            Some(value) => found.push(value),
            None => warnings.push(format!(
                "annotation {annotation}: {item:?} is not {kind}, so it is not excluded"
            )),
        }
    }
    found
}

#[cfg(test)]
mod tests;
