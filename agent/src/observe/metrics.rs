//! Metrics in the OpenMetrics text format: connections under Istio's names, the node's own state.
//!
//! Data threads count through a [`ThreadMetrics`] each, without a lock; the node's state is asked
//! for at each scrape through a closure.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::connection::ConnectionInfo;
use super::labels::{ConnectionLabels, Reporter, ResponseFlags, encode_pairs};
use super::names::Names;
use super::node::{NodeCollector, NodeStats};
use super::series::{Cache, Counts, IDLE, MAX_SETS, Table, Totals};

/// Where the node's state comes from.
pub(super) type NodeSource = Arc<dyn Fn() -> NodeStats + Send + Sync>;

/// All metrics of the process.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    table: Arc<Table>,
    sockets: Arc<Mutex<Vec<Arc<Sockets>>>>,
    node: Arc<RwLock<Option<NodeSource>>>,
    names: Names,
}

impl Metrics {
    /// Metrics with nothing counted yet.
    pub fn new() -> Self {
        let table = Arc::new(Table::new(MAX_SETS));
        let sockets = Arc::new(Mutex::default());
        let node = Arc::new(RwLock::new(None));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ConnectionCollector {
            table: Arc::clone(&table),
            sockets: Arc::clone(&sockets),
        }));
        registry.register_collector(Box::new(NodeCollector::new(Arc::clone(&node))));
        let names = Names::in_registry(&mut registry);
        Self { inner: Arc::new(Inner { registry, table, sockets, node, names }) }
    }

    /// Sets where the node's state comes from; called at each scrape, so it must be quick.
    pub fn set_node_source(&self, source: impl Fn() -> NodeStats + Send + Sync + 'static) {
        *self.inner.node.write() = Some(Arc::new(source));
    }

    /// What pods ask resolvers for.
    pub fn names(&self) -> &Names {
        &self.inner.names
    }

    /// A data thread's part; make one for each thread.
    pub fn thread(&self) -> ThreadMetrics {
        let sockets = Arc::new(Sockets::default());
        self.inner.sockets.lock().push(Arc::clone(&sockets));
        ThreadMetrics { table: Arc::clone(&self.inner.table), cache: RefCell::default(), sockets }
    }

    /// Connections opened and connections closed so far, together.
    pub fn connections(&self) -> u64 {
        self.inner.sockets.lock().iter().map(|thread| thread.changes()).sum()
    }

    /// Everything, as OpenMetrics text.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.inner.registry)?;
        Ok(out)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// One data thread's metrics.
#[derive(Debug)]
pub struct ThreadMetrics {
    table: Arc<Table>,
    cache: RefCell<Cache>,
    sockets: Arc<Sockets>,
}

impl ThreadMetrics {
    pub(super) fn counts(&self, info: &ConnectionInfo) -> Arc<Counts> {
        self.cache.borrow_mut().counts_of(&self.table, info)
    }

    pub(super) fn sockets(&self) -> Arc<Sockets> {
        Arc::clone(&self.sockets)
    }

    /// So many tunnels of this thread are open of which this end has shown a certificate of another root than it has now.
    pub fn tunnels_of_old_root(&self, tunnels: u64) {
        self.sockets.of_old_root.store(tunnels, Relaxed);
    }
}

/// Connections one thread has opened and closed, by reporter; and what it says of its tunnels.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    source: Gauge,
    destination: Gauge,
    of_old_root: AtomicU64,
}

#[derive(Debug, Default)]
struct Gauge {
    opened: AtomicU64,
    closed: AtomicU64,
}

impl Sockets {
    pub(super) fn open(&self, reporter: Reporter) {
        self.of(reporter).opened.fetch_add(1, Relaxed);
    }

    pub(super) fn close(&self, reporter: Reporter) {
        self.of(reporter).closed.fetch_add(1, Relaxed);
    }

    fn now_open(&self, reporter: Reporter) -> u64 {
        let gauge = self.of(reporter);
        let closed = gauge.closed.load(Relaxed);
        gauge.opened.load(Relaxed).saturating_sub(closed)
    }

    fn changes(&self) -> u64 {
        let gauges = [&self.source, &self.destination];
        gauges.iter().map(|gauge| gauge.opened.load(Relaxed) + gauge.closed.load(Relaxed)).sum()
    }

