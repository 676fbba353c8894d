//! The access log: one line at a connection's end, in Istio's words, under the target `access`.
//!
//! What is not known is left out; identities are told only where TLS has shown them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use tracing::field::{DisplayValue, display};

use super::connection::{ConnectionInfo, Outcome, Party, Transferred};
use super::labels::Reporter;
use super::log;
use crate::mesh::LocalPod;

/// The target of all lines.
pub const TARGET: &str = log::ACCESS;

/// Tells of a connection of a pod of this node that failed before anything was known of it but its addresses.
pub fn connection_failed(
    reporter: Reporter,
    pod: &Arc<LocalPod>,
    (source, destination): (SocketAddr, SocketAddr),
    error: impl std::fmt::Display,
) {
    let tell = || {
        tracing::event!(
            target: TARGET,
            tracing::Level::WARN,
            src.addr = %source,
            dst.addr = %destination,
            direction = reporter.direction(),
            error = error.to_string(),
            "connection failed"
        );
    };
    log::of_pod(pod, tell);
}

/// Tells of a connection at its opening; off by default.
pub(super) fn opened(info: &ConnectionInfo) {
    if !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        return;
    }
    let line = Line::new(info);
    tracing::event!(
        target: TARGET,
        tracing::Level::DEBUG,
        src.addr = %info.source.address,
        src.workload = line.source.workload,
        src.namespace = line.source.namespace,
        src.identity = line.source.identity.as_deref(),
        dst.addr = %info.destination.address,
        dst.hbone_addr = line.hbone,
        dst.service = line.service,
        dst.workload = line.destination.workload,
        dst.namespace = line.destination.namespace,
        dst.identity = line.destination.identity.as_deref(),
        direction = info.reporter.direction(),
        "connection opened"
    );
}

/// Tells of a connection at its end: ERROR if it failed, INFO otherwise.
pub(super) fn closed(
    info: &ConnectionInfo,
    bytes: Transferred,
    duration: Duration,
    outcome: &Outcome,
) {
    let enabled = match outcome {
        Outcome::Complete => tracing::enabled!(target: TARGET, tracing::Level::INFO),
        Outcome::Fail { .. } => tracing::enabled!(target: TARGET, tracing::Level::ERROR),
    };
    if !enabled {
        return;
    }
    let line = Line::new(info);
    // Sent and received are those of the pod at our end.
    let (sent, received) = match info.reporter {
        Reporter::Source => (bytes.from_client_bytes, bytes.from_server_bytes),
        Reporter::Destination => (bytes.from_server_bytes, bytes.from_client_bytes),
    };
    let duration = format!("{}ms", duration.as_millis());
    macro_rules! line {
        ($level:expr, $($rest:tt)*) => {
            tracing::event!(
                target: TARGET,
                $level,
                src.addr = %info.source.address,
                src.workload = line.source.workload,
                src.namespace = line.source.namespace,
                src.identity = line.source.identity.as_deref(),
                dst.addr = %info.destination.address,
                dst.hbone_addr = line.hbone,
                dst.service = line.service,
                dst.workload = line.destination.workload,
                dst.namespace = line.destination.namespace,
                dst.identity = line.destination.identity.as_deref(),
                direction = info.reporter.direction(),
                bytes_sent = sent,
                bytes_recv = received,
                duration = duration.as_str(),
                $($rest)*
            )
        };
    }
    match outcome {
        Outcome::Complete => line!(tracing::Level::INFO, "connection complete"),
        Outcome::Fail { error, by, .. } => {
            let policy = by.as_ref().map(ToString::to_string);
            line!(
                tracing::Level::ERROR,
                error = error.as_str(),
                policy = policy.as_deref(),
                rule = by.as_ref().and_then(|by| by.rule),
                "connection complete"
            );
        }
    }
}

/// A line's fields that need work.
struct Line<'a> {
    source: End<'a>,
    destination: End<'a>,
    hbone: Option<DisplayValue<&'a ArcStr>>,
    service: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(info: &'a ConnectionInfo) -> Self {
        Self {
            source: End::new(&info.source, info.mutual_tls),
            destination: End::new(&info.destination, info.mutual_tls),
            hbone: info.hbone_target.as_ref().map(display),
            service: info.service.as_deref().map(|service| service.key.hostname.as_str()),
        }
    }
}

struct End<'a> {
    workload: Option<&'a str>,
    namespace: Option<&'a str>,
    identity: Option<String>,
}

impl<'a> End<'a> {
    fn new(party: &'a Party, mutual_tls: bool) -> Self {
        let (workload, namespace) = match (&party.workload, &party.local) {
            (Some(workload), _) => {
                (Some(workload.name.as_str()), Some(workload.namespace.as_str()))
            }
            (None, Some(pod)) => (Some(pod.name.as_str()), Some(pod.namespace.as_str())),
            (None, None) => (None, None),
        };
        let identity = party.identity.as_ref().filter(|_| mutual_tls).map(ToString::to_string);
        Self { workload, namespace, identity }
    }
}
