//! What an agent answers to `/plaintext`: who came in the clear, and whether policy lets them in
//! still.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::authorize::{Decision, decide};
use crate::connection::{PlaintextPeer, PlaintextPeers, Tally};
use crate::mesh::workload::TunnelProtocol;
use crate::mesh::{Mesh, Network, Workload};
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
    /// Whether the client is enrolled by now.
    pub(super) client_enrolled: bool,
    pub(super) counts: Counts,
    /// Seconds since 1970.
    pub(super) last_seen: u64,
    /// Why policy keeps it out already; none if it is let in, and would break.
    pub(super) denied_by: Option<String>,
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
    network: &Network,
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
    for thread in threads {
        answer.others.add(thread.others.into());
        let peers = thread.peers.into_iter().filter(|peer| asked(&peer.pod.namespace));
        answer.clients.extend(peers.filter_map(|peer| client(mesh, network, &peer)));
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
        row.denied_by = row.denied_by.take().filter(|_| client.denied_by.is_some());
    }
    rows.into_values().collect()
}

/// A peer's row; none if its destination is gone from the mesh, with all its replicas.
fn client(mesh: &Mesh, network: &Network, peer: &PlaintextPeer) -> Option<Client> {
    let pod = &peer.pod;
    let replica = || {
        let name = peer.workload.as_ref()?;
        let same = |w: &&Workload| w.namespace == pod.namespace && w.workload_name == *name;
        mesh.workloads().map(|workload| &**workload).find(same)
    };
    // Of a pod that is gone, another of its kind takes the next call.
    let destination = mesh.workload_of(network, pod).map(|w| &**w).or_else(replica)?;
    let ip = peer.request.source_ip;
    let enrolled = mesh
        .workload_by_address(network, ip)
        .is_some_and(|workload| workload.protocol == TunnelProtocol::Hbone);
    let seen = peer.last_seen.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Client {
        destination: format!("{}/{}", pod.namespace, destination.workload_name),
        port: peer.request.destination.port(),
        client: match &peer.client {
            Some((namespace, name)) => format!("{namespace}/{name}"),
            None => ip.to_string(),
        },
        client_enrolled: enrolled,
        counts: peer.tally.into(),
        last_seen: seen.as_secs(),
        denied_by: match decide(mesh, destination, &peer.request) {
            Decision::Deny(denial) => Some(denial.to_string()),
            Decision::Allow(_) | Decision::Unknown(_) => None,
        },
    })
}

#[cfg(test)]
mod tests;
