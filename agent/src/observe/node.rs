//! The node's own state as metrics, asked for at each scrape.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;

use super::log::LostLines;
use super::metrics::{NodeSource, Pairs, counter, plain_counter};
use super::roots::{self, RootStats};

/// The state of pods that the mesh has.
const CAPTURED: &str = "captured";

/// The node's state; whoever wires the parts together fills it.
#[derive(Debug, Clone, Default)]
pub struct NodeStats {
    /// What the kernel counted: `("direct", n)` connections left alone, and so on; each becomes
    /// `sotto_connections_<name>_total`.
    pub kernel_connections: Vec<(&'static str, u64)>,
    /// Certificates held.
    pub certificates: Vec<CertificateStats>,
    /// Roots that they trust.
    pub roots: Vec<RootStats>,
    /// Pods by the state of their enrolment.
    pub pods: Vec<(&'static str, u64)>,
    /// How often a pod's capture began, and how often it ended.
    pub proxies: (u64, u64),
    /// Whether the kubelet's probes are exempt, or why not: one of all states is 1.
    pub kubelet: Vec<(&'static str, u64)>,
    /// The connection to the control plane.
    pub xds: XdsStats,
    /// HBONE tunnels open now: `("outbound", n)`, `("inbound", n)`.
    pub tunnels: Vec<(&'static str, u64)>,
    /// What the node's pods have of what they may have.
    pub limits: LimitStats,
    /// What certificates were taken back.
    pub revocations: RevocationStats,
    /// Log lines that are not in the log.
    pub log_lines: LostLines,
}

/// Lists of certificates that were taken back.
#[derive(Debug, Clone, Copy, Default)]
pub struct RevocationStats {
    /// Lists read.
    pub lists: u64,
    /// Whether a file cannot be read now.
    pub failing: bool,
    /// Servers of ours that were turned away because a certificate was taken back.
    pub servers_rejected: u64,
    /// The same of clients.
    pub clients_rejected: u64,
}

/// What the node's pods have together, and may have.
#[derive(Debug, Clone, Default)]
pub struct LimitStats {
    /// Connections and streams.
    pub connections: Limited,
    /// Bytes that wait for whoever does not read them, handshakes and requests under way.
    pub waiting_bytes: Limited,
    /// File descriptors that the process may have.
    pub descriptors: u64,
    /// Those that it has.
    pub open_descriptors: u64,
}

/// What there is of a kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limited {
    /// Now.
    pub now: u64,
    /// At most.
    pub most: u64,
    /// How often a pod was refused, being over its part.
    pub refused: u64,
}

/// A certificate held.
#[derive(Debug, Clone)]
pub struct CertificateStats {
    /// SPIFFE URI.
    pub identity: String,
    /// When it expires.
    pub not_after: SystemTime,
}

/// What passed between us and the control plane.
#[derive(Debug, Clone, Default)]
pub struct XdsStats {
    /// Whether the stream is open.
    pub connected: bool,
    /// Responses received, by type URL.
    pub messages: Vec<(String, u64)>,
    /// Bytes of their resources, by type URL.
    pub bytes: Vec<(String, u64)>,
    /// Streams ended, by reason.
    pub terminations: Vec<(&'static str, u64)>,
    /// Resources refused, by type URL.
    pub rejections: Vec<(String, u64)>,
}

/// Encodes the node's state.
pub(super) struct NodeCollector {
    source: Arc<RwLock<Option<NodeSource>>>,
}

impl NodeCollector {
    pub(super) fn new(source: Arc<RwLock<Option<NodeSource>>>) -> Self {
        Self { source }
    }
}

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCollector").finish_non_exhaustive()
    }
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_build(&mut encoder)?;
        let source = self.source.read().clone();
        match source {
            Some(source) => encode_stats(&mut encoder, &source()),
            None => Ok(()),
        }
    }
}

fn encode_build(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "What was built";
    // Istio's dashboards ask for the component that the agent stands for; the tag says what it is.
    let labels = [("component", "ztunnel"), ("tag", concat!("sotto-", env!("CARGO_PKG_VERSION")))];
    let mut family = encoder.encode_descriptor("istio_build", help, None, MetricType::Gauge)?;
    family.encode_family(&Pairs(&labels))?.encode_gauge(&1u64)
}

fn encode_stats(encoder: &mut DescriptorEncoder<'_>, stats: &NodeStats) -> fmt::Result {
    for (name, value) in &stats.kernel_connections {
        let name = format!("sotto_connections_{name}");
        let help = "Connections the kernel judged so";
        plain_counter(encoder, &name, help, *value)?;
    }
    encode_certificates(encoder, &stats.certificates)?;
    roots::encode(encoder, &stats.roots)?;
    encode_pods(encoder, &stats.pods)?;
    let (begun, ended) = stats.proxies;
    let help = "How often the capture of a pod began";
    plain_counter(encoder, "workload_manager_proxies_started", help, begun)?;
    let help = "How often the capture of a pod ended";
    plain_counter(encoder, "workload_manager_proxies_stopped", help, ended)?;
    let help = "Whether the kubelet's probes are exempt (1 at exempt), or why they are not";
    gauges(encoder, "sotto_kubelet", help, "state", &stats.kubelet)?;
    gauges(encoder, "sotto_tunnels_open", "HBONE tunnels open now", "direction", &stats.tunnels)?;
    encode_limits(encoder, &stats.limits)?;
    encode_revocations(encoder, stats.revocations)?;
    encode_xds(encoder, &stats.xds)?;
    let help = "Log lines dropped because their reader is too slow";
    plain_counter(encoder, "sotto_log_lines_dropped", help, stats.log_lines.dropped)?;
    let help = "Log lines left out because their pod has too many a second";
    plain_counter(encoder, "sotto_log_lines_suppressed", help, stats.log_lines.suppressed)
}

fn encode_revocations(encoder: &mut DescriptorEncoder<'_>, stats: RevocationStats) -> fmt::Result {
    let RevocationStats { lists, failing, servers_rejected, clients_rejected } = stats;
    let help = "Lists of revoked certificates that count";
    plain_gauge(encoder, "sotto_revocation_lists", help, lists)?;
    let help = "Whether a list of revoked certificates cannot be read; what it said last counts";
    plain_gauge(encoder, "sotto_revocation_failing", help, failing.into())?;
    // By ztunnel's name, and who tells: of a server the one that dialled.
    let rows = [("source", servers_rejected), ("destination", clients_rejected)];
    let help = "Peers turned away because a certificate of theirs was revoked";
    counters(encoder, "istio_crl_policy_rejections", help, "reporter", &rows)
}

fn encode_pods(encoder: &mut DescriptorEncoder<'_>, pods: &[(&'static str, u64)]) -> fmt::Result {
    let help = "Pods of this node by the state of their enrolment";
    gauges(encoder, "sotto_pods", help, "state", pods)?;
    // By the names that Istio's dashboards ask for.
    let of = |captured: bool| {
        let those = pods.iter().filter(|(state, _)| (*state == CAPTURED) == captured);
        those.map(|(_, count)| count).sum::<u64>()
    };
    let help = "Pods of this node that are captured";
    plain_gauge(encoder, "workload_manager_active_proxy_count", help, of(true))?;
    let help = "Pods of this node that are to be captured and are not";
    plain_gauge(encoder, "workload_manager_pending_proxy_count", help, of(false))
}

