//! Outbound.

use super::*;

fn details() -> World {
    world(
        vec![
            pod("productpage", "10.0.0.1"),
            backing(pod("details", "10.0.0.2"), "details", &[(80, 9080)]),
        ],
        vec![service("details", "10.96.0.1", &[(80, 9080)])],
    )
}

fn waypoint_at(address: &str) -> Option<Waypoint> {
    let address = NetworkAddress::new(net(), address.parse().unwrap());
    Some(Waypoint { destination: WaypointDestination::Address(address), hbone_port: 15008 })
}

fn waypoint_service(name: &str) -> Option<Waypoint> {
    let destination = WaypointDestination::Service(key(name));
    Some(Waypoint { destination, hbone_port: 15008 })
}

/// `details` and a waypoint `gate` at 10.0.0.9 behind 10.96.0.9.
fn with_waypoint() -> World {
    let mut world = details();
    world.workloads.push(backing(pod("gate-1", "10.0.0.9"), "gate", &[(15008, 15008)]));
    world.services.push(service("gate", "10.96.0.9", &[(15008, 15008)]));
    world
}

#[test]
fn a_service_address_leads_to_an_endpoint_and_its_port() {
    let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details for details";
    details().check("10.96.0.1:80", expected);
    details().check("[::ffff:10.96.0.1]:80", expected);
}

#[test]
fn a_pod_address_leads_to_that_pod() {
    let expected = "tunnel details 10.0.0.2:1234 via 10.0.0.2:15008 as details";
    details().check("10.0.0.2:1234", expected);
}

#[test]
fn a_headless_service_is_reached_by_pod_address() {
    let mut world = details();
    world.services[0].vips.clear();
    world.check("10.0.0.2:9080", "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details");
    world.check("10.96.0.1:80", "direct 10.96.0.1:80");
}

#[test]
fn an_unknown_destination_is_left_alone() {
    details().check("93.184.216.34:443", "direct 93.184.216.34:443");
    details().check("[2001:db8::1]:443", "direct [2001:db8::1]:443");
    details().check("93.184.216.34:15008", "direct 93.184.216.34:15008");
}

#[test]
fn a_workload_outside_the_mesh_is_reached_as_it_is() {
    let mut world = details();
    world.workloads[1].protocol = TunnelProtocol::Tcp;
    world.check("10.96.0.1:80", "direct 10.0.0.2:9080 to details for details");
    world.check("10.0.0.2:9080", "direct 10.0.0.2:9080 to details");
    world.check("10.0.0.2:15008", "direct 10.0.0.2:15008 to details");
}

#[test]
fn a_workload_of_an_unknown_tunnel_protocol_is_not_reached_in_the_clear() {
    let mut world = details();
    world.workloads[1].protocol = TunnelProtocol::Unknown;
    let refused =
        "refuse: workload c//Pod/bookinfo/details takes tunnels of a kind that is not supported";
    world.check("10.96.0.1:80", refused);
    world.check("10.0.0.2:9080", refused);
    // Itself a pod reaches all the same.
    world.workloads[0].protocol = TunnelProtocol::Unknown;
    world.check("10.0.0.1:9080", "direct 10.0.0.1:9080 to productpage");
    // Its waypoint is how it is reached, whatever it takes itself.
    let mut world = with_waypoint();
    world.workloads[1].protocol = TunnelProtocol::Unknown;
    world.workloads[1].waypoint = waypoint_at("10.0.0.9").map(Box::new);
    world.check("10.0.0.2:9080", "tunnel gate-1 10.0.0.2:9080 via 10.0.0.9:15008 as gate");
}

#[test]
fn a_host_network_workload_is_reached_as_it_is_and_never_by_address() {
    let mut world = details();
    world.workloads[1].host_network = true;
    world.check("10.96.0.1:80", "direct 10.0.0.2:9080 to details for details");
    world.check("10.0.0.2:9080", "direct 10.0.0.2:9080");
}

