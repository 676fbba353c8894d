//! What the control plane counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ends::Ends;

/// Handles to every metric. Clones share the values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Nodes connected.
    pub nodes: Gauge,
    /// Certificates issued.
    pub issued: Counter,
    /// Certificate requests refused.
    pub refused: Counter,
    /// Connections that ended before their caller proved who it is.
    pub dropped: Counter,
    /// Notices of Kubernetes watches that failed and were retried.
    pub watch_errors: Family<OfKind, Counter>,
    /// 1 while nothing can be signed with what the root's Secret holds.
    pub root_refused: Gauge,
    /// Namespaces whose ConfigMap of the root somebody else keeps.
    pub root_of_others: Gauge,
    /// When certificates end.
    pub ends: Ends,
    pushes: Family<OfKind, Counter>,
    pushed_resources: Family<OfKind, Counter>,
    nacks: Family<OfKind, Counter>,
    resources: Family<OfKind, Gauge>,
}

/// A label: the kind of resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    kind: &'static str,
}

impl Metrics {
    /// Metrics, and the registry that prints them.
    pub fn new() -> (Self, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::with_prefix("sotto_control_plane");
        registry.register("nodes", "Nodes connected", metrics.nodes.clone());
        registry.register("certificates_issued", "Certificates issued", metrics.issued.clone());
        registry.register(
            "certificates_refused",
            "Certificate requests refused",
            metrics.refused.clone(),
        );
        registry.register(
            "connections_dropped",
            "Connections ended by us before their caller proved who it is",
            metrics.dropped.clone(),
        );
        registry.register(
            "watch_errors",
            "Kubernetes watches that failed and were retried",
            metrics.watch_errors.clone(),
        );
        registry.register(
            "root_refused",
            "Whether nothing can be signed with what the root's Secret holds; the last good root stays in use",
            metrics.root_refused.clone(),
        );
        registry.register(
            "root_of_others",
            "Namespaces whose ConfigMap istio-ca-root-cert another control plane keeps",
            metrics.root_of_others.clone(),
        );
        registry.register_collector(Box::new(metrics.ends.clone()));
        registry.register("pushes", "Responses sent to nodes", metrics.pushes.clone());
        registry.register(
            "pushed_resources",
            "Resources in those responses",
            metrics.pushed_resources.clone(),
        );
        registry.register("nacks", "Responses that nodes rejected", metrics.nacks.clone());
        registry.register("resources", "Resources there are", metrics.resources.clone());
        (metrics, registry)
    }

    /// A response with this many resources was sent.
    pub fn pushed(&self, kind: &'static str, resources: usize) {
        let of = OfKind { kind };
        self.pushes.get_or_create(&of).inc();
        self.pushed_resources.get_or_create(&of).inc_by(resources as u64);
    }

    /// A node rejected a response.
    pub fn nacked(&self, kind: &'static str) {
        self.nacks.get_or_create(&OfKind { kind }).inc();
    }

    /// A watch failed.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&OfKind { kind }).inc();
    }

    /// There are this many resources.
    pub fn present(&self, kind: &'static str, resources: usize) {
        let count = i64::try_from(resources).unwrap_or(i64::MAX);
        self.resources.get_or_create(&OfKind { kind }).set(count);
    }
}
