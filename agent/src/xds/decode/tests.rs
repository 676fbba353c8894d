//! What messages mean.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use sotto_proto::security as policy_proto;
use sotto_proto::workload as proto;

use crate::mesh::policy::{Action, Match, PolicyScope, StringMatch};
use crate::mesh::service::{
    BalancingMode, Families, LoadBalancing, Locality, Port, Scope, Visibility, Waypoint,
    WaypointDestination,
};
use crate::mesh::workload::{ApplicationTunnel, TunnelProtocol, WorkloadKind};
use crate::mesh::{Authorization as Policy, NetworkAddress, Service, Workload, WorkloadUid};

use super::super::encode;
use super::*;

fn address(of: address::Type) -> Result<MeshEvent, DecodeError> {
    let value = Address { r#type: Some(of) }.encode_to_vec();
    let body = Body { type_url: type_url(ResourceKind::Address), value: &value };
    let event = Decoder::default().event(ResourceKind::Address, Some(body));
    let whole = super::address(Address::decode(&value[..]).unwrap());
    assert_eq!(event, whole, "in place as by way of the whole message");
    event
}

fn workload(from: proto::Workload) -> Result<Workload, DecodeError> {
    match address(address::Type::Workload(from))? {
        MeshEvent::Workload(workload) => Ok(Arc::unwrap_or_clone(workload)),
        other => panic!("{other:?}"),
    }
}

fn service(from: proto::Service) -> Result<Service, DecodeError> {
    match address(address::Type::Service(from))? {
        MeshEvent::Service(service) => Ok(Arc::unwrap_or_clone(service)),
        other => panic!("{other:?}"),
    }
}

fn policy(from: policy_proto::Authorization) -> Result<Policy, DecodeError> {
    let value = from.encode_to_vec();
    let body = Body { type_url: type_url(ResourceKind::Authorization), value: &value };
    match Decoder::default().event(ResourceKind::Authorization, Some(body))? {
        MeshEvent::Policy(policy) => Ok(Arc::unwrap_or_clone(policy)),
        other => panic!("{other:?}"),
    }
}

fn minimal() -> proto::Workload {
    proto::Workload { uid: "uid".into(), namespace: "ns".into(), ..Default::default() }
}

fn minimal_service() -> proto::Service {
    proto::Service { namespace: "ns".into(), hostname: "host".into(), ..Default::default() }
}

#[test]
fn what_a_workload_leaves_out_has_its_default() {
    let decoded = workload(minimal()).unwrap();
    assert_eq!(decoded.identity.to_string(), "spiffe://cluster.local/ns/ns/sa/default");
    assert_eq!((decoded.protocol, decoded.capacity), (TunnelProtocol::Tcp, 1));
    assert!(decoded.healthy && !decoded.host_network && decoded.addresses.is_empty());
}

fn gateway(ip: [u8; 4], hbone_mtls_port: u32) -> Option<proto::GatewayAddress> {
    let address = proto::NetworkAddress { network: "n".into(), address: ip.into(), length: None };
    let destination = Some(proto::gateway_address::Destination::Address(address));
    Some(proto::GatewayAddress { destination, hbone_mtls_port })
}

/// A workload with something in every field.
fn full() -> proto::Workload {
    let mapped = "::ffff:10.0.0.2".parse::<Ipv6Addr>().unwrap();
    let port = proto::Port { service_port: 80, target_port: 0, app_protocol: 0 };
    let ports = proto::PortList { ports: vec![port] };
    let (region, zone, subzone) = ("r".into(), "z".into(), "s".into());
    proto::Workload {
        uid: "c//Pod/ns/details".into(),
        name: "details".into(),
        namespace: "ns".into(),
        addresses: vec![vec![10, 0, 0, 1], mapped.octets().to_vec()],
        hostname: "host".into(),
        network: "n".into(),
        tunnel_protocol: proto::TunnelProtocol::Hbone.into(),
        trust_domain: "td".into(),
        service_account: "sa".into(),
        waypoint: gateway([10, 0, 0, 8], 15008),
        network_gateway: gateway([10, 0, 0, 9], 0),
        node: "node".into(),
        canonical_name: "cn".into(),
        canonical_revision: "v1".into(),
        workload_type: proto::WorkloadType::Cronjob.into(),
        workload_name: "details-v1".into(),
        native_tunnel: true,
        application_tunnel: Some(proto::ApplicationTunnel { protocol: 1, port: 15088 }),
        services: [("ns/host.name".to_owned(), ports)].into(),
        authorization_policies: vec!["ns/p".into()],
        status: proto::WorkloadStatus::Unhealthy.into(),
        cluster_id: "c".into(),
        locality: Some(proto::Locality { region, zone, subzone }),
        network_mode: proto::NetworkMode::HostNetwork.into(),
        extensions: vec![],
        capacity: Some(7),
    }
}

#[test]
fn every_field_of_a_workload_arrives() {
    let at = |ip: [u8; 4], hbone_port| {
        let at = NetworkAddress::new("n", IpAddr::from(ip));
        Some(Box::new(Waypoint { destination: WaypointDestination::Address(at), hbone_port }))
    };
    let tunnel = ApplicationTunnel { proxy_protocol: true, port: Some(15088) };
    let ports = vec![Port { service_port: 80, target_port: None }];
    let expected = Workload {
        uid: WorkloadUid("c//Pod/ns/details".into()),
        name: "details".into(),
        namespace: "ns".into(),
        addresses: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()].into(),
        hostname: "host".into(),
        network: "n".into(),
        protocol: TunnelProtocol::Hbone,
        identity: "spiffe://td/ns/ns/sa/sa".parse().unwrap(),
        waypoint: at([10, 0, 0, 8], 15008),
        network_gateway: at([10, 0, 0, 9], 15008),
        node: "node".into(),
        canonical_name: "cn".into(),
        canonical_revision: "v1".into(),
        kind: WorkloadKind::CronJob,
        workload_name: "details-v1".into(),
        native_tunnel: true,
        application_tunnel: Some(tunnel),
        services: [(service_key("ns/host.name").unwrap(), ports)].into_iter().collect(),
        authorization_policies: vec![policy_key("ns/p").unwrap()].into(),
        healthy: false,
        cluster_id: "c".into(),
        locality: Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() },
        host_network: true,
        capacity: 7,
    };
    assert_eq!(workload(full()).unwrap(), expected);
    assert_eq!(workload(encode::workload(&expected)).unwrap(), expected);
}