#[test]
fn a_named_port_is_the_endpoints_own() {
    let mut world = details();
    world.services[0].ports = mapped(&[(80, 0)]);
    world.workloads[1].services = [(key("details"), mapped(&[(80, 7070)]))].into_iter().collect();
    world.check(
        "10.96.0.1:80",
        "tunnel details 10.0.0.2:7070 via 10.0.0.2:15008 as details for details",
    );
    world.workloads[1].services = [(key("details"), vec![])].into_iter().collect();
    world.check("10.96.0.1:80", "refuse: no healthy upstream: 10.96.0.1:80");
}

#[test]
fn a_port_the_service_lacks_is_refused() {
    details().check(
        "10.96.0.1:81",
        "refuse: no healthy upstream: 10.96.0.1:81: \
         bookinfo/details.bookinfo.svc.cluster.local has no port 81",
    );
}

#[test]
fn a_service_without_a_healthy_endpoint_is_refused() {
    let mut world = details();
    world.workloads[1].healthy = false;
    world.check("10.96.0.1:80", "refuse: no healthy upstream: 10.96.0.1:80");
    world.services[0].load_balancing.allow_unhealthy = true;
    let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details for details";
    world.check("10.96.0.1:80", expected);
    world.workloads.pop();
    world.check("10.96.0.1:80", "refuse: no healthy upstream: 10.96.0.1:80");
}

#[test]
fn a_service_may_name_other_identities() {
    let mut world = details();
    world.services[0].subject_alt_names =
        vec![arcstr::literal!("spiffe://cluster.local/ns/bookinfo/sa/other")];
    let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details,other for details";
    world.check("10.96.0.1:80", expected);
    world.check("10.0.0.2:80", "tunnel details 10.0.0.2:80 via 10.0.0.2:15008 as details");
}

#[test]
fn the_longest_range_wins_and_an_exact_address_before_it() {
    let mut world = details();
    let mut wide = service("wide", "10.96.0.2", &[(80, 9080)]);
    wide.cidr_vips = vec![(net(), "172.16.0.0/12".parse().unwrap())];
    let mut narrow = service("narrow", "10.96.0.3", &[(80, 9081)]);
    narrow.cidr_vips = vec![(net(), "172.16.1.0/24".parse().unwrap())];
    let exact = service("exact", "172.16.1.1", &[(80, 9082)]);
    for name in ["wide", "narrow", "exact"] {
        world.workloads[1].services.insert(key(name), vec![]);
    }
    world.services.extend([wide, narrow, exact]);
    let to = |port| format!("tunnel details 10.0.0.2:{port} via 10.0.0.2:15008 as details for ");
    world.check("172.16.0.1:80", &(to(9080) + "wide"));
    world.check("172.16.1.2:80", &(to(9081) + "narrow"));
    world.check("172.16.1.1:80", &(to(9082) + "exact"));
    world.check("172.32.0.1:80", "direct 172.32.0.1:80");
}

#[test]
fn passthrough_keeps_the_destination() {
    let mut world = details();
    world.services[0].load_balancing.mode = BalancingMode::Passthrough;
    world.services[0].cidr_vips = vec![(net(), "10.0.0.0/24".parse().unwrap())];
    world.check("10.96.0.1:443", "direct 10.96.0.1:443 for details");
    let expected = "tunnel details 10.0.0.2:443 via 10.0.0.2:15008 as details for details";
    world.check("10.0.0.2:443", expected);
}

#[test]
fn the_port_of_the_mesh_is_refused() {
    let own = |ip: &str| format!("refuse: {ip}:15008 ends at a port of the mesh's own");
    details().check("10.0.0.2:15008", &own("10.0.0.2"));
    details().check("10.0.0.1:15008", &own("10.0.0.1"));
    let mut world = details();
    world.services[0].ports = mapped(&[(80, 15008)]);
    world.workloads[1].services.insert(key("details"), vec![]);
    world.check("10.96.0.1:80", &own("10.0.0.2"));
}

#[test]
fn ports_that_other_proxies_take_are_the_applications() {
    for port in [15001, 15006] {
        let expected = format!("tunnel details 10.0.0.2:{port} via 10.0.0.2:15008 as details");
        details().check(&format!("10.0.0.2:{port}"), &expected);
    }
}

