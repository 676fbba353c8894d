//! What an agent answers to `/plaintext`: who came in the clear, and whether policy lets them in
//! still.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::SystemTime;

use arcstr::ArcStr;
use serde::{Deserialize, Serialize};

use crate::app::pods;
use crate::authorize::{Decision, decide};
use crate::connection::{PlaintextPeer, PlaintextPeers, Tally};
use crate::mesh::workload::TunnelProtocol;
use crate::mesh::{Mesh, Workload};
use crate::observe::admin::Refusal;

/// All that is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app) struct Answer {
    /// The node of the agent that answers.
    pub(super) node: String,
    /// How many enrolled pods each node runs, of the namespaces asked for.
    pub(super) enrolled: BTreeMap<String, usize>,
    /// Pods where STRICT changes nothing, as `namespace/pod`.
    pub(super) not_enrolled: Vec<String>,
    pub(super) clients: Vec<Client>,
    /// What did not fit into the agent's table, of whatever namespace.
    pub(super) others: Counts,
    /// The pods of the node whose connections the agent redirects, of whatever namespace.
    pub(in crate::app) redirected: Vec<Redirected>,
    /// When it was told; milliseconds since 1970, by the node's clock as all times are.
    pub(in crate::app) now: u64,
}

/// A pod whose outbound connections go through its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app) struct Redirected {
    pub(super) ips: Vec<IpAddr>,
    /// Milliseconds since 1970; none if since before the agent started.
    pub(super) since: Option<u64>,
    /// Some destinations are kept out of the mesh by its annotations.
    pub(super) excludes: bool,
}

impl From<&pods::Redirected> for Redirected {
    fn from(redirected: &pods::Redirected) -> Self {
        let pod = &redirected.pod;
        let exclusions = &pod.exclusions;
        Self {
            ips: pod.ip4.map(IpAddr::V4).into_iter().chain(pod.ip6.map(IpAddr::V6)).collect(),
            since: redirected.since.map(milliseconds),
            excludes: !exclusions.outbound_ports.is_empty()
                || !exclusions.outbound_cidrs.is_empty(),
        }
    }
}

/// A plaintext client of a workload's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Client {
    /// `namespace/workload`.
    pub(super) destination: String,
    pub(super) port: u16,
    /// `namespace/workload`, or an address.
    pub(super) client: String,
    /// Whether the client is enrolled by now, with all its replicas.
    pub(super) client_enrolled: bool,
    /// The addresses of its pods now.
    pub(super) client_ips: BTreeSet<IpAddr>,
    /// When the last connection from each address opened; milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) opened: BTreeMap<IpAddr, u64>,
    pub(super) counts: Counts,
    /// Seconds since 1970.
    pub(super) last_seen: u64,
    /// Why policy keeps it out already; none if it is let in.
    pub(super) denied_by: Option<String>,
    /// Since when it would come by mutual TLS, in seconds since 1970; for the report to find out.
    pub(super) passes_since: Option<u64>,
}

/// Connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Now.
    pub(super) open: u64,
    /// Let in since the agent's start.
    pub(super) total: u64,
    /// Kept out since the agent's start.
    pub(super) denied: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.open += other.open;
        self.total += other.total;
        self.denied += other.denied;
    }

    pub(super) fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl From<Tally> for Counts {
    fn from(tally: Tally) -> Self {
        Self { open: tally.open, total: tally.total, denied: tally.denied }
    }
}