#[test]
fn a_workload_that_makes_no_sense_is_rejected() {
    let check = |change: fn(&mut proto::Workload), expected: &str| {
        let mut from = minimal();
        change(&mut from);
        assert_eq!(workload(from).unwrap_err().to_string(), expected);
    };
    check(|w| w.uid.clear(), "uid is missing");
    check(|w| w.namespace.clear(), "namespace is missing");
    check(|w| w.addresses.push(vec![1, 2, 3]), "workload address is not an address");
    check(|w| w.authorization_policies.push("p".into()), "\"p\" is not namespace/name");
    check(|w| w.authorization_policies.push("/p".into()), "\"/p\" is not namespace/name");
    check(|w| w.waypoint = Some(Default::default()), "gateway destination is missing");
    check(
        |w| w.trust_domain = "a/b".into(),
        "\"spiffe://a/b/ns/ns/sa/default\" is not \
         spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
    );
}

/// As istiod tells of gateways between networks: rejected, each would be told as a mistake, and asked for again.
#[test]
fn gateways_between_networks_are_taken_as_they_come() {
    let uid = "NetworkGateway/west/192.0.2.1/15008";
    let from = proto::Workload { uid: uid.into(), network: "west".into(), ..minimal() };
    let known = workload(from.clone()).unwrap();
    assert_eq!((&*known.network, known.protocol), ("west", TunnelProtocol::Tcp));
    let nobody = address::Type::Workload(proto::Workload { namespace: String::new(), ..from });
    let event = address(nobody).unwrap();
    assert!(matches!(&event, MeshEvent::RemoveWorkload(name) if *name.0 == *uid), "{event:?}");
    // Each workload of a network names its gateway; of one that has a hostname, without a namespace.
    let host = proto::NamespacedHostname { namespace: String::new(), hostname: "gate".into() };
    for destination in [None, Some(proto::gateway_address::Destination::Hostname(host))] {
        let gateway = proto::GatewayAddress { destination, hbone_mtls_port: 15008 };
        let from = proto::Workload { network_gateway: Some(gateway), ..minimal() };
        assert_eq!(workload(from).unwrap().network_gateway, None);
    }
}

