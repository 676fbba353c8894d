//! Whom a service's connections go to: what kube-proxy makes of the same pods and EndpointSlices.
//!
//! The wire tells health by workload, Kubernetes by endpoint. While all there is are pods that the service selects, one
//! of them ready, that comes to the same: each is told with the service, and nodes use the healthy ones. In any other
//! case the choice is made here: only those that are to get connections are told with the service, and nodes use them
//! all ([`Endpoints::exact`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use arcstr::ArcStr;
use sotto_proto::workload::Port;

use super::workload::{pod_ports, slice_ports};
use crate::control_plane::model::{Endpoint, ObjectKey, Pod, Service, Slice};

/// The endpoints of one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Endpoints {
    /// Pods, and their own ports for the service.
    pub(super) pods: BTreeMap<ObjectKey, Vec<Port>>,
    /// Endpoints that are no pod's, by slice and address.
    pub(super) outside: BTreeMap<(ObjectKey, IpAddr), Outside>,
    /// They are chosen: whether they are healthy is not to be asked again.
    pub(super) exact: bool,
    /// Slices made by hand are among their sources, where ports are each endpoint's own.
    pub(super) by_slices: bool,
    /// Every address in those slices, whoever may have it.
    pub(super) named: BTreeSet<IpAddr>,
}

/// An endpoint of which no more is known than its address.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outside {
    /// Its ports for the service.
    pub(super) ports: Vec<Port>,
    /// The node it is said to be on; may be empty.
    pub(super) node: ArcStr,
}

/// Who has an endpoint's address.
pub(super) enum Owner<'a> {
    /// This pod.
    Pod(&'a Pod),
    /// Nobody of this cluster.
    Outside,
    /// A pod that is not known (yet, or any more): nobody knows how it is to be reached.
    Unknown,
}

enum Target {
    Pod(ObjectKey),
    Outside(ObjectKey, IpAddr),
}

struct Candidate {
    target: Target,
    node: ArcStr,
    ports: Vec<Port>,
    ready: bool,
    /// Leaving, and not done yet: used where nothing is ready.
    leaving: bool,
}

impl Endpoints {
    /// The endpoints of a service among `pods` of its namespace and the `slices` that bear its name.
    pub(super) fn of<'a>(
        service: &Service,
        pods: impl Iterator<Item = &'a Pod>,
        slices: impl Iterator<Item = &'a Slice>,
        owner: impl Fn(&Endpoint, IpAddr) -> Owner<'a>,
    ) -> Self {
        let on_network = |pod: &&Pod| !pod.terminal && !pod.addresses.is_empty();
        let mut all: Vec<Candidate> = pods
            .filter(|pod| service.picks(&pod.labels))
            .filter(on_network)
            .map(|pod| selected(service, pod))
            .collect();
        let mut found = Self::default();
        // What a controller makes of the selector is known already, from the pods themselves.
        for slice in slices.filter(|slice| service.selector.is_none() || !slice.managed) {
            found.by_slices = true;
            let ports = slice_ports(service, slice);
            for endpoint in &slice.endpoints {
                found.named.extend(&endpoint.addresses);
                for address in &endpoint.addresses {
                    let target = match owner(endpoint, *address) {
                        Owner::Pod(pod) => Target::Pod(pod.key.clone()),
                        Owner::Outside => Target::Outside(slice.key.clone(), *address),
                        Owner::Unknown => continue,
                    };
                    all.push(Candidate { target, ports: ports.clone(), ..of_slice(endpoint) });
                }
            }
        }
        let used = used(service, &all);
        let falls_back = all.iter().zip(&used).any(|(candidate, used)| *used && !candidate.ready);
        found.exact = found.by_slices || service.publish_not_ready || falls_back;
        for (candidate, used) in all.into_iter().zip(used) {
            if used || !found.exact {
                found.add(candidate);
            }
        }
        found
    }

    fn add(&mut self, candidate: Candidate) {
        let Candidate { target, ports, node, .. } = candidate;
        let known = match target {
            Target::Pod(key) => self.pods.entry(key).or_default(),
            Target::Outside(slice, address) => {
                let new = Outside { ports: Vec::new(), node };
                &mut self.outside.entry((slice, address)).or_insert(new).ports
            }
        };
        for port in ports {
            if !known.iter().any(|one| one.service_port == port.service_port) {
                known.push(port);
            }
        }
    }
}

fn selected(service: &Service, pod: &Pod) -> Candidate {
    Candidate {
        target: Target::Pod(pod.key.clone()),
        node: pod.node.clone(),
        ports: pod_ports(service, pod),
        ready: service.publish_not_ready || pod.healthy(),
        leaving: pod.ready && pod.leaving,
    }
}

/// A candidate without the target and the ports.
fn of_slice(endpoint: &Endpoint) -> Candidate {
    Candidate {
        target: Target::Pod(ObjectKey::new("", "")),
        node: endpoint.node.clone(),
        ports: Vec::new(),
        ready: endpoint.ready,
        leaving: endpoint.serving && endpoint.leaving,
    }
}

/// Which of them get connections: those that are ready; where none is, those that leave and are not done yet. "Where" is
/// the cluster, or each node if the service keeps to the client's.
fn used(service: &Service, all: &[Candidate]) -> Vec<bool> {
    let place = |candidate: &Candidate| service.node_local.then(|| candidate.node.clone());
    let served: BTreeSet<_> = all.iter().filter(|c| c.ready).map(place).collect();
    let used = |c: &Candidate| c.ready || (c.leaving && !served.contains(&place(c)));
    all.iter().map(used).collect()
}
