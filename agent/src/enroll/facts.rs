//! What enrolment needs to know of Kubernetes objects, and nothing else of them.

use std::net::IpAddr;

use arcstr::ArcStr;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;

use super::rules::{self, Mode};
use super::{condition, probes};
use crate::mesh::PodUid;
use crate::mesh::local::Exclusions;
use crate::sys::cgroup::container::is_hash;

/// Label of pods and namespaces: `ambient` or `none`.
pub const MODE_LABEL: &str = "istio.io/dataplane-mode";
/// Annotation of a pod that is captured, for the control plane: `enabled`.
pub const REDIRECTION_ANNOTATION: &str = "ambient.istio.io/redirection";
/// Value of [`REDIRECTION_ANNOTATION`].
pub const REDIRECTION_ENABLED: &str = "enabled";
/// Annotation of a pod with a sidecar proxy.
pub const SIDECAR_ANNOTATION: &str = "sidecar.istio.io/status";
/// Annotation: ports never captured outbound, as `5432,6379`.
pub const EXCLUDE_PORTS_ANNOTATION: &str = "sotto.io/exclude-outbound-ports";
/// Annotation: ranges never captured outbound, as `192.0.2.0/24,2001:db8::/32`.
pub const EXCLUDE_CIDRS_ANNOTATION: &str = "sotto.io/exclude-outbound-cidrs";
/// Annotation: whether the mesh answers what the pod asks of resolvers. Istio's.
pub const NAMES_ANNOTATION: &str = "ambient.istio.io/dns-capture";
/// Label that KubeVirt gives to the pods that virtual machines run in.
const KUBEVIRT_LABEL: &str = "kubevirt.io";
/// Its value, of these alone.
const KUBEVIRT_VALUE: &str = "virt-launcher";
/// Annotation with the UID that the kubelet uses for a static pod.
const STATIC_UID_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Annotation of the object that mirrors a static pod: the same UID.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Kubernetes UID.
    pub uid: PodUid,
    /// The UID the kubelet and the runtime use, if it is another: that of a static pod.
    pub runtime_uid: Option<PodUid>,
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
    /// Service account.
    pub service_account: ArcStr,
    /// The pod's own label.
    pub mode: Option<Mode>,
    /// Shares the node's network.
    pub host_network: bool,
    /// Its runtime class keeps its network to itself.
    pub sandboxed: bool,
    /// Runs a virtual machine.
    pub machine: bool,
    /// Has a sidecar proxy.
    pub sidecar: bool,
    /// Has ended, and will not run again.
    pub terminal: bool,
    /// Addresses of its status; none before it runs.
    pub ips: Vec<IpAddr>,
    /// Carries the annotation that it is captured.
    pub annotated: bool,
    /// Whether it is, by the condition of its status; none if that says nothing.
    pub told: Option<bool>,
    /// What its annotations exclude.
    pub exclusions: Exclusions,
    /// What is wrong with its annotations.
    pub warnings: Vec<String>,
}

impl PodFacts {
    /// The facts of a pod; none if it lacks a UID, name or namespace, as no stored pod does.
    pub fn new(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let annotations = pod.annotations();
        let text = |key: &str| annotations.get(key).map_or("", String::as_str);
        let mut warnings = Vec::new();
        let exclusions = Exclusions {
            outbound_ports: rules::ports(text(EXCLUDE_PORTS_ANNOTATION), &mut warnings),
            outbound_cidrs: rules::cidrs(text(EXCLUDE_CIDRS_ANNOTATION), &mut warnings),
            probe_ports: spec.map_or_else(Vec::new, |spec| probes::ports(spec, &mut warnings)),
            names: rules::flag(text(NAMES_ANNOTATION), NAMES_ANNOTATION, &mut warnings),
        };
        let account = spec.and_then(|spec| spec.service_account_name.as_deref());
        let phase = status.and_then(|status| status.phase.as_deref());
        Some(Self {
            uid: PodUid(pod.metadata.uid.as_deref()?.into()),
            runtime_uid: static_uid(pod),
            namespace: pod.metadata.namespace.as_deref()?.into(),
            name: pod.metadata.name.as_deref()?.into(),
            service_account: account.filter(|name| !name.is_empty()).unwrap_or("default").into(),
            mode: pod.labels().get(MODE_LABEL).and_then(|value| Mode::parse(value)),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
            sandboxed: spec
                .and_then(|spec| spec.runtime_class_name.as_deref())
                .is_some_and(is_sandbox),
            machine: pod.labels().get(KUBEVIRT_LABEL).is_some_and(|value| value == KUBEVIRT_VALUE),
            sidecar: annotations.contains_key(SIDECAR_ANNOTATION),
            terminal: matches!(phase, Some("Succeeded" | "Failed")),
            ips: ips(pod),
            annotated: text(REDIRECTION_ANNOTATION) == REDIRECTION_ENABLED,
            told: condition::of(pod),
            exclusions,
            warnings,
        })
    }

    /// The pod, by its names.
    pub(super) fn of(&self) -> condition::Of {
        let (uid, namespace) = (self.uid.clone(), self.namespace.clone());
        condition::Of { uid, namespace, name: self.name.clone() }
    }

    /// Whether the runtime means this pod when it says `uid`.
    pub fn is(&self, uid: &PodUid) -> bool {
        self.uid == *uid || self.runtime_uid.as_ref() == Some(uid)
    }
}

/// Runtimes whose pods have a network stack of their own, in user space or in a virtual machine: their sockets are not the
/// node's kernel's. Classes are named after them; what a class really runs, only the runtime's configuration says.
const SANDBOXES: [&str; 4] = ["gvisor", "runsc", "kata", "firecracker"];

fn is_sandbox(class: &str) -> bool {
    let class = class.to_ascii_lowercase();
    SANDBOXES.iter().any(|name| class.contains(name))
}

/// The UID that the kubelet and the runtime use for a static pod. Anyone may write the annotation: it counts on the
/// mirror object alone, which its node owns, and only as the hash of a manifest, which no other pod's UID is.
fn static_uid(pod: &Pod) -> Option<PodUid> {
    let annotations = pod.annotations();
    let hash = annotations.get(STATIC_UID_ANNOTATION).filter(|hash| is_hash(hash))?;
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    let is_nodes = pod
        .owner_references()
        .iter()
        .any(|owner| owner.api_version == "v1" && owner.kind == "Node" && owner.name == node);
    let is_mirror = annotations.get(MIRROR_ANNOTATION) == Some(hash);
    (is_nodes && is_mirror).then(|| PodUid(hash.into()))
}

/// The addresses of a pod's status, canonical.
fn ips(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let parsed: Vec<_> = all.chain(status.pod_ip.as_deref()).filter_map(parse_ip).collect();
    let mut distinct = Vec::new();
    for ip in parsed {
        if !distinct.contains(&ip) {
            distinct.push(ip);
        }
    }
    distinct
}

fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Name.
    pub name: ArcStr,
    /// Its label.
    pub mode: Option<Mode>,
}

impl NamespaceFacts {
    /// The facts of a namespace.
    pub fn new(namespace: &Namespace) -> Self {
        Self {
            name: namespace.name_any().into(),
            mode: namespace.labels().get(MODE_LABEL).and_then(|value| Mode::parse(value)),
        }
    }
}