    fn of(&self, reporter: Reporter) -> &Gauge {
        match reporter {
            Reporter::Source => &self.source,
            Reporter::Destination => &self.destination,
        }
    }
}

/// Encodes the connections' series.
#[derive(Debug)]
struct ConnectionCollector {
    table: Arc<Table>,
    sockets: Arc<Mutex<Vec<Arc<Sockets>>>>,
}

type Row = (Arc<ConnectionLabels>, Totals);

impl Collector for ConnectionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let rows = self.table.collect(Instant::now(), IDLE);
        for (name, help, value) in FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, totals) in &rows {
                counter(&mut family, &labels.with(ResponseFlags::None), value(totals))?;
            }
        }
        encode_failed(&mut encoder, &rows)?;
        self.encode_sockets(&mut encoder)?;
        let help = "Label sets dropped, idle or for want of room";
        plain_counter(&mut encoder, "sotto_metric_sets_dropped", help, self.table.dropped())
    }
}

impl ConnectionCollector {
    fn encode_sockets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections open now";
        let mut family =
            encoder.encode_descriptor("istio_tcp_sockets_open", help, None, MetricType::Gauge)?;
        let sockets = self.sockets.lock().clone();
        for reporter in [Reporter::Source, Reporter::Destination] {
            let open: u64 = sockets.iter().map(|thread| thread.now_open(reporter)).sum();
            family
                .encode_family(&Pairs(&[("reporter", reporter.as_str())]))?
                .encode_gauge(&open)?;
        }
        let help = "Tunnels open of which this end has shown a certificate of another root than it has now";
        let of_old_root: u64 = sockets.iter().map(|thread| thread.of_old_root.load(Relaxed)).sum();
        encoder
            .encode_descriptor("sotto_tunnels_of_old_root", help, None, MetricType::Gauge)?
            .encode_gauge(&of_old_root)
    }
}

/// Failed connections, by response flags; denials by the policy and rule too.
fn encode_failed(encoder: &mut DescriptorEncoder<'_>, rows: &[Row]) -> fmt::Result {
    let help = "The total number of TCP connections that failed";
    let mut family = encoder.encode_descriptor(
        "istio_tcp_connections_failed",
        help,
        None,
        MetricType::Counter,
    )?;
    for (labels, totals) in rows {
        for flags in ResponseFlags::ALL {
            let failed = totals.failed[flags.index()];
            let by_policy =
                if flags == ResponseFlags::Deny { totals.denied_by_policy() } else { 0 };
            let rest = failed.saturating_sub(by_policy);
            if rest > 0 {
                counter(&mut family, &labels.with(flags), rest)?;
            }
        }
        for (by, denied) in &totals.denied {
            counter(&mut family, &labels.denied(by), *denied)?;
        }
    }
    Ok(())
}

type Family = (&'static str, &'static str, fn(&Totals) -> u64);

const FAMILIES: [Family; 4] = [
    ("istio_tcp_connections_opened", "The total number of TCP connections opened", |totals| {
        totals.opened
    }),
    ("istio_tcp_connections_closed", "The total number of TCP connections closed", |totals| {
        totals.closed
    }),
    (
        "istio_tcp_received_bytes",
        "Bytes of requests: from the client to the server, whoever reports",
        |totals| totals.received_bytes,
    ),
    (
        "istio_tcp_sent_bytes",
        "Bytes of responses: from the server to the client, whoever reports",
        |totals| totals.sent_bytes,
    ),
];

/// Writes one counter of a family.
pub(super) fn counter(
    family: &mut prometheus_client::encoding::MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: u64,
) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<Pairs<'_>, u64, f64>(&value, None)
}

/// Writes the one counter of a family without labels.
pub(super) fn plain_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter::<Pairs<'_>, u64, f64>(&value, None)
}

/// Labels given as pairs.
#[derive(Debug)]
pub(super) struct Pairs<'a>(pub(super) &'a [(&'a str, &'a str)]);

impl EncodeLabelSet for Pairs<'_> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> fmt::Result {
        encode_pairs(self.0, encoder)
    }
}

#[cfg(test)]
mod tests;
