//! The store against a naive model, over random events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::mesh::policy::{Action, PolicyScope};
use crate::mesh::service::{Families, LoadBalancing, Visibility, Waypoint, WaypointDestination};
use crate::mesh::{DestinationsDelta, MeshEvent, Store};

use super::*;

const NETWORKS: [&str; 2] = ["", "west"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1"];
const RANGES: [&str; 4] = ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.2/31", "fd00::/8"];
/// Workloads tell where the first leads, and nothing of the second, which is named.
const PORTS: [Port; 2] = [
    Port { service_port: 80, target_port: Some(8080) },
    Port { service_port: 443, target_port: None },
];
const NAMES: [&str; 3] = ["a", "b", "c"];

fn service_key(name: &str) -> ServiceKey {
    // Two namespaces share each hostname.
    let (namespace, hostname) = if name == "c" { ("other", "a") } else { ("ns", name) };
    ServiceKey { namespace: namespace.into(), hostname: hostname.into() }
}

fn some<T: Clone + std::fmt::Debug + 'static>(all: &[T]) -> impl Strategy<Value = Vec<T>> {
    subsequence(all.to_vec(), 0..=2)
}

fn any_workload() -> impl Strategy<Value = Workload> {
    let parts = (
        select(&NAMES[..]),
        select(&NETWORKS[..]),
        some(&ADDRESSES),
        some(&NAMES),
        proptest::bool::weighted(0.2),
        any::<bool>(),
        select(&["", "a", "b"][..]),
    );
    parts.prop_map(|(name, network, addresses, services, host_network, healthy, hostname)| {
        let mut workload = Workload::pod("c", "ns", name, "sa", [10, 0, 0, 9].into()).unwrap();
        workload.network = network.into();
        workload.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let own = |name: &&str| (service_key(name), vec![PORTS[0]]);
        workload.services = services.iter().map(own).collect();
        workload.host_network = host_network;
        workload.healthy = healthy;
        workload.hostname = hostname.into();
        workload
    })
}

fn any_service() -> impl Strategy<Value = Service> {
    let parts = (
        select(&NAMES[..]),
        select(&NETWORKS[..]),
        some(&ADDRESSES),
        some(&RANGES),
        some(&PORTS),
        any::<bool>(),
        proptest::bool::weighted(0.2),
        any::<bool>(),
    );
    parts.prop_map(|(name, network, vips, ranges, ports, canonical, waypoint, private)| Service {
        name: name.into(),
        key: service_key(name),
        vips: vips.iter().map(|ip| NetworkAddress::new(network, ip.parse().unwrap())).collect(),
        cidr_vips: ranges.iter().map(|r| (network.into(), r.parse().unwrap())).collect(),
        ports,
        subject_alt_names: vec![],
        waypoint: waypoint.then(|| Waypoint {
            destination: WaypointDestination::Service(service_key("a")),
            hbone_port: 15008,
        }),
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing::default(),
        canonical,
        families: Families::Any,
        visibility: if private { Visibility::Namespace } else { Visibility::Public },
    })
}

fn any_policy() -> impl Strategy<Value = Authorization> {
    let scopes = vec![PolicyScope::Global, PolicyScope::Namespace, PolicyScope::WorkloadSelector];
    let actions = vec![Action::Allow, Action::Deny];
    (select(&NAMES[..]), select(scopes), select(actions), any::<bool>()).prop_map(
        |(name, scope, action, dry_run)| Authorization {
            key: PolicyKey { namespace: "ns".into(), name: name.into() },
            scope,
            action,
            groups: vec![],
            dry_run,
        },
    )
}

fn any_unreadable() -> impl Strategy<Value = (ArcStr, Ranges)> {
    const HOSTS: [&str; 3] = ["10.0.0.1/32", "10.0.1.1/32", "fd00::1/128"];
    let parts = (select(&NAMES[..]), select(&NETWORKS[..]), some(&RANGES), some(&HOSTS));
    parts.prop_map(|(name, network, ranges, hosts)| {
        let all = ranges.into_iter().chain(hosts);
        (name.into(), all.map(|range| (network.into(), range.parse().unwrap())).collect())
    })
}

