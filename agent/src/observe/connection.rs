//! One connection, from its opening to its access log line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;

use super::access_log;
use super::labels::{Reporter, ResponseFlags};
use super::log;
use super::metrics::{Sockets, ThreadMetrics};
use super::series::Counts;
use crate::mesh::{LocalPod, MatchedRule, Service, SpiffeId, Workload};

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct Party {
    /// Its address on the wire: for an outbound tunnel the destination is the peer's port 15008.
    pub address: SocketAddr,
    /// What the mesh says of it.
    pub workload: Option<Arc<Workload>>,
    /// What the node says of it, for a pod that the mesh does not know yet.
    pub local: Option<Arc<LocalPod>>,
    /// Who it is, where TLS has shown that.
    pub identity: Option<SpiffeId>,
}

impl Party {
    /// An end of which only the address is known.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, workload: None, local: None, identity: None }
    }
}

/// What is known of a connection when it opens.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Which side we are on.
    pub reporter: Reporter,
    /// The client.
    pub source: Party,
    /// The server.
    pub destination: Party,
    /// The service the client asked for, or on the server's side the one it most likely asked for.
    pub service: Option<Arc<Service>>,
    /// What the CONNECT names, as `10.244.0.10:80`.
    pub hbone_target: Option<ArcStr>,
    /// Whether the bytes cross the wire through a mutual TLS tunnel.
    pub mutual_tls: bool,
}

/// Bytes carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transferred {
    /// From the client to the server: the request.
    pub from_client_bytes: u64,
    /// From the server to the client: the response.
    pub from_server_bytes: u64,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Both ends are done.
    Complete,
    /// It failed.
    Fail {
        /// Why, in a word.
        flags: ResponseFlags,
        /// Why, in a sentence.
        error: String,
        /// What denied it.
        by: Option<MatchedRule>,
    },
}

impl Outcome {
    /// A failure that no policy caused.
    pub fn failed(flags: ResponseFlags, error: impl ToString) -> Self {
        Self::Fail { flags, error: error.to_string(), by: None }
    }

    /// A denial, told as Istio tells it.
    pub fn denied(denial: impl std::fmt::Display, by: Option<MatchedRule>) -> Self {
        let error = format!("connection closed due to policy rejection: {denial}");
        Self::Fail { flags: ResponseFlags::Deny, error, by }
    }
}

/// An open connection: counted now, logged at its end, once. Dropped without [`close`], it is
/// logged as cut off.
///
/// [`close`]: ConnectionRecord::close
#[derive(Debug)]
pub struct ConnectionRecord {
    info: ConnectionInfo,
    started: Instant,
    seen: Transferred,
    counts: Arc<Counts>,
    sockets: Arc<Sockets>,
    closed: bool,
}

impl ConnectionRecord {
    /// Counts a connection as opened, from now.
    pub fn open(metrics: &ThreadMetrics, info: ConnectionInfo) -> Self {
        Self::open_at(metrics, info, Instant::now())
    }

    /// Counts a connection as opened, that began at `started`.
    pub fn open_at(metrics: &ThreadMetrics, info: ConnectionInfo, started: Instant) -> Self {
        let counts = metrics.counts(&info);
        let sockets = metrics.sockets();
        counts.open();
        sockets.open(info.reporter);
        by_pod(&info, || access_log::opened(&info));
        Self { info, started, seen: Transferred::default(), counts, sockets, closed: false }
    }

    /// Goes on with a connection that another process has opened, so long ago, and counted as that.
    pub fn resume(metrics: &ThreadMetrics, info: ConnectionInfo, age: Duration) -> Self {
        let (counts, sockets) = (metrics.counts(&info), metrics.sockets());
        sockets.open(info.reporter);
        let now = Instant::now();
        let started = now.checked_sub(age).unwrap_or(now);
        Self { info, started, seen: Transferred::default(), counts, sockets, closed: false }
    }

    /// What was carried so far another process has counted.
    pub fn told_before(&mut self, total: Transferred) {
        self.seen = total;
    }

    /// Another process goes on with it: what it was opened with, and how long ago.
    pub fn leave(mut self, total: Transferred) -> (ConnectionInfo, Duration) {
        self.transferred(total);
        self.closed = true;
        self.sockets.close(self.info.reporter);
        (self.info.clone(), self.duration())
    }

    /// What it was opened with.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Takes over the totals so far; call it every few seconds, so that graphs move while a long
    /// connection runs. Totals never shrink.
    pub fn transferred(&mut self, total: Transferred) {
        let request = total.from_client_bytes.saturating_sub(self.seen.from_client_bytes);
        let response = total.from_server_bytes.saturating_sub(self.seen.from_server_bytes);
        self.counts.transfer(request, response);
        self.seen.from_client_bytes += request;
        self.seen.from_server_bytes += response;
    }

    /// Ends it, with the final totals.
    pub fn close(mut self, total: Transferred, outcome: &Outcome) {
        self.transferred(total);
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: &Outcome) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.counts.close();
        if let Outcome::Fail { flags, by, .. } = outcome {
            self.counts.fail(*flags, by.as_ref());
        }
        self.sockets.close(self.info.reporter);
        let tell = || access_log::closed(&self.info, self.seen, self.duration(), outcome);
        by_pod(&self.info, tell);
    }

    fn duration(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Tells of a connection of a pod of this node.
fn by_pod(info: &ConnectionInfo, tell: impl FnOnce()) {
    let ours = match info.reporter {
        Reporter::Source => &info.source,
        Reporter::Destination => &info.destination,
    };
    match &ours.local {
        Some(pod) => log::of_pod(pod, tell),
        None => tell(),
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        if !self.closed {
            self.finish(&Outcome::failed(
                ResponseFlags::None,
                "connection cut off: the agent let go of it",
            ));
        }
    }
}