#[test]
fn a_pod_that_reaches_itself_stays_at_home() {
    let mut world = details();
    let own = backing(pod("productpage", "10.0.0.1"), "productpage", &[(80, 9080)]);
    world.workloads[0] = own;
    world.services.push(service("productpage", "10.96.0.2", &[(80, 9080)]));
    world.check("10.96.0.2:80", "direct 10.0.0.1:9080 to productpage for productpage");
    world.check("10.0.0.1:9080", "direct 10.0.0.1:9080 to productpage");
}

#[test]
fn a_service_address_goes_through_the_services_waypoint_alone() {
    for waypoint in [waypoint_at("10.0.0.9"), waypoint_at("10.96.0.9"), waypoint_service("gate")] {
        let mut world = with_waypoint();
        world.services[0].waypoint = waypoint;
        let expected = "tunnel gate-1 10.96.0.1:80 via 10.0.0.9:15008 as gate for details";
        world.check("10.96.0.1:80", expected);
        world.check("10.0.0.2:80", "tunnel details 10.0.0.2:80 via 10.0.0.2:15008 as details");
    }
}

#[test]
fn a_pod_address_goes_through_the_workloads_waypoint_alone() {
    let mut world = with_waypoint();
    world.workloads[1].waypoint = waypoint_service("gate").map(Box::new);
    world.check("10.0.0.2:80", "tunnel gate-1 10.0.0.2:80 via 10.0.0.9:15008 as gate");
    let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details for details";
    world.check("10.96.0.1:80", expected);
}

#[test]
fn a_waypoint_does_not_go_through_itself() {
    for waypoint in [waypoint_at("10.0.0.1"), waypoint_at("10.96.0.9"), waypoint_service("gate")] {
        let mut world = with_waypoint();
        world.workloads[0].services.insert(key("gate"), vec![]);
        world.services[0].waypoint = waypoint.clone();
        world.workloads[1].waypoint = waypoint.map(Box::new);
        let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details for details";
        world.check("10.96.0.1:80", expected);
        world.check("10.0.0.2:80", "tunnel details 10.0.0.2:80 via 10.0.0.2:15008 as details");
    }
}

#[test]
fn waypoints_share_a_services_connections_by_their_weights() {
    let mut world = with_waypoint();
    world.workloads.push(backing(pod("new-1", "10.0.0.8"), "new", &[(15008, 15008)]));
    world.services.push(service("new", "10.96.0.8", &[(15008, 15008)]));
    world.services[0].waypoint = waypoint_service("gate");
    let by_gate = "tunnel gate-1 10.96.0.1:80 via 10.0.0.9:15008 as gate for details";
    let by_new = "tunnel new-1 10.96.0.1:80 via 10.0.0.8:15008 as new for details";
    let mut share = |gate: u32, new: u32| {
        let both = [("gate", gate), ("new", new)];
        let both = both.map(|(name, weight)| (waypoint_service(name).unwrap(), weight));
        world.services[0].weighted_waypoints = both.to_vec();
        let routes = (0..400).map(|_| summary(&world.route("10.96.0.1:80")));
        let mut count = BTreeMap::<_, usize>::new();
        routes.for_each(|route| *count.entry(route).or_default() += 1);
        (count.remove(by_gate).unwrap_or_default(), count.remove(by_new).unwrap_or_default())
    };
    assert_eq!(share(1, 0), (400, 0));
    assert_eq!(share(0, u32::MAX), (0, 400));
    let (few, many) = share(u32::MAX / 4, u32::MAX);
    assert!((30..=150).contains(&few) && few + many == 400, "{few} and {many}");
    // As if nothing was said of shares.
    assert_eq!(share(0, 0), (400, 0));
}

#[test]
fn a_waypoint_that_shares_does_not_go_through_another() {
    let mut world = with_waypoint();
    world.workloads[0].services.insert(key("new"), vec![]);
    world.services[0].waypoint = waypoint_service("gate");
    let both = [("gate", 1), ("new", 1)];
    let both = both.map(|(name, weight)| (waypoint_service(name).unwrap(), weight));
    world.services[0].weighted_waypoints = both.to_vec();
    world.services.push(service("new", "10.96.0.8", &[(15008, 15008)]));
    let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details for details";
    for _ in 0..20 {
        world.check("10.96.0.1:80", expected);
    }
}

