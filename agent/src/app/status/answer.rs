//! What an agent answers to `/status`: how it and its node's pods are.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::connection::{Direction, OpenConnection};
use crate::enroll;
use crate::identify::certs::{Condition, IdentityState};
use crate::mesh::Mesh;
use crate::mesh::workload::TunnelProtocol;
use crate::observe::ready::Readiness;
use crate::xds::XdsStatus;

/// All that is told. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app) struct Answer {
    /// The node of the agent that answers.
    pub(in crate::app) node: String,
    pub(in crate::app) version: String,
    /// By the node's clock.
    pub(in crate::app) now: u64,
    /// What keeps the agent from being ready.
    pub(in crate::app) pending: Vec<String>,
    /// What is wrong without that, by what it is about.
    pub(in crate::app) remarks: BTreeMap<String, String>,
    pub(in crate::app) control_plane: ControlPlane,
    /// Pods that are captured, or are to be.
    pub(in crate::app) pods: Vec<Pod>,
    /// Pods that are asked for and cannot be captured, as `namespace/name`, and why.
    pub(in crate::app) left_alone: BTreeMap<String, String>,
    pub(in crate::app) certificates: Vec<Certificate>,
    /// How many enrolled pods each node of the mesh runs.
    pub(in crate::app) enrolled: BTreeMap<String, usize>,
}

/// Where the agent learns of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app) struct ControlPlane {
    pub(in crate::app) address: String,
    pub(in crate::app) connected: bool,
    /// Its first complete state is here.
    pub(in crate::app) synced: bool,
    pub(in crate::app) last_answer: Option<u64>,
    /// Why the last connection ended; none while connected.
    pub(in crate::app) last_error: Option<String>,
    /// What it sent and cannot be read, by name, and why.
    pub(in crate::app) rejected: BTreeMap<String, String>,
}

/// A pod of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app) struct Pod {
    /// `namespace/name`, or the UID of one that is not known otherwise.
    pub(in crate::app) name: String,
    /// `captured`, `pending`, `adopted` or `leaving`.
    pub(in crate::app) state: String,
    /// Why it gets no further.
    pub(in crate::app) trouble: Option<String>,
    /// Open connections to it.
    pub(in crate::app) inbound: usize,
    /// Open connections from it.
    pub(in crate::app) outbound: usize,
}

/// An identity's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app) struct Certificate {
    /// SPIFFE URI.
    pub(in crate::app) identity: String,
    pub(in crate::app) usable: bool,
    /// Why not.
    pub(in crate::app) trouble: Option<String>,
    /// Calls of the authority that failed since the last good one.
    pub(in crate::app) failures: u32,
    pub(in crate::app) serial_number: Option<String>,
    pub(in crate::app) not_before: Option<u64>,
    pub(in crate::app) not_after: Option<u64>,
}

pub(in crate::app) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Answer {
    /// Of a node's agent, now.
    pub(in crate::app) fn new(node: &str, now: SystemTime) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { node: node.to_owned(), version, now: seconds(now), ..Self::default() }
    }

    /// Whether it is ready.
    pub(in crate::app) fn with_readiness(mut self, readiness: &Readiness) -> Self {
        self.pending = readiness.missing().iter().map(ToString::to_string).collect();
        let remarks = readiness.remarks_by_subject().into_iter();
        self.remarks = remarks.map(|(about, text)| (about.to_owned(), text)).collect();
        self
    }

    /// What it knows of the mesh, and from where.
    pub(in crate::app) fn with_mesh(
        mut self,
        mesh: &Mesh,
        discovery: &XdsStatus,
        address: &str,
    ) -> Self {
        for workload in mesh.workloads() {
            if workload.protocol == TunnelProtocol::Hbone {
                *self.enrolled.entry(workload.node.to_string()).or_default() += 1;
            }
        }
        let rejected = discovery.rejected.iter();
        self.control_plane = ControlPlane {
            address: address.to_owned(),
            connected: discovery.connected,
            synced: discovery.synced(),
            last_answer: discovery.last_answer.map(seconds),
            last_error: discovery.last_error.clone(),
            rejected: rejected.map(|((_, name), why)| (name.clone(), why.clone())).collect(),
        };
        self
    }

    /// Its pods and what they have open.
    pub(in crate::app) fn with_pods(
        mut self,
        status: &enroll::Status,
        connections: &[OpenConnection],
    ) -> Self {
        for one in &status.pods {
            let open = |direction: Direction| {
                let of =
                    |open: &&OpenConnection| open.pod == one.uid && open.direction == direction;
                connections.iter().filter(of).count()
            };
            let named = one.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
            self.pods.push(Pod {
                name: named.unwrap_or_else(|| one.uid.to_string()),
                state: one.state.as_str().to_owned(),
                trouble: one.trouble.as_deref().map(str::to_owned),
                inbound: open(Direction::Inbound),
                outbound: open(Direction::Outbound),
            });
        }
        self.pods.sort_by(|a, b| a.name.cmp(&b.name));
        for pod in &status.left_alone {
            let name = format!("{}/{}", pod.namespace, pod.name);
            self.left_alone.insert(name, pod.reason.to_string());
        }
        self
    }

    /// Their certificates.
    pub(in crate::app) fn with_certificates(mut self, states: &[IdentityState]) -> Self {
        self.certificates = states.iter().map(Certificate::from).collect();
        self
    }
}

impl From<&IdentityState> for Certificate {
    fn from(state: &IdentityState) -> Self {
        let leaf = state.chain.first();
        Self {
            identity: state.identity.to_string(),
            usable: state.condition == Condition::Available,
            trouble: match &state.condition {
                Condition::Available => None,
                Condition::Initializing => Some("none has come yet".to_owned()),
                Condition::Unavailable(why) => Some(why.clone()),
            },
            failures: state.failures,
            serial_number: leaf.map(|leaf| leaf.serial.clone()),
            not_before: leaf.map(|leaf| seconds(leaf.not_before)),
            not_after: leaf.map(|leaf| seconds(leaf.not_after)),
        }
    }
}