fn any_event() -> impl Strategy<Value = MeshEvent> {
    prop_oneof![
        4 => any_workload().prop_map(|w| MeshEvent::Workload(Arc::new(w))),
        3 => any_service().prop_map(|s| MeshEvent::Service(Arc::new(s))),
        2 => any_policy().prop_map(|p| MeshEvent::Policy(Arc::new(p))),
        2 => any_workload().prop_map(|w| MeshEvent::RemoveWorkload(w.uid)),
        1 => any_service().prop_map(|s| MeshEvent::RemoveService(s.key)),
        1 => any_policy().prop_map(|p| MeshEvent::UnreadablePolicy(p.key, p.scope)),
        1 => any_policy().prop_map(|p| MeshEvent::RemovePolicy(p.key)),
        1 => any_unreadable().prop_map(|(name, ranges)| MeshEvent::UnreadableAddress(name, ranges)),
        1 => any_unreadable().prop_map(|(name, _)| MeshEvent::RemoveUnreadableAddress(name)),
    ]
}

/// Plain lists; every question is answered by a walk.
#[derive(Debug, Clone, Default)]
struct Model {
    workloads: BTreeMap<WorkloadUid, Arc<Workload>>,
    services: BTreeMap<ServiceKey, Arc<Service>>,
    policies: BTreeMap<PolicyKey, Arc<Authorization>>,
    unreadable: BTreeMap<PolicyKey, PolicyScope>,
    unreadable_addresses: BTreeMap<ArcStr, Ranges>,
    /// When each workload's present claim to an address began.
    claims: BTreeMap<(NetworkAddress, WorkloadUid), usize>,
    clock: usize,
}

impl Model {
    fn apply(&mut self, event: &MeshEvent) {
        self.clock += 1;
        match event.clone() {
            MeshEvent::Workload(w) => drop(self.workloads.insert(w.uid.clone(), w)),
            MeshEvent::Service(s) => drop(self.services.insert(s.key.clone(), s)),
            MeshEvent::Policy(p) => {
                self.unreadable.remove(&p.key);
                self.policies.insert(p.key.clone(), p);
            }
            MeshEvent::UnreadablePolicy(key, scope) => {
                // A good version stays in force.
                if !self.policies.contains_key(&key) {
                    self.unreadable.insert(key, scope);
                }
            }
            MeshEvent::UnreadableAddress(name, ranges) => {
                drop(self.unreadable_addresses.insert(name, ranges))
            }
            MeshEvent::RemoveUnreadableAddress(name) => {
                drop(self.unreadable_addresses.remove(&name))
            }
            MeshEvent::RemoveWorkload(uid) => drop(self.workloads.remove(&uid)),
            MeshEvent::RemoveService(key) => drop(self.services.remove(&key)),
            MeshEvent::RemovePolicy(key) => {
                self.policies.remove(&key);
                self.unreadable.remove(&key);
            }
        }
        let claimed: BTreeSet<_> = self
            .workloads
            .values()
            .filter(|w| !w.host_network)
            .flat_map(|w| {
                let at = |ip: &IpAddr| NetworkAddress::new(w.network.clone(), *ip);
                w.addresses.iter().map(at).map(|at| (at, w.uid.clone()))
            })
            .collect();
        self.claims.retain(|claim, _| claimed.contains(claim));
        for claim in claimed {
            self.claims.entry(claim).or_insert(self.clock);
        }
    }

    fn by_address(&self, at: &NetworkAddress) -> Vec<&WorkloadUid> {
        let mut uids: Vec<_> =
            self.claims.iter().filter(|((of, _), _)| of == at).map(|((_, u), t)| (t, u)).collect();
        uids.sort_by(|a, b| b.0.cmp(a.0));
        uids.into_iter().map(|(_, uid)| uid).collect()
    }