#[test]
fn a_waypoint_is_never_gone_around() {
    let refused = "refuse: no usable waypoint in front of 10.96.0.1:80";
    let mut world = with_waypoint();
    world.services[0].waypoint = waypoint_service("missing");
    world.check("10.96.0.1:80", refused);
    world.services[0].waypoint = waypoint_at("10.0.0.77");
    world.check("10.96.0.1:80", refused);
    world.services[0].waypoint = waypoint_service("gate");
    world.workloads[2].healthy = false;
    world.check("10.96.0.1:80", refused);
}

#[test]
fn a_waypoints_port_may_be_mapped() {
    let mut world = with_waypoint();
    world.services[0].waypoint = waypoint_service("gate");
    world.workloads[2].services = [(key("gate"), mapped(&[(15008, 25008)]))].into_iter().collect();
    let expected = "tunnel gate-1 10.96.0.1:80 via 10.0.0.9:25008 as gate for details";
    world.check("10.96.0.1:80", expected);
}

#[test]
fn another_network_without_a_gateway_is_refused_unless_an_endpoint_is_on_ours() {
    let mut world = details();
    let mut remote = backing(pod("details-remote", "10.0.0.3"), "details", &[(80, 9080)]);
    remote.network = "west".into();
    remote.node = "far".into();
    world.workloads.push(remote);
    let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details for details";
    for _ in 0..20 {
        world.check("10.96.0.1:80", expected);
    }
    world.workloads.remove(1);
    world.check(
        "10.96.0.1:80",
        "refuse: workload c//Pod/bookinfo/details-remote is on network \"west\", \
         and no gateway is known that leads there",
    );
}

#[test]
fn a_workload_with_a_hostname_alone_is_resolved_first() {
    let mut world = details();
    world.workloads[1].addresses = Addresses::default();
    world.workloads[1].hostname = "example.com".into();
    world.check("10.96.0.1:80", "resolve example.com:9080 to details for details");
    let Route::Resolve(to) = world.route("10.96.0.1:80") else { panic!("nothing to resolve") };
    let check = |addresses: &[&str], expected: &str| {
        let addresses: Vec<_> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(summary(&resolved(&client(), &to, &addresses)), expected, "{addresses:?}");
    };
    let tunnel = "tunnel details 192.0.2.7:9080 via 192.0.2.7:15008 as details for details";
    check(&["fd00::9", "192.0.2.7", "192.0.2.8"], tunnel);
    // The client has no IPv6 address, and its own are no destination.
    let none = "refuse: workload c//Pod/bookinfo/details has no address, \
                and its hostname \"example.com\" has none that can be used";
    check(&["fd00::9", "127.0.0.1", "0.0.0.0"], none);
    check(&[], none);
}

#[test]
fn a_waypoint_that_has_a_hostname_alone_is_resolved_first() {
    let mut world = with_waypoint();
    world.services[0].waypoint = waypoint_service("gate");
    let gate = world.workloads.iter_mut().find(|workload| workload.name == "gate-1").unwrap();
    gate.addresses = Addresses::default();
    gate.hostname = "gate.example.com".into();
    world.check("10.96.0.1:80", "resolve gate.example.com:15008 to gate-1 for details");
    let Route::Resolve(to) = world.route("10.96.0.1:80") else { panic!("nothing to resolve") };
    let route = resolved(&client(), &to, &["192.0.2.7".parse().unwrap()]);
    let expected = "tunnel gate-1 10.96.0.1:80 via 192.0.2.7:15008 as gate for details";
    assert_eq!(summary(&route), expected);
}

#[test]
fn a_hostname_outside_the_mesh_is_reached_directly() {
    let mut world = details();
    world.workloads[1].addresses = Addresses::default();
    world.workloads[1].hostname = "example.com".into();
    world.workloads[1].protocol = TunnelProtocol::Tcp;
    let Route::Resolve(to) = world.route("10.96.0.1:80") else { panic!("nothing to resolve") };
    let route = resolved(&client(), &to, &["192.0.2.7".parse().unwrap()]);
    assert_eq!(summary(&route), "direct 192.0.2.7:9080 to details for details");
}

