//! Which addresses a name has.

use std::net::IpAddr;

use rand::Rng;
use rand::seq::SliceRandom as _;

use super::Client;
use super::names::{Candidate, candidates, with_wildcards};
use crate::mesh::{Mesh, Service};

/// What the mesh says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name that was meant, if it is another than was asked for: the addresses are that one's.
    pub alias: Option<String>,
    /// In an order of chance; none where the service has none of the family.
    pub addresses: Vec<IpAddr>,
}

/// The addresses of one family that a name has for a client; none where the mesh has nothing to say. `asked` is in lower case,
/// without a dot at the end.
pub fn lookup(
    mesh: &Mesh,
    client: &Client<'_>,
    asked: &str,
    is_v4: bool,
    rng: &mut impl Rng,
) -> Option<Answer> {
    let of_kubernetes = format!(".svc.{}", client.domain);
    let found = candidates(asked, &client.pod.namespace, client.domain).into_iter().find_map(
        |Candidate { name, stripped }| {
            with_wildcards(&name, |name| {
                let service = find(mesh, client, name, &of_kubernetes)?;
                // Whatever is of a wildcard is a name of its own.
                let alias = stripped.clone().filter(|_| !name.starts_with("*."));
                Some((service, alias))
            })
        },
    );
    let (service, alias) = found?;
    let mut addresses = addresses(mesh, client, service)?;
    addresses.retain(|ip| ip.is_ipv4() == is_v4 && is_useful(client, service, *ip));
    addresses.shuffle(rng);
    Some(Answer { alias, addresses })
}

/// The service with a hostname that a client means: that of its own namespace, the canonical one, else the first by key. Those
/// that it may not know of are none; nor are those without an address of their own, unless they are Kubernetes': such an entry
/// asks for nothing but what its name has elsewhere.
fn find<'a>(
    mesh: &'a Mesh,
    client: &Client<'_>,
    hostname: &str,
    of_kubernetes: &str,
) -> Option<&'a Service> {
    let namespace = &client.pod.namespace;
    let services = mesh.services_by_hostname(hostname).filter(|service| {
        (!service.vips.is_empty() || service.key.hostname.ends_with(of_kubernetes))
            && service.is_visible_to(namespace)
    });
    services
        .min_by_key(|one| (one.key.namespace != *namespace, !one.canonical, &one.key))
        .map(AsRef::as_ref)
}

/// All addresses of a service in the client's network. A headless one has those of its endpoints, and if there are none it is
/// for others to say what that means.
fn addresses(mesh: &Mesh, client: &Client<'_>, service: &Service) -> Option<Vec<IpAddr>> {
    if !service.vips.is_empty() {
        let near = service.vips.iter().filter(|vip| vip.network == *client.network);
        return Some(near.map(|vip| vip.address).collect());
    }
    let balancing = &service.load_balancing;
    let endpoints = mesh.endpoints(&service.key).map(|(workload, _)| workload).filter(|workload| {
        workload.network == *client.network && (workload.healthy || balancing.allow_unhealthy)
    });
    let first = |is_v4: bool| move |ip: &&IpAddr| ip.is_ipv4() == is_v4;
    let mut all = Vec::new();
    for workload in endpoints {
        let addresses = &workload.addresses;
        all.extend([true, false].iter().filter_map(|v4| addresses.iter().find(first(*v4))));
    }
    (!all.is_empty()).then_some(all)
}

/// Whether an address is of a family that the service has, and by which the pod can reach anything.
fn is_useful(client: &Client<'_>, service: &Service, ip: IpAddr) -> bool {
    let of_service = service.families.include(ip);
    let of_pod = if ip.is_ipv4() { client.pod.ip4.is_some() } else { client.pod.ip6.is_some() };
    of_service && of_pod
}
