//! Choosing an endpoint of a service.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;

use crate::mesh::service::{BalancingMode, LoadBalancing, Scope};
use crate::mesh::{LocalPod, Mesh, Network, Service, Workload};

use super::RouteError;

/// Who wants to connect.
pub(super) struct Client<'a> {
    pub(super) pod: &'a LocalPod,
    pub(super) workload: Option<&'a Workload>,
    pub(super) network: &'a Network,
}

/// A workload behind a service, and its port.
pub(super) struct Endpoint<'a> {
    pub(super) workload: &'a Arc<Workload>,
    pub(super) port: u16,
}

/// Chooses among the endpoints of a service.
///
/// # Errors
/// None is usable: the service lacks the port, or no endpoint is ready, near enough, or has it.
pub(super) fn choose<'a>(
    mesh: &'a Mesh,
    client: &Client<'_>,
    service: &'a Service,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Endpoint<'a>, RouteError> {
    let port = destination.port();
    if !service.ports.iter().any(|candidate| candidate.service_port == port) {
        return Err(RouteError::UnknownPort { destination, service: service.key.clone() });
    }
    let with_port = mesh.endpoints(&service.key).filter_map(|(workload, own)| {
        service.target_port(own, port).map(|port| Endpoint { workload, port })
    });
    pick(client, &service.load_balancing, with_port, rng)
        .ok_or(RouteError::NoHealthyUpstream(destination))
}

/// One of the best-ranked endpoints, at random by capacity, or for a client always the same one; in one pass and without
/// a list.
pub(super) fn pick<'a>(
    client: &Client<'_>,
    balancing: &LoadBalancing,
    endpoints: impl Iterator<Item = Endpoint<'a>>,
    rng: &mut impl Rng,
) -> Option<Endpoint<'a>> {
    let mut best = None;
    let mut best_rank = Rank::default();
    let mut total: u64 = 0;
    let mut best_claim = 0.0;
    for endpoint in endpoints {
        let workload = endpoint.workload;
        let weight = u64::from(workload.capacity);
        if !workload.may_serve(balancing) {
            continue;
        }
        let Some(rank) = rank(client, balancing, workload) else { continue };
        if rank < best_rank {
            continue;
        }
        if rank > best_rank {
            best_rank = rank;
            (total, best_claim) = (0, 0.0);
        }
        total += weight;
        let wins = if balancing.sticky {
            let claim = claim(client.pod, workload);
            let more = claim > best_claim;
            best_claim = if more { claim } else { best_claim };
            more
        } else {
            rng.random_range(0..total) < weight
        };
        if wins {
            best = Some(endpoint);
        }
    }
    best
}

/// What an endpoint bids for a client: the highest bid wins. The bids for one client are as good as random, and the same
/// on every thread and after a restart; an endpoint that comes or goes takes or gives only its own share of clients
/// (weighted rendezvous hashing).
fn claim(pod: &LocalPod, workload: &Workload) -> f64 {
    let mut hash = DefaultHasher::new();
    (pod.ip4, pod.ip6, &workload.uid).hash(&mut hash);
    let drawn = u32::try_from(hash.finish() >> 32).unwrap_or(u32::MAX);
    // Between 0 and 1, and neither.
    let drawn = (f64::from(drawn) + 0.5) / (f64::from(u32::MAX) + 1.0);
    f64::from(workload.capacity) / -drawn.ln()
}

/// What can be connected to counts before what is near.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    reachable: bool,
    /// Where the network is what matters most.
    same_network: bool,
    preferences: usize,
}

fn rank(client: &Client<'_>, balancing: &LoadBalancing, workload: &Workload) -> Option<Rank> {
    let reachable = if workload.network == *client.network {
        !workload.addresses.is_empty() || !workload.hostname.is_empty()
    } else {
        workload.network_gateway.is_some()
    };
    let (same_network, preferences) = match balancing.mode {
        BalancingMode::Any | BalancingMode::Passthrough => (false, 0),
        BalancingMode::Failover => matched(client, balancing, workload),
        BalancingMode::Strict => {
            let all = balancing.preferences.iter().all(|scope| shares(client, workload, *scope));
            all.then_some((false, 0))?
        }
    };
    Some(Rank { reachable, same_network, preferences })
}

/// How many of the preferences are met in order. If the network is the first of them, the others count on other networks
/// too, among those.
fn matched(client: &Client<'_>, balancing: &LoadBalancing, workload: &Workload) -> (bool, usize) {
    let shared = |scope: &&Scope| shares(client, workload, **scope);
    let count = |scopes: &[Scope]| scopes.iter().take_while(shared).count();
    match &balancing.preferences[..] {
        [Scope::Network, others @ ..] => (shares(client, workload, Scope::Network), count(others)),
        all => (false, count(all)),
    }
}

/// Whether client and endpoint share a place.
fn shares(client: &Client<'_>, workload: &Workload, scope: Scope) -> bool {
    if scope == Scope::Network {
        return *client.network == workload.network;
    }
    let Some(own) = client.workload else { return false };
    match scope {
        Scope::Region => own.locality.region == workload.locality.region,
        Scope::Zone => own.locality.zone == workload.locality.zone,
        Scope::Subzone => own.locality.subzone == workload.locality.subzone,
        Scope::Node => own.node == workload.node,
        Scope::Cluster => own.cluster_id == workload.cluster_id,
        Scope::Network => own.network == workload.network,
    }
}