    /// As a client of a namespace sees it, or as whoever asks.
    fn by_vip(&self, at: &NetworkAddress, client: Option<&str>) -> Option<&ServiceKey> {
        let other = |s: &Service| client.is_some_and(|client| s.key.namespace != client);
        let order = |s: &&Arc<Service>| (other(s), !s.canonical, s.key.clone());
        let seen = |s: &&Arc<Service>| s.visibility == Visibility::Public || !other(s);
        let seen = || self.services.values().filter(seen);
        let exact = seen().filter(|s| s.vips.contains(at)).min_by_key(order);
        let longest = |s: &Service| {
            let holds =
                |(of, range): &&(Network, IpNet)| *of == at.network && range.contains(&at.address);
            s.cidr_vips.iter().filter(holds).map(|(_, range)| range.prefix_len()).max()
        };
        let ranged = || {
            let ranged = seen().filter_map(|s| Some((s, longest(s)?)));
            let order = |(s, length): &(&Arc<Service>, u8)| {
                (other(s), std::cmp::Reverse(*length), !s.canonical, s.key.clone())
            };
            ranged.min_by_key(order).map(|(s, _)| s)
        };
        exact.or_else(ranged).map(|s| &s.key)
    }

    /// Where nobody serves what a service promises.
    fn closed(&self, network: &str) -> BTreeSet<SocketAddr> {
        let has = |s: &Service, port| s.ports.iter().any(|own| own.service_port == port);
        let mut closed = BTreeSet::new();
        for service in self.services.values() {
            for at in service.vips.iter().filter(|at| at.network == network) {
                for port in service.ports.iter().map(|port| port.service_port) {
                    let meant: Vec<_> = self
                        .services
                        .values()
                        .filter(|s| s.vips.contains(at) && has(s, port))
                        .collect();
                    let serves = |w: &Workload, key: &ServiceKey| {
                        w.healthy && port == 80 && w.services.contains_key(key)
                    };
                    let served = |s: &&Arc<Service>| {
                        s.waypoint.is_some() || self.workloads.values().any(|w| serves(w, &s.key))
                    };
                    let public = |s: &&Arc<Service>| s.visibility == Visibility::Public;
                    if !meant.iter().any(served) && meant.iter().any(public) {
                        closed.insert(SocketAddr::new(at.address, port));
                    }
                }
            }
        }
        closed
    }

    fn destinations(&self) -> BTreeSet<IpNet> {
        let owned = self.claims.keys().map(|(at, _)| at);
        let vips = self.services.values().flat_map(|s| &s.vips);
        let hosts = owned.chain(vips);
        let ranges = self.services.values().flat_map(|s| &s.cidr_vips).map(|(_, range)| *range);
        let unreadable = self.unreadable_addresses.values().flat_map(|ranges| ranges.iter());
        let unreadable = unreadable.map(|(_, range)| *range);
        hosts.map(|at| IpNet::from(at.address)).chain(ranges).chain(unreadable).collect()
    }

    /// Those with the longest range that holds it.
    fn unreadable_at(&self, at: &NetworkAddress) -> BTreeSet<&ArcStr> {
        let holding = self.unreadable_addresses.iter().flat_map(|(name, ranges)| {
            let holds =
                |(of, range): &&(Network, IpNet)| *of == at.network && range.contains(&at.address);
            ranges.iter().filter(holds).map(move |(_, range)| (range.prefix_len(), name))
        });
        let holding: Vec<_> = holding.collect();
        let longest = holding.iter().map(|(length, _)| *length).max();
        let of_it = holding.into_iter().filter(|(length, _)| Some(*length) == longest);
        of_it.map(|(_, name)| name).collect()
    }
}