/// Left out, its address would be nobody's, and be reached in the clear.
#[test]
fn a_workload_of_a_tunnel_protocol_that_is_not_known_is_kept() {
    for tunnel_protocol in [2, 9, -1] {
        let decoded = workload(proto::Workload { tunnel_protocol, ..minimal() }).unwrap();
        assert_eq!(decoded.protocol, TunnelProtocol::Unknown);
    }
}

/// As above: its endpoints would be reached past their waypoint.
#[test]
fn a_service_whose_balancing_is_not_known_is_kept() {
    let from =
        proto::LoadBalancing { mode: 9, routing_preference: vec![2, 9, 0, 1], health_policy: 9 };
    let decoded = service(proto::Service {
        load_balancing: Some(from),
        ip_families: 9,
        visibility: 9,
        ..minimal_service()
    });
    let preferences = vec![Scope::Zone, Scope::Region];
    let (mode, allow_unhealthy, sticky) = (BalancingMode::Any, false, false);
    let expected = LoadBalancing { preferences, mode, allow_unhealthy, sticky };
    let decoded = decoded.unwrap();
    assert_eq!(decoded.load_balancing, expected);
    assert_eq!((decoded.families, decoded.visibility), (Families::Any, Visibility::Public));
}

#[test]
fn every_field_of_a_service_arrives() {
    let vip = |address: &[u8], length| proto::NetworkAddress {
        network: "n".into(),
        address: address.to_vec(),
        length,
    };
    let host = proto::NamespacedHostname { namespace: "ns".into(), hostname: "gate".into() };
    let decoded = service(proto::Service {
        name: "details".into(),
        addresses: vec![
            vip(&[10, 96, 0, 1], None),
            vip(&[10, 96, 0, 2], Some(32)),
            vip(&[172, 16, 3, 4], Some(12)),
        ],
        ports: vec![
            proto::Port { service_port: 80, target_port: 9080, app_protocol: 1 },
            proto::Port { service_port: 443, target_port: 0, app_protocol: 0 },
        ],
        subject_alt_names: vec!["spiffe://a/ns/b/sa/c".into()],
        waypoint: Some(proto::GatewayAddress {
            destination: Some(proto::gateway_address::Destination::Hostname(host)),
            hbone_mtls_port: 15008,
        }),
        load_balancing: Some(proto::LoadBalancing {
            routing_preference: vec![6, 1, 2, 3, 4, 5],
            mode: 2,
            health_policy: 1,
        }),
        extensions: vec![proto::Extension {
            name: "sotto.io/client-affinity".into(),
            config: None,
        }],
        canonical: true,
        ip_families: 3,
        visibility: 1,
        ..minimal_service()
    })
    .unwrap();
    let all =
        [Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node, Scope::Cluster];
    let expected = Service {
        name: "details".into(),
        key: service_key("ns/host").unwrap(),
        vips: vec![
            NetworkAddress::new("n", IpAddr::from([10, 96, 0, 1])),
            NetworkAddress::new("n", IpAddr::from([10, 96, 0, 2])),
        ],
        cidr_vips: vec![("n".into(), "172.16.0.0/12".parse().unwrap())],
        ports: vec![
            Port { service_port: 80, target_port: Some(9080) },
            Port { service_port: 443, target_port: None },
        ],
        subject_alt_names: vec!["spiffe://a/ns/b/sa/c".into()],
        waypoint: Some(Waypoint {
            destination: WaypointDestination::Service(service_key("ns/gate").unwrap()),
            hbone_port: 15008,
        }),
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing {
            preferences: all.to_vec(),
            mode: BalancingMode::Failover,
            allow_unhealthy: true,
            sticky: true,
        },
        canonical: true,
        families: Families::Dual,
        visibility: Visibility::Namespace,
    };
    assert_eq!(decoded, expected);
    assert_eq!(service(encode::service(&expected)).unwrap(), expected);
}

