//! Where connections go, one fact each.

use std::collections::BTreeMap;

use crate::mesh::local::Exclusions;
use crate::mesh::service::{
    BalancingMode, Families, LoadBalancing, Locality, Port, Scope, Visibility, Waypoint,
    WaypointDestination,
};
use crate::mesh::workload::{ApplicationTunnel, TunnelProtocol};
use crate::mesh::{
    Account, Addresses, Backed, DestinationsDelta, Given, LocalPod, Mesh, MeshEvent,
    NetworkAddress, PodUid, Store,
};

use super::*;

mod across;
mod balancing;
mod clients;
mod incoming;
mod outgoing;

fn net() -> Network {
    Network::new()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "bookinfo".into(),
        hostname: arcstr::format!("{name}.bookinfo.svc.cluster.local"),
    }
}

/// The client: `productpage` at 10.0.0.1.
fn client() -> LocalPod {
    local("productpage", "10.0.0.1")
}

fn local(name: &str, ip: &str) -> LocalPod {
    LocalPod {
        uid: PodUid("uid".into()),
        namespace: "bookinfo".into(),
        name: name.into(),
        account: Account::new("bookinfo", name).unwrap(),
        ip4: Some(ip.parse().unwrap()),
        ip6: None,
        exclusions: Exclusions::default(),
    }
}

/// A pod whose account is the first part of its name.
fn pod(name: &str, ip: &str) -> Workload {
    let account = name.split('-').next().unwrap();
    Workload::pod("c", "bookinfo", name, account, ip.parse().unwrap()).unwrap()
}

/// A pod behind a service, with the port mapping given.
fn backing(mut workload: Workload, service: &str, ports: &[(u16, u16)]) -> Workload {
    workload.services.insert(key(service), mapped(ports));
    workload
}

fn mapped(ports: &[(u16, u16)]) -> Vec<Port> {
    let port = |&(service_port, target): &(u16, u16)| {
        let target_port = (target != 0).then_some(target);
        Port { service_port, target_port }
    };
    ports.iter().map(port).collect()
}

/// A service with a virtual address; target port 0 is a named one.
fn service(name: &str, vip: &str, ports: &[(u16, u16)]) -> Service {
    Service {
        name: name.into(),
        key: key(name),
        vips: vec![NetworkAddress::new(net(), vip.parse().unwrap())],
        cidr_vips: vec![],
        ports: mapped(ports),
        subject_alt_names: vec![],
        waypoint: None,
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing::default(),
        canonical: true,
        families: Families::default(),
        visibility: Visibility::default(),
    }
}

#[derive(Default)]
struct World {
    workloads: Vec<Workload>,
    services: Vec<Service>,
}

impl World {
    fn mesh(&self) -> Arc<Mesh> {
        self.mesh_of(&client())
    }

    /// As the node of a pod knows it.
    fn mesh_of(&self, pod: &LocalPod) -> Arc<Mesh> {
        let own = self.workloads.iter().find(|workload| workload.name == pod.name);
        let node = own.map(|workload| workload.node.clone()).unwrap_or_default();
        let (mut store, reader) = Store::on(Given { node, ..Given::default() });
        let workloads = self.workloads.iter().cloned().map(Arc::new).map(MeshEvent::Workload);
        let services = self.services.iter().cloned().map(Arc::new).map(MeshEvent::Service);
        store.apply(workloads.chain(services));
        reader.load()
    }

    fn route(&self, destination: &str) -> Route {
        let mesh = self.mesh();
        let pod = client();
        let own = mesh.workload_of(&pod).cloned();
        let destination = destination.parse().unwrap();
        outbound(&mesh, &pod, own.as_deref(), &net(), destination, &mut rand::rng())
    }

    /// Checks a route by what [`summary`] says of it.
    fn check(&self, destination: &str, expected: &str) {
        assert_eq!(summary(&self.route(destination)), expected, "to {destination}");
    }
}

fn world(workloads: Vec<Workload>, services: Vec<Service>) -> World {
    World { workloads, services }
}

fn accounts(uris: &[ArcStr]) -> String {
    let accounts: Vec<_> = uris.iter().map(|uri| uri.rsplit('/').next().unwrap()).collect();
    accounts.join(",")
}

/// `tunnel <workload> <authority> via <gateway> as <accounts> [to <inner accounts>] [for <service>]`, `direct <target>
/// [to <workload>] [for <service>]`, or `refuse: <why>`.
fn summary(route: &Route) -> String {
    let of = |service: &Option<Arc<Service>>| {
        service.as_ref().map(|service| format!(" for {}", service.name)).unwrap_or_default()
    };
    match route {
        Route::Tunnel(t) => {
            let (name, gateway, authority) = (&t.workload.name, t.gateway, &t.authority);
            let accounts = accounts(&t.expected);
            let inner = t.across.as_ref();
            let inner = inner.map(|inner| format!(" to {}", self::accounts(&inner.expected)));
            assert!(inner.is_some() || t.target.to_string() == *authority);
            let inner = inner.unwrap_or_default();
            let service = of(&t.service);
            format!("tunnel {name} {authority} via {gateway} as {accounts}{inner}{service}")
        }
        Route::Direct(d) => {
            let to = d.workload.as_ref().map(|w| format!(" to {}", w.name)).unwrap_or_default();
            format!("direct {}{to}{}", d.target, of(&d.service))
        }
        Route::Resolve(to) => {
            format!(
                "resolve {}:{} to {}{}",
                to.workload.hostname,
                to.port,
                to.workload.name,
                of(&to.service)
            )
        }
        Route::Refuse(error) => format!("refuse: {error}"),
    }
}