fn check(mesh: &Mesh, model: &Model) -> Result<(), TestCaseError> {
    for (network, ip) in NETWORKS.iter().flat_map(|n| ADDRESSES.iter().map(move |ip| (n, ip))) {
        let at = NetworkAddress::new(*network, ip.parse().unwrap());
        let owners: Vec<_> =
            mesh.workloads_by_address(&at.network, at.address).map(|w| &w.uid).collect();
        prop_assert_eq!(owners, model.by_address(&at));
        let service = mesh.service_by_vip(&at.network, at.address).map(|s| &s.key);
        prop_assert_eq!(service, model.by_vip(&at, None));
        for client in ["ns", "other", "third"] {
            // On a port that none has: which they have is another question.
            let destination = SocketAddr::new(at.address, 1);
            let service = mesh.service_at(&at.network, destination, client).map(|s| &s.key);
            prop_assert_eq!(service, model.by_vip(&at, Some(client)), "for {}", client);
        }
        let unreadable = model.unreadable_at(&at);
        match mesh.unreadable_at(&at.network, at.address) {
            Some(name) => prop_assert!(unreadable.contains(name)),
            None => prop_assert!(unreadable.is_empty()),
        }
    }
    let uids: BTreeSet<_> = mesh.workloads().map(|w| &w.uid).collect();
    prop_assert_eq!(uids, model.workloads.keys().collect());
    for key in NAMES.map(service_key) {
        prop_assert_eq!(mesh.service(&key), model.services.get(&key));
        let endpoints: BTreeSet<_> = mesh.endpoints(&key).map(|(w, _)| &w.uid).collect();
        let backing = model.workloads.values().filter(|w| w.services.contains_key(&key));
        prop_assert_eq!(endpoints, backing.map(|w| &w.uid).collect());
        prop_assert!(
            mesh.endpoints(&key).all(|(w, ports)| Some(ports) == w.services.get(&key)
                && mesh.workload(&w.uid) == Some(w))
        );
        let named: BTreeSet<_> = mesh.services_by_hostname(&key.hostname).map(|s| &s.key).collect();
        let same = model.services.keys().filter(|other| other.hostname == key.hostname);
        prop_assert_eq!(named, same.collect());
        let is_named = |w: &&Arc<Workload>| {
            w.addresses.is_empty() && w.hostname == key.hostname && w.namespace == key.namespace
        };
        prop_assert_eq!(mesh.workload_by_hostname(&key), model.workloads.values().find(is_named));
    }
    check_policies(mesh, model)
}

fn check_policies(mesh: &Mesh, model: &Model) -> Result<(), TestCaseError> {
    let keys: BTreeSet<_> = mesh.policies().map(|p| &p.key).collect();
    prop_assert_eq!(keys, model.policies.keys().collect());
    let of = |scope, action, dry_run| -> Vec<&PolicyKey> {
        let matching = move |p: &&Arc<Authorization>| {
            p.scope == scope && p.dry_run == dry_run && (dry_run || p.action == action)
        };
        model.policies.values().filter(matching).map(|p| &p.key).collect()
    };
    let empty = PolicySet::default();
    let namespace = mesh.policies_of_namespace(&"ns".into()).unwrap_or(&empty);
    for (scope, set) in
        [(PolicyScope::Global, mesh.global_policies()), (PolicyScope::Namespace, namespace)]
    {
        let keys = |p: &Arc<Authorization>| p.key.clone();
        let expected =
            |action, dry| of(scope, action, dry).into_iter().cloned().collect::<Vec<_>>();
        prop_assert_eq!(
            set.deny().iter().map(keys).collect::<Vec<_>>(),
            expected(Action::Deny, false)
        );
        prop_assert_eq!(
            set.allow().iter().map(keys).collect::<Vec<_>>(),
            expected(Action::Allow, false)
        );
        prop_assert_eq!(set.dry_run().map(keys).collect::<Vec<_>>(), expected(Action::Deny, true));
        let unreadable = model.unreadable.iter().filter(|(_, of)| **of == scope);
        prop_assert!(set.unreadable().eq(unreadable.map(|(key, _)| key)));
    }
    Ok(())
}

