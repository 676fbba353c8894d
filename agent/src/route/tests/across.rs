//! Through the gateway of another network.

use super::*;

const FAR: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

/// As istiod tells of another network: its gateway by address, and what it serves as one workload without an address.
fn west() -> World {
    let mut gateway = pod("gateway-west", "192.0.2.1");
    gateway.network = "west".into();
    gateway.protocol = TunnelProtocol::Tcp;
    let mut reviews = backing(pod("far", "10.9.9.9"), "reviews", &[(80, 9080)]);
    reviews.addresses = Addresses::default();
    reviews.network = "west".into();
    let destination =
        WaypointDestination::Address(NetworkAddress::new("west", "192.0.2.1".parse().unwrap()));
    reviews.network_gateway = Some(Waypoint { destination, hbone_port: 25008 }.into());
    let mut service = service("reviews", "10.96.0.7", &[(80, 9080)]);
    service.subject_alt_names = vec![arcstr::literal!(FAR)];
    world(vec![pod("productpage", "10.0.0.1"), gateway, reviews], vec![service])
}

const THROUGH: &str = "tunnel gateway-west reviews.bookinfo.svc.cluster.local:80 via 192.0.2.1:25008 \
                       as gateway to reviews for reviews";

#[test]
fn a_service_of_another_network_is_reached_through_its_gateway() {
    west().check("10.96.0.7:80", THROUGH);
    let mut named = west();
    let behind = backing(pod("gateway-west", "192.0.2.1"), "gateway", &[(25008, 25008)]);
    named.workloads[1] = Workload { network: "west".into(), ..behind };
    named.services.push(service("gateway", "10.96.0.8", &[(25008, 25008)]));
    let gateway = named.workloads[2].network_gateway.as_mut().unwrap();
    gateway.destination = WaypointDestination::Service(key("gateway"));
    let refused = "refuse: workload c//Pod/bookinfo/far is on network \"west\", and no gateway is \
                   known that leads there";
    named.services[1].load_balancing = LoadBalancing {
        mode: BalancingMode::Strict,
        preferences: vec![Scope::Network],
        ..LoadBalancing::default()
    };
    named.check("10.96.0.7:80", refused);
    named.services[1].load_balancing = LoadBalancing::default();
    named.check("10.96.0.7:80", THROUGH);
}

/// The same, as istiod tells of a gateway behind a load balancer that has a hostname.
fn named() -> World {
    let mut world = west();
    world.workloads[1].addresses = Addresses::default();
    world.workloads[1].hostname = "lb.example.com".into();
    let gateway = world.workloads[2].network_gateway.as_mut().unwrap();
    let (namespace, hostname) = ("bookinfo".into(), "lb.example.com".into());
    gateway.destination = WaypointDestination::Service(ServiceKey { namespace, hostname });
    world
}

#[test]
fn a_gateway_that_has_a_hostname_alone_is_resolved_first() {
    let mut world = named();
    world.check("10.96.0.7:80", "resolve lb.example.com:25008 to gateway-west for reviews");
    let Route::Resolve(to) = world.route("10.96.0.7:80") else { panic!("nothing to resolve") };
    let at = resolved(&client(), &to, &["192.0.2.1".parse().unwrap()]);
    assert_eq!(summary(&at), THROUGH);
    let none = resolved(&client(), &to, &[]);
    let refused = "refuse: workload c//Pod/bookinfo/gateway-west has no address, and its hostname \
                   \"lb.example.com\" has none that can be used";
    assert_eq!(summary(&none), refused);
    // Another namespace's may have the same name.
    world.workloads[1].namespace = "elsewhere".into();
    let refused = "refuse: workload c//Pod/bookinfo/far is on network \"west\", and no gateway is \
                   known that leads there";
    world.check("10.96.0.7:80", refused);
}

#[test]
fn nobody_is_trusted_to_answer_there_whom_the_service_does_not_name() {
    let mut world = west();
    world.services[0].subject_alt_names.clear();
    world.check(
        "10.96.0.7:80",
        "refuse: bookinfo/reviews.bookinfo.svc.cluster.local is reached across networks, and it is \
         not told whose identities may answer there",
    );
}

#[test]
fn a_gateway_that_is_not_known_is_no_way() {
    let refused = "refuse: workload c//Pod/bookinfo/far is on network \"west\", and no gateway is \
                   known that leads there";
    let mut world = west();
    world.workloads.remove(1);
    world.check("10.96.0.7:80", refused);
    let mut world = west();
    world.workloads[2].network_gateway = None;
    world.check("10.96.0.7:80", refused);
}

#[test]
fn a_waypoint_on_another_network_is_reached_through_its_gateway() {
    let mut world = west();
    let alone = Workload { services: Backed::default(), ..world.workloads[2].clone() };
    world.workloads[2] = backing(alone, "waypoint", &[(15008, 15008)]);
    world.services[0].waypoint = Some(Waypoint {
        destination: WaypointDestination::Service(key("waypoint")),
        hbone_port: 15008,
    });
    let mut of_waypoint = service("waypoint", "10.96.0.8", &[(15008, 15008)]);
    of_waypoint.subject_alt_names =
        vec![arcstr::literal!("spiffe://cluster.local/ns/bookinfo/sa/waypoint")];
    world.services.push(of_waypoint);
    world.check("10.96.0.7:80", &THROUGH.replace("to reviews", "to waypoint"));
}

/// How often an endpoint here is chosen, of 300.
fn here(world: &World) -> usize {
    let near =
        |_: &usize| matches!(world.route("10.96.0.7:80"), Route::Tunnel(t) if t.across.is_none());
    (0..300).filter(near).count()
}

#[test]
fn both_networks_are_used_unless_one_is_preferred() {
    let mut world = west();
    world.workloads.push(backing(pod("reviews", "10.0.0.3"), "reviews", &[(80, 9080)]));
    assert!((100..200).contains(&here(&world)));
    world.services[0].load_balancing.mode = BalancingMode::Failover;
    world.services[0].load_balancing.preferences = vec![Scope::Network, Scope::Region];
    world.workloads[3].locality.region = "elsewhere".into();
    assert_eq!(here(&world), 300);
    world.workloads[3].healthy = false;
    assert_eq!(here(&world), 0);
    world.check("10.96.0.7:80", THROUGH);
}