/// Makes the answer for a namespace, or for all, of what all data threads counted.
///
/// # Errors
/// The mesh is not known yet, so nothing can be judged.
pub(in crate::app) fn answer(
    mesh: &Mesh,
    node: &str,
    namespace: Option<&str>,
    threads: Vec<PlaintextPeers>,
) -> Result<Answer, Refusal> {
    if !mesh.synced() {
        return Err(Refusal::unavailable("the control plane has not told this agent all yet"));
    }
    let asked = |name: &str| namespace.is_none_or(|namespace| namespace == name);
    let mut answer = Answer { node: node.to_owned(), ..Answer::default() };
    for workload in mesh.workloads().filter(|workload| asked(&workload.namespace)) {
        if workload.protocol == TunnelProtocol::Hbone {
            *answer.enrolled.entry(workload.node.to_string()).or_default() += 1;
        } else {
            answer.not_enrolled.push(format!("{}/{}", workload.namespace, workload.name));
        }
    }
    answer.not_enrolled.sort_unstable();
    let workloads = by_name(mesh);
    for thread in threads {
        answer.others.add(thread.others.into());
        let peers = thread.peers.into_iter().filter(|peer| asked(&peer.pod.namespace));
        answer.clients.extend(peers.filter_map(|peer| client(mesh, &workloads, &peer)));
    }
    answer.clients = merged(answer.clients);
    Ok(answer)
}

/// One row for each destination, port and client. A row is denied only if all of it is.
pub(super) fn merged(clients: impl IntoIterator<Item = Client>) -> Vec<Client> {
    let mut rows: BTreeMap<(String, u16, String), Client> = BTreeMap::new();
    for client in clients {
        let key = (client.destination.clone(), client.port, client.client.clone());
        let Some(row) = rows.get_mut(&key) else {
            rows.insert(key, client);
            continue;
        };
        row.counts.add(client.counts);
        row.last_seen = row.last_seen.max(client.last_seen);
        row.client_enrolled &= client.client_enrolled;
        row.client_ips.extend(client.client_ips);
        for (ip, opened) in client.opened {
            let last = row.opened.entry(ip).or_default();
            *last = opened.max(*last);
        }
        row.passes_since = row.passes_since.zip(client.passes_since).map(|(a, b)| a.max(b));
        row.denied_by = row.denied_by.take().filter(|_| client.denied_by.is_some());
    }
    rows.into_values().collect()
}

/// Every replica, by namespace and name of what made it.
type ByName<'m> = HashMap<(ArcStr, ArcStr), Vec<&'m Workload>>;

fn by_name(mesh: &Mesh) -> ByName<'_> {
    let mut all = ByName::new();
    for workload in mesh.workloads() {
        let name = (workload.namespace.clone(), workload.workload_name.clone());
        all.entry(name).or_default().push(workload);
    }
    all
}

/// A peer's row; none if its destination is gone from the mesh, with all its replicas.
fn client(mesh: &Mesh, workloads: &ByName<'_>, peer: &PlaintextPeer) -> Option<Client> {
    let pod = &peer.pod;
    let replica = || {
        let name = (pod.namespace.clone(), peer.workload.clone()?);
        workloads.get(&name)?.first().copied()
    };
    // Of a pod that is gone, another of its kind takes the next call.
    let destination = mesh.workload_of(pod).map(|w| &**w).or_else(replica)?;
    let ip = peer.request.source_ip;
    // Of a client that the mesh did not know, nobody knows what it is now.
    let replicas = peer.client.as_ref().and_then(|name| workloads.get(name));
    let replicas: &[&Workload] = replicas.map_or(&[], Vec::as_slice);
    let is_enrolled = |w: &&Workload| w.protocol == TunnelProtocol::Hbone && !w.host_network;
    let seen = peer.last_seen.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Client {
        destination: format!("{}/{}", pod.namespace, destination.workload_name),
        port: peer.request.destination.port(),
        client: match &peer.client {
            Some((namespace, name)) => format!("{namespace}/{name}"),
            None => ip.to_string(),
        },
        client_enrolled: !replicas.is_empty() && replicas.iter().all(is_enrolled),
        client_ips: replicas.iter().flat_map(|w| w.addresses.iter().copied()).collect(),
        opened: BTreeMap::from([(ip, milliseconds(peer.last_opened))]),
        counts: peer.tally.into(),
        last_seen: seen.as_secs(),
        denied_by: match decide(mesh, destination, &peer.request) {
            Decision::Deny(denial) => Some(denial.to_string()),
            Decision::Allow(_) | Decision::Unknown(_) => None,
        },
        passes_since: None,
    })
}

/// A time as milliseconds since 1970.
pub(in crate::app) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