#[test]
fn waypoints_that_share_a_services_connections_are_all_known() {
    let gate = |name: &str| proto::GatewayAddress {
        destination: Some(proto::gateway_address::Destination::Hostname(
            proto::NamespacedHostname { namespace: "ns".into(), hostname: name.into() },
        )),
        hbone_mtls_port: 0,
    };
    let share = |name, weight| proto::WeightedWaypoint { destination: Some(gate(name)), weight };
    let known = |name: &str| Waypoint {
        destination: WaypointDestination::Service(service_key(name).unwrap()),
        hbone_port: 15008,
    };
    let weighted_waypoints = vec![share("a", 10), share("b", 90)];
    let both = proto::Service { weighted_waypoints, ..minimal_service() };
    let shares = vec![(known("ns/a"), 10), (known("ns/b"), 90)];
    let primary = proto::Service { waypoint: Some(gate("a")), ..both.clone() };
    for (from, waypoint) in [(primary, "ns/a"), (both, "ns/b")] {
        let decoded = service(from).unwrap();
        assert_eq!(decoded.waypoint, Some(known(waypoint)));
        assert_eq!(decoded.weighted_waypoints, shares);
        assert_eq!(service(encode::service(&decoded)).unwrap(), decoded);
    }
    // One that leads nowhere is not left out: its share would go past it.
    let weighted_waypoints = vec![proto::WeightedWaypoint { destination: None, weight: 1 }];
    let error = service(proto::Service { weighted_waypoints, ..minimal_service() }).unwrap_err();
    assert_eq!(error.to_string(), "waypoint of a share is missing");
}

#[test]
fn a_service_that_makes_no_sense_is_rejected() {
    let check = |change: fn(&mut proto::Service), expected: &str| {
        let mut from = minimal_service();
        change(&mut from);
        assert_eq!(service(from).unwrap_err().to_string(), expected);
    };
    let range = |length| proto::NetworkAddress {
        network: String::new(),
        address: vec![10, 0, 0, 0],
        length: Some(length),
    };
    assert_eq!(
        service(proto::Service { addresses: vec![range(8)], ..minimal_service() })
            .unwrap()
            .cidr_vips
            .len(),
        1
    );
    for length in [33, 300] {
        let from = proto::Service { addresses: vec![range(length)], ..minimal_service() };
        assert_eq!(service(from).unwrap_err(), DecodeError::Address("virtual address"));
    }
    check(|s| s.hostname.clear(), "hostname is missing");
    check(|s| s.ports.push(proto::Port::default()), "0 is not a port");
    check(
        |s| s.ports.push(proto::Port { service_port: 80, target_port: 65536, app_protocol: 0 }),
        "65536 is not a port",
    );
}

fn with_match(condition: policy_proto::Match) -> policy_proto::Authorization {
    policy_proto::Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        scope: policy_proto::Scope::Namespace.into(),
        action: policy_proto::Action::Deny.into(),
        groups: vec![policy_proto::Group {
            rules: vec![policy_proto::Rules { matches: vec![condition] }],
        }],
        dry_run: true,
        extensions: vec![],
    }
}

