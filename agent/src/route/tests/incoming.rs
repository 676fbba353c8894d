//! Inbound.

use super::*;

/// Checks what `details` at 10.0.0.2 makes of an authority: `destination [-> target] [proxy]
/// [for service]`, or `status why`.
fn check(world: &World, authority: &str, expected: &str) {
    let result = inbound(
        &world.mesh(),
        &net(),
        &local("details", "10.0.0.2"),
        &authority.parse().unwrap(),
        "10.0.0.2:15008".parse().unwrap(),
    );
    let text = match result {
        Ok(target) => {
            let mut text = target.destination.to_string();
            if target.target != target.destination {
                text += &format!(" -> {}", target.target);
            }
            if let Some(told) = target.told {
                let service = told.service.as_deref().unwrap_or("nobody");
                text += &format!(" told {} of {service}", told.destination);
            }
            text + &target.service.map(|s| format!(" for {}", s.name)).unwrap_or_default()
        }
        Err(error) => format!("{} {error}", error.status()),
    };
    assert_eq!(text, expected, "{authority}");
}

fn details() -> World {
    world(
        vec![backing(pod("details", "10.0.0.2"), "details", &[(80, 9080), (81, 0)])],
        vec![service("details", "10.96.0.1", &[(80, 0), (81, 0), (82, 15008)])],
    )
}

const HOST: &str = "details.bookinfo.svc.cluster.local";

#[test]
fn the_pods_own_address_is_served() {
    check(&details(), "10.0.0.2:9080", "10.0.0.2:9080");
    check(&details(), "[::ffff:10.0.0.2]:9080", "10.0.0.2:9080");
    check(&World::default(), "10.0.0.2:9080", "10.0.0.2:9080");
}

#[test]
fn another_address_is_not_served() {
    check(&details(), "10.0.0.3:9080", "400 ip mismatch: 10.0.0.3 != 10.0.0.2");
    check(&details(), "10.96.0.1:80", "400 ip mismatch: 10.96.0.1 != 10.0.0.2");
    check(&details(), "127.0.0.1:80", "400 ip mismatch: 127.0.0.1 != 10.0.0.2");
}

#[test]
fn a_hostname_leads_to_the_pods_port() {
    check(&details(), &format!("{HOST}:80"), "10.0.0.2:9080 for details");
    check(&details(), &format!("{}:80", HOST.to_uppercase()), "10.0.0.2:9080 for details");
}

#[test]
fn an_unknown_hostname_or_port_is_unavailable() {
    let unknown = "503 other.svc is not a service of this pod";
    check(&details(), "other.svc:80", unknown);
    let key = format!("bookinfo/{HOST}");
    check(&details(), &format!("{HOST}:81"), &format!("503 {key} has no port 81 on this pod"));
    check(&details(), &format!("{HOST}:99"), &format!("503 {key} has no port 99 on this pod"));
    let mut elsewhere = details();
    elsewhere.workloads[0].services = Backed::default();
    let not_ours = format!("503 {HOST} is not a service of this pod");
    check(&elsewhere, &format!("{HOST}:80"), &not_ours);
}

#[test]
fn the_port_of_the_mesh_is_unavailable() {
    check(&details(), "10.0.0.2:15008", "503 port 15008 is the mesh's own");
    check(&details(), &format!("{HOST}:82"), "503 port 15008 is the mesh's own");
}

#[test]
fn ports_that_other_proxies_take_are_the_applications() {
    for port in [15001, 15006] {
        check(&details(), &format!("10.0.0.2:{port}"), &format!("10.0.0.2:{port}"));
    }
}

#[test]
fn an_application_tunnel_has_a_port_of_its_own_but_is_judged_by_the_one_asked_for() {
    let mut world = details();
    world.workloads[0].application_tunnel =
        Some(ApplicationTunnel { proxy_protocol: true, port: Some(15088) });
    check(&world, "10.0.0.2:80", "10.0.0.2:80 -> 10.0.0.2:15088 told 10.0.0.2:80 of nobody");
    check(&world, "10.0.0.3:80", "400 ip mismatch: 10.0.0.3 != 10.0.0.2");
    // A service that it asked for by name is told by its address, if it has one.
    let told = |address| format!("told {address} of {HOST} for details");
    let target = "10.0.0.2:9080 -> 10.0.0.2:15088";
    check(&world, &format!("{HOST}:80"), &format!("{target} {}", told("10.96.0.1:80")));
    world.services[0].vips.clear();
    check(&world, &format!("{HOST}:80"), &format!("{target} {}", told("10.0.0.2:80")));
}

#[test]
fn a_waypoint_serves_what_it_stands_in_front_of() {
    let mut world = details();
    world.workloads[0].application_tunnel =
        Some(ApplicationTunnel { proxy_protocol: true, port: Some(15088) });
    let mut behind = service("behind", "10.96.0.7", &[(80, 80)]);
    let destination = WaypointDestination::Service(key("details"));
    behind.waypoint = Some(Waypoint { destination, hbone_port: 15008 });
    world.services.push(behind);
    world.services.push(service("beside", "10.96.0.8", &[(80, 80)]));
    let told = "told 10.96.0.7:80 of behind.bookinfo.svc.cluster.local";
    check(&world, "10.96.0.7:80", &format!("10.0.0.2:80 -> 10.0.0.2:15088 {told}"));
    check(&world, "10.96.0.8:80", "400 ip mismatch: 10.96.0.8 != 10.0.0.2");
    // Also where it is one of several.
    let other = WaypointDestination::Service(key("other"));
    let other = Waypoint { destination: other, hbone_port: 15008 };
    let behind = &mut world.services[1];
    let own = behind.waypoint.replace(other).unwrap();
    behind.weighted_waypoints = vec![(own, 1)];
    check(&world, "10.96.0.7:80", &format!("10.0.0.2:80 -> 10.0.0.2:15088 {told}"));
    world.workloads[0].application_tunnel = None;
    check(&world, "10.96.0.7:80", "400 ip mismatch: 10.96.0.7 != 10.0.0.2");
}

#[test]
fn the_likely_service_is_the_one_named_or_one_with_that_port() {
    let mut world = details();
    let headless = Service { vips: vec![], ..service("all", "10.96.0.9", &[(9080, 9080)]) };
    let of_named_port = service("named", "10.96.0.4", &[(443, 0)]);
    let other_port = service("other", "10.96.0.5", &[(80, 7070)]);
    world.services.extend([headless, of_named_port, other_port]);
    let ports = [("all", vec![]), ("named", mapped(&[(443, 8443)])), ("other", vec![])];
    for (name, ports) in ports {
        world.workloads[0].services.insert(key(name), ports);
    }
    let mesh = world.mesh();
    let check = |named: Option<&str>, port, expected: Option<&str>| {
        let found = likely_service(&mesh, &world.workloads[0], (named, port));
        assert_eq!(found.as_ref().map(|one| one.name.as_str()), expected, "{named:?} {port}");
    };
    check(None, 9080, Some("details"));
    check(None, 7070, Some("other"));
    check(None, 8443, Some("named"));
    check(None, 443, None);
    check(Some("other.bookinfo.svc.cluster.local"), 9080, Some("other"));
    // Whatever a client says of services that are not the workload's.
    check(Some("elsewhere.svc.cluster.local"), 9080, Some("details"));
    check(None, 9999, None);
}