fn changes(before: &BTreeSet<IpNet>, after: &BTreeSet<IpNet>) -> DestinationsDelta {
    let mut delta = DestinationsDelta::default();
    for (range, hosts, cidrs) in [
        (after - before, &mut delta.added, &mut delta.added_cidrs),
        (before - after, &mut delta.removed, &mut delta.removed_cidrs),
    ] {
        for range in range {
            if range.prefix_len() == range.max_prefix_len() {
                hosts.push(range.addr());
            } else {
                cidrs.push(range);
            }
        }
    }
    delta
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn indexes_agree_with_plain_lists_after_any_events(
        batches in vec(vec(any_event(), 0..6), 0..12),
    ) {
        let (mut store, reader) = Store::new();
        let mut model = Model::default();
        for batch in batches {
            let before = (reader.load(), model.clone());
            batch.iter().for_each(|event| model.apply(event));
            store.apply(batch);
            let mesh = reader.load();
            check(&mesh, &model)?;
            // Snapshots do not change under their readers.
            check(&before.0, &before.1)?;
            let delta = DestinationsDelta::between(&before.0, &mesh);
            let mut expected = changes(&before.1.destinations(), &model.destinations());
            let closed = |mesh: &Mesh, model: &Model| {
                mesh.home().map(|home| model.closed(&home.network)).unwrap_or_default()
            };
            let (open, closed) = (closed(&before.0, &before.1), closed(&mesh, &model));
            expected.closed = (&closed - &open).into_iter().collect();
            expected.opened = (&open - &closed).into_iter().collect();
            prop_assert_eq!(sorted(delta), sorted(expected));
        }
        // Nothing is left behind in any index.
        let mesh = reader.load();
        let uids = mesh.workloads().map(|w| MeshEvent::RemoveWorkload(w.uid.clone()));
        let keys = mesh.services().map(|s| MeshEvent::RemoveService(s.key.clone()));
        let policies = mesh.policies().map(|p| MeshEvent::RemovePolicy(p.key.clone()));
        let unreadable = model.unreadable.into_keys().map(MeshEvent::RemovePolicy);
        let names = mesh.unreadable_addresses().map(|(name, _)| name.clone());
        let names = names.map(MeshEvent::RemoveUnreadableAddress);
        store.apply(uids.chain(keys).chain(policies).chain(unreadable).chain(names));
        let (left, fresh) = (reader.load(), Mesh::default());
        prop_assert_eq!(contents(&left), contents(&fresh));
    }
}

/// Every index, printed.
fn contents(mesh: &Mesh) -> String {
    let resources = (&mesh.workloads, &mesh.services, &mesh.policies);
    let indexes = (&mesh.by_address, &mesh.by_vip, &mesh.by_cidr, &mesh.by_hostname);
    let kept =
        (&mesh.endpoints, &mesh.destinations, &mesh.closed, &mesh.unreadable, mesh.locals.count());
    format!("{resources:?} {indexes:?} {kept:?}")
}

fn sorted(mut delta: DestinationsDelta) -> DestinationsDelta {
    delta.added.sort();
    delta.removed.sort();
    delta.added_cidrs.sort();
    delta.removed_cidrs.sort();
    delta.closed.sort();
    delta.opened.sort();
    delta
}

fn workload() -> MeshEvent {
    let workload = Workload::pod("c", "ns", "a", "sa", [10, 0, 0, 1].into()).unwrap();
    MeshEvent::Workload(Arc::new(workload))
}

#[test]
fn a_batch_is_published_once_and_only_if_it_changes_something() {
    let (mut store, reader) = Store::new();
    let mut changes = reader.changes();
    store.apply([]);
    assert!(!changes.has_changed().unwrap());
    store.apply([workload(), workload()]);
    assert_eq!((*changes.borrow_and_update(), reader.load().version()), (1, 1));
    store.apply([workload()]);
    assert!(!changes.has_changed().unwrap());
    assert_eq!(reader.load().version(), 1);
}

#[test]
fn synced_takes_both_kinds() {
    let (mut store, reader) = Store::new();
    store.set_synced(ResourceKind::Address);
    assert!(!reader.load().synced());
    assert!(reader.load().kind_synced(ResourceKind::Address));
    store.set_synced(ResourceKind::Authorization);
    assert!(reader.load().synced());
}