fn encode_limits(encoder: &mut DescriptorEncoder<'_>, limits: &LimitStats) -> fmt::Result {
    let LimitStats { connections, waiting_bytes, descriptors, open_descriptors } = limits;
    let both = [("connections", connections), ("waiting_bytes", waiting_bytes)];
    let rows = |value: fn(&Limited) -> u64| both.map(|(what, limited)| (what, value(limited)));
    let help = "What the node's pods have together";
    gauges(encoder, "sotto_limited", help, "what", &rows(|limited| limited.now))?;
    let mut most = rows(|limited| limited.most).to_vec();
    most.push(("descriptors", *descriptors));
    let help = "File descriptors open";
    plain_gauge(encoder, "process_open_fds", help, *open_descriptors)?;
    let help = "File descriptors that may be open";
    plain_gauge(encoder, "process_max_fds", help, *descriptors)?;
    let help = "What the node's pods may have together";
    gauges(encoder, "sotto_limits", help, "what", &most)?;
    let help = "How often a pod was refused because it was over its part";
    counters(encoder, "sotto_over_limit", help, "what", &rows(|limited| limited.refused))
}

fn encode_certificates(
    encoder: &mut DescriptorEncoder<'_>,
    certificates: &[CertificateStats],
) -> fmt::Result {
    let help = "Seconds until the identity's certificate expires; negative once it has";
    let mut family =
        encoder.encode_descriptor("istio_cert_expiry_seconds", help, None, MetricType::Gauge)?;
    let now = SystemTime::now();
    for certificate in certificates {
        let left = match certificate.not_after.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(expired) => -expired.duration().as_secs_f64(),
        };
        family
            .encode_family(&Pairs(&[("identity", &certificate.identity)]))?
            .encode_gauge(&left.trunc())?;
    }
    Ok(())
}

fn encode_xds(encoder: &mut DescriptorEncoder<'_>, xds: &XdsStats) -> fmt::Result {
    let help = "Whether the control plane is connected";
    plain_gauge(encoder, "sotto_xds_connected", help, xds.connected.into())?;
    let help = "Responses received from the control plane";
    counters(encoder, "istio_xds_message", help, "url", &xds.messages)?;
    let help = "Bytes of resources received from the control plane";
    counters(encoder, "istio_xds_message_bytes", help, "url", &xds.bytes)?;
    let help = "Resources of the control plane that were refused";
    counters(encoder, "sotto_xds_rejections", help, "url", &xds.rejections)?;
    let help = "Streams to the control plane that ended";
    counters(encoder, "istio_xds_connection_terminations", help, "reason", &xds.terminations)
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    rows: &[(impl AsRef<str>, u64)],
) -> fmt::Result {
    let mut family: MetricEncoder<'_> =
        encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in rows {
        counter(&mut family, &Pairs(&[(label, value.as_ref())]), *count)?;
    }
    Ok(())
}

fn plain_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    rows: &[(&'static str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in rows {
        family.encode_family(&Pairs(&[(label, value)]))?.encode_gauge(count)?;
    }
    Ok(())
}