#[test]
fn a_service_may_ask_for_a_family() {
    let mut world = details();
    let addresses = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap());
    world.workloads[1].addresses = addresses.into_iter().collect();
    let via = |ip: &str| format!("tunnel details {ip}:9080 via {ip}:15008 as details for details");
    for (families, expected) in [
        (Families::Any, via("10.0.0.2")),
        (Families::Dual, via("10.0.0.2")),
        (Families::Ip4, via("10.0.0.2")),
        (Families::Ip6, via("[fd00::2]")),
    ] {
        world.services[0].families = families;
        world.check("10.96.0.1:80", &expected);
    }
    world.workloads[1].addresses = ["10.0.0.2".parse().unwrap()].into_iter().collect();
    world.check(
        "10.96.0.1:80",
        "refuse: workload c//Pod/bookinfo/details has no address, and its hostname \"\" has \
         none that can be used",
    );
}

#[test]
fn the_family_of_the_destination_is_kept_where_possible() {
    let mut world = details();
    let addresses = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap());
    world.workloads[1].addresses = addresses.into_iter().collect();
    let v6 = NetworkAddress::new(net(), "fd96::1".parse().unwrap());
    world.services[0].vips.push(v6);
    world.check(
        "[fd96::1]:80",
        "tunnel details [fd00::2]:9080 via [fd00::2]:15008 as details for details",
    );
    let expected = "tunnel details 10.0.0.2:9080 via 10.0.0.2:15008 as details for details";
    world.check("10.96.0.1:80", expected);
}

#[test]
fn an_address_of_what_cannot_be_read_is_refused_and_captured_unless_somebody_else_has_it() {
    let (mut store, reader) = Store::on(Given::default());
    let unreadable = |name: &str, range: &str| {
        MeshEvent::UnreadableAddress(name.into(), [(net(), range.parse().unwrap())].into())
    };
    let known = pod("known", "10.0.9.7");
    store.apply([
        MeshEvent::Workload(known.clone().into()),
        unreadable("one", "10.0.9.9/32"),
        unreadable("range", "10.0.9.0/28"),
    ]);
    let check = |mesh: &Mesh, to: &str, expected: &str| {
        let source = client();
        let route = outbound(mesh, &source, None, &net(), to.parse().unwrap(), &mut rand::rng());
        assert!(summary(&route).starts_with(expected), "{to}: {}", summary(&route));
    };
    let refused = |name| format!("refuse: what the control plane says of {name}, which has");
    let mesh = reader.load();
    check(&mesh, "10.0.9.9:80", &refused("one"));
    check(&mesh, "10.0.9.1:80", &refused("range"));
    check(&mesh, "10.0.9.7:80", "tunnel known");
    check(&mesh, "10.0.9.99:80", "direct 10.0.9.99:80");
    let delta = DestinationsDelta::between(&Mesh::default(), &mesh);
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let addresses: Vec<IpAddr> =
        ["10.0.9.7", "10.0.9.9"].map(|text| text.parse().unwrap()).to_vec();
    assert_eq!((delta.added, delta.added_cidrs), (addresses, ranges(&["10.0.9.0/28"])));

    // Told again it is counted once, and nothing of it stays.
    store.apply([unreadable("one", "10.0.9.9/32"), unreadable("one", "10.0.9.10/32")]);
    let moved = reader.load();
    check(&moved, "10.0.9.9:80", &refused("range"));
    check(&moved, "10.0.9.10:80", &refused("one"));
    store.apply(["one", "range"].map(|name| MeshEvent::RemoveUnreadableAddress(name.into())));
    store.apply([MeshEvent::RemoveWorkload(known.uid)]);
    check(&reader.load(), "10.0.9.9:80", "direct 10.0.9.9:80");
    let delta = DestinationsDelta::between(&mesh, &reader.load());
    assert_eq!((delta.removed.len(), delta.removed_cidrs.len()), (2, 1));
    let all = DestinationsDelta::between(&Mesh::default(), &reader.load());
    assert!(all.is_empty(), "{all:?}");
}