/// What a policy's only match becomes.
fn check_match(from: policy_proto::Match, expected: &Match) {
    let decoded = policy(with_match(from)).unwrap();
    assert_eq!(&decoded.groups[0].rules[0].matches, std::slice::from_ref(expected));
}

fn range(address: &[u8], length: u32) -> policy_proto::Address {
    policy_proto::Address { address: address.to_vec(), length }
}

#[test]
fn every_field_of_a_policy_arrives() {
    use policy_proto::string_match::MatchType;
    let string = |match_type| policy_proto::StringMatch { match_type: Some(match_type) };
    let from = with_match(policy_proto::Match {
        principals: vec![
            string(MatchType::Exact("e".into())),
            string(MatchType::Prefix("p".into())),
            string(MatchType::Suffix("s".into())),
            string(MatchType::Presence(policy_proto::Presence {})),
        ],
        source_ips: vec![range(&[10, 1, 2, 3], 8)],
        not_destination_ports: vec![80],
        service_accounts: vec![policy_proto::ServiceAccountMatch {
            namespace: "n".into(),
            service_account: "a".into(),
        }],
        ..Default::default()
    });
    let decoded = policy(from).unwrap();
    assert_eq!(policy(encode::authorization(&decoded)).unwrap(), decoded);
    assert_eq!(decoded.key.to_string(), "ns/p");
    let facts = (decoded.scope, decoded.action, decoded.dry_run);
    assert_eq!(facts, (PolicyScope::Namespace, Action::Deny, true));
    let condition = &decoded.groups[0].rules[0].matches[0];
    let patterns = [
        StringMatch::Exact("e".into()),
        StringMatch::Prefix("p".into()),
        StringMatch::Suffix("s".into()),
        StringMatch::Presence,
    ];
    assert_eq!(condition.principals, patterns);
    assert_eq!(condition.source_ips, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(condition.not_destination_ports, [80]);
    assert_eq!(&*condition.service_accounts[0].service_account, "a");
}

/// One of a match's lists.
type ListOf<T> = fn(&mut policy_proto::Match) -> &mut Vec<T>;

/// Leaving it out would narrow a DENY, and widen what an exception holds back of an ALLOW: beside others of its list or
/// alone, of either action, it takes the policy with it, which then closes what it governs.
#[test]
fn a_policy_with_a_range_or_a_port_that_is_none_is_rejected() {
    use policy_proto::{Action as Wire, Address, Match as From};
    let check = |action: Wire, change: &dyn Fn(&mut From), expected: &str| {
        let mut from = with_match(From { namespaces: namespaces(), ..From::default() });
        from.action = action.into();
        change(&mut from.groups[0].rules[0].matches[0]);
        assert_eq!(policy(from).map_err(|e| e.to_string()), Err(expected.to_owned()));
    };
    let mapped = "::ffff:10.0.0.0".parse::<Ipv6Addr>().unwrap().octets();
    let good = range(&[10, 0, 0, 1], 32);
    let lists: [(ListOf<Address>, &str); 4] = [
        (|m| &mut m.source_ips, "source range"),
        (|m| &mut m.not_source_ips, "source range"),
        (|m| &mut m.destination_ips, "destination range"),
        (|m| &mut m.not_destination_ips, "destination range"),
    ];
    let ports: [ListOf<u32>; 2] = [|m| &mut m.destination_ports, |m| &mut m.not_destination_ports];
    for action in [Wire::Allow, Wire::Deny] {
        for (list, name) in lists {
            let none = [range(&[], 0), range(&[1, 2], 8), range(&[1, 2, 3, 4], 33)];
            for none in none.into_iter().chain([range(&mapped, 95), range(&mapped, 300)]) {
                let expected = format!("{name} is not an address");
                check(action, &|m| *list(m) = vec![none.clone()], &expected);
                check(action, &|m| *list(m) = vec![good.clone(), none.clone()], &expected);
            }
        }
        for list in ports {
            check(action, &|m| *list(m) = vec![70000], "70000 is not a port");
            check(action, &|m| *list(m) = vec![80, 65536], "65536 is not a port");
        }
    }
}

fn namespaces() -> Vec<policy_proto::StringMatch> {
    let exact = policy_proto::string_match::MatchType::Exact("ns".into());
    vec![policy_proto::StringMatch { match_type: Some(exact) }]
}

/// No connection has it, but policies may say it.
#[test]
fn port_0_of_a_policy_is_kept() {
    let from = policy_proto::Match { not_destination_ports: vec![0], ..Default::default() };
    check_match(from, &Match { not_destination_ports: vec![0], ..Match::default() });
}

#[test]
fn a_range_of_mapped_addresses_is_one_of_ipv4() {
    let mapped = "::ffff:10.0.0.0".parse::<Ipv6Addr>().unwrap().octets();
    let from = policy_proto::Match { source_ips: vec![range(&mapped, 104)], ..Default::default() };
    let expected = Match { source_ips: vec!["10.0.0.0/8".parse().unwrap()], ..Match::default() };
    check_match(from, &expected);
}

#[test]
fn a_policy_that_makes_no_sense_is_rejected() {
    let check = |change: fn(&mut policy_proto::Authorization), expected: &str| {
        let mut from = with_match(policy_proto::Match::default());
        change(&mut from);
        assert_eq!(policy(from).unwrap_err().to_string(), expected);
    };
    check(|p| p.name.clear(), "name is missing");
    check(|p| p.action = 2, "action 2 is not supported");
    check(|p| p.scope = 3, "scope 3 is not supported");
    check(
        |p| p.groups[0].rules[0].matches[0].not_service_accounts.push(Default::default()),
        "a service account's namespace is missing",
    );
    check(
        |p| p.groups[0].rules[0].matches[0].principals.push(Default::default()),
        "kind of a string match is missing",
    );
}

#[test]
fn a_resource_of_another_type_is_rejected() {
    let other = Body { type_url: "type.googleapis.com/other", value: &[] };
    let mut decoder = Decoder::default();
    let error = decoder.event(ResourceKind::Address, Some(other)).unwrap_err();
    assert_eq!(error, DecodeError::Type("type.googleapis.com/other".into()));
    let missing = decoder.event(ResourceKind::Address, None).unwrap_err();
    assert_eq!(missing, DecodeError::Missing("resource"));
}

/// Field numbers and lengths that make sense now and then.
fn any_message(depth: u32) -> impl Strategy<Value = Vec<u8>> {
    let leaf = vec(any::<u8>(), 0..20);
    leaf.prop_recursive(depth, 64, 6, |inner| {
        let field = (1..28_u32, prop_oneof![inner.prop_map(Ok), any::<u32>().prop_map(Err)]);
        vec(field, 0..6).prop_map(|fields| {
            let mut bytes = Vec::new();
            for (number, value) in fields {
                match value {
                    Ok(nested) => {
                        prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
                        prost::encoding::encode_varint(nested.len() as u64, &mut bytes);
                        bytes.extend(nested);
                    }
                    Err(varint) => {
                        prost::encoding::encode_varint(u64::from(number << 3), &mut bytes);
                        prost::encoding::encode_varint(u64::from(varint), &mut bytes);
                    }
                }
            }
            bytes
        })
    })
}

proptest! {
    #[test]
    fn decoding_arbitrary_bytes_never_panics(
        value in prop_oneof![vec(any::<u8>(), 0..200), any_message(4)],
    ) {
        for kind in [ResourceKind::Address, ResourceKind::Authorization] {
            let body = Body { type_url: type_url(kind), value: &value };
            let _either_way = Decoder::default().event(kind, Some(body));
        }
    }
}
