//! Which of several services with one address a client means.

use super::*;

/// A service of the client's own namespace or of another, with a pod of its own.
fn of(namespace: &str, vip: &str, world: &mut World) {
    let number = world.services.len();
    let key = ServiceKey { namespace: namespace.into(), hostname: "shared.example".into() };
    let mut backend = pod(namespace, &format!("10.0.1.{number}"));
    backend.services.insert(key.clone(), vec![]);
    world.workloads.push(backend);
    let mut service = service(namespace, "10.96.0.1", &[(80, 80)]);
    (service.key, service.canonical) = (key, false);
    match vip.parse() {
        Ok(address) => service.vips = vec![NetworkAddress::new(net(), address)],
        Err(_) => {
            service.vips.clear();
            service.cidr_vips = vec![(net(), vip.parse().unwrap())];
        }
    }
    world.services.push(service);
}

/// Services of these namespaces, each with an address or a range; the client is of the namespace `bookinfo`.
fn shared(all: &[(&str, &str)]) -> World {
    let mut world = world(vec![pod("productpage", "10.0.0.1")], vec![]);
    all.iter().for_each(|(namespace, vip)| of(namespace, vip, &mut world));
    world
}

/// The namespace of the service that is meant.
fn meant(world: &World) -> String {
    match world.route("192.0.2.1:80") {
        Route::Tunnel(tunnel) => tunnel.service.unwrap().key.namespace.to_string(),
        other => summary(&other),
    }
}

#[test]
fn the_clients_own_namespace_counts_first_then_the_canonical_one() {
    let vip = "192.0.2.1";
    assert_eq!(meant(&shared(&[("a", vip), ("bookinfo", vip), ("c", vip)])), "bookinfo");
    let mut world = shared(&[("a", vip), ("b", vip), ("c", vip)]);
    assert_eq!(meant(&world), "a", "in the order of their names");
    world.services[2].canonical = true;
    assert_eq!(meant(&world), "c", "the control plane says that of the oldest");
}

#[test]
fn what_is_there_for_another_namespace_alone_is_not_seen() {
    let mut world = shared(&[("a", "192.0.2.1"), ("c", "192.0.2.0/24")]);
    world.services[0].visibility = Visibility::Namespace;
    assert_eq!(meant(&world), "c");
    world.services[1].visibility = Visibility::Namespace;
    assert_eq!(meant(&world), "direct 192.0.2.1:80");
    let mut own = shared(&[("bookinfo", "192.0.2.1")]);
    own.services[0].visibility = Visibility::Namespace;
    assert_eq!(meant(&own), "bookinfo");
}

#[test]
fn a_range_of_the_clients_own_namespace_counts_before_a_narrower_one() {
    let own = ("bookinfo", "192.0.0.0/16");
    assert_eq!(meant(&shared(&[("a", "192.0.2.0/24"), own])), "bookinfo");
    assert_eq!(meant(&shared(&[("a", "192.0.2.0/24"), ("b", "192.0.2.0/25")])), "b");
    assert_eq!(meant(&shared(&[("a", "192.0.2.1"), own])), "a", "an address before all ranges");
}
