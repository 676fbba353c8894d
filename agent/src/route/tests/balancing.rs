//! Which endpoint is chosen.

use super::*;

const ROUNDS: usize = 3000;

fn place(mut workload: Workload, region: &str, zone: &str, node: &str) -> Workload {
    let subzone = Default::default();
    workload.locality = Locality { region: region.into(), zone: zone.into(), subzone };
    workload.node = node.into();
    workload
}

/// The client in region r, zone z, node n, and endpoints ever farther away.
fn places(mode: BalancingMode, preferences: &[Scope]) -> World {
    let backend = |name, ip| backing(pod(name, ip), "s", &[(80, 80)]);
    let mut service = service("s", "10.96.0.1", &[(80, 80)]);
    service.load_balancing =
        LoadBalancing { preferences: preferences.to_vec(), mode, ..LoadBalancing::default() };
    world(
        vec![
            place(pod("productpage", "10.0.0.1"), "r", "z", "n"),
            place(backend("node", "10.0.1.1"), "r", "z", "n"),
            place(backend("zone", "10.0.1.2"), "r", "z", "m"),
            place(backend("region", "10.0.1.3"), "r", "y", "m"),
            place(backend("far", "10.0.1.4"), "q", "z", "m"),
        ],
        vec![service],
    )
}

/// How often each endpoint is chosen; refusals count as "-".
fn shares(world: &World) -> BTreeMap<String, usize> {
    shares_of(world, &client())
}

fn shares_of(world: &World, pod: &LocalPod) -> BTreeMap<String, usize> {
    let mesh = world.mesh_of(pod);
    let own = mesh.workload_of(pod).cloned();
    let destination = "10.96.0.1:80".parse().unwrap();
    let mut shares = BTreeMap::new();
    for _ in 0..ROUNDS {
        let route = outbound(&mesh, pod, own.as_deref(), &net(), destination, &mut rand::rng());
        let name = match route {
            Route::Tunnel(tunnel) => tunnel.workload.name.to_string(),
            _ => "-".to_owned(),
        };
        *shares.entry(name).or_insert(0) += 1;
    }
    shares
}

fn check(world: &World, expected: &[&str]) {
    let chosen: Vec<_> = shares(world).into_keys().collect();
    assert_eq!(chosen, expected);
}

const NEAR: [Scope; 3] = [Scope::Region, Scope::Zone, Scope::Node];

#[test]
fn without_a_mode_every_endpoint_is_used_alike() {
    let shares = shares(&places(BalancingMode::Any, &NEAR));
    assert_eq!(shares.len(), 4);
    for (name, count) in shares {
        assert!(count.abs_diff(ROUNDS / 4) < ROUNDS / 20, "{name} was chosen {count} times");
    }
}

#[test]
fn failover_uses_the_nearest_that_are_healthy() {
    let mut world = places(BalancingMode::Failover, &NEAR);
    check(&world, &["node"]);
    world.workloads[1].healthy = false;
    check(&world, &["zone"]);
    world.workloads[2].healthy = false;
    check(&world, &["region"]);
    world.workloads[3].healthy = false;
    check(&world, &["far"]);
}

#[test]
fn failover_counts_preferences_in_order() {
    // `far` shares the zone's name, but not the region before it.
    let world = places(BalancingMode::Failover, &[Scope::Zone]);
    check(&world, &["far", "node", "zone"]);
}

#[test]
fn strict_uses_only_what_matches_everything() {
    let mut world = places(BalancingMode::Strict, &[Scope::Region, Scope::Zone]);
    check(&world, &["node", "zone"]);
    world.workloads[1].healthy = false;
    world.workloads[2].healthy = false;
    check(&world, &["-"]);
}

#[test]
fn a_client_the_mesh_does_not_know_is_near_nothing() {
    let mut failover = places(BalancingMode::Failover, &NEAR);
    failover.workloads.remove(0);
    check(&failover, &["far", "node", "region", "zone"]);
    let mut strict = places(BalancingMode::Strict, &NEAR);
    strict.workloads.remove(0);
    check(&strict, &["-"]);
}

#[test]
fn capacity_weighs() {
    let mut world = places(BalancingMode::Any, &[]);
    world.workloads[1].capacity = 3;
    world.workloads[2].capacity = 1;
    world.workloads[3].capacity = 0;
    world.workloads[4].capacity = 0;
    let shares = shares(&world);
    assert_eq!(shares.len(), 2);
    assert!(shares["node"].abs_diff(ROUNDS * 3 / 4) < ROUNDS / 20, "{shares:?}");
}

fn sticky() -> World {
    let mut world = places(BalancingMode::Any, &[]);
    world.services[0].load_balancing.sticky = true;
    world
}

/// The only endpoint that a client with this address is sent to.
#[track_caller]
fn kept(world: &World, last: u8) -> String {
    let pod = LocalPod { ip4: Some([10, 0, 2, last].into()), ..client() };
    let chosen: Vec<_> = shares_of(world, &pod).into_keys().collect();
    let [only] = &chosen[..] else { panic!("{last} is sent to {chosen:?}") };
    only.clone()
}

#[test]
fn a_client_keeps_its_endpoint_and_clients_are_spread() {
    let world = sticky();
    let mut clients = BTreeMap::<String, usize>::new();
    for client in 0..100 {
        *clients.entry(kept(&world, client)).or_default() += 1;
    }
    assert_eq!(clients.len(), 4);
    assert!(clients.values().all(|count| (10..45).contains(count)), "{clients:?}");
}

#[test]
fn only_the_clients_of_an_endpoint_that_goes_are_sent_elsewhere() {
    let (before, mut after) = (sticky(), sticky());
    after.workloads[2].healthy = false;
    for client in 0..50 {
        let (was, is) = (kept(&before, client), kept(&after, client));
        assert!(is == was || (was == "zone" && is != "zone"), "{client} went from {was} to {is}");
    }
}

#[test]
fn of_services_that_share_an_address_the_one_with_the_port_is_meant() {
    let mut world = places(BalancingMode::Any, &[]);
    // By its name it would come first.
    world.services.push(service("a", "10.96.0.1", &[(443, 443)]));
    check(&world, &["far", "node", "region", "zone"]);
}
