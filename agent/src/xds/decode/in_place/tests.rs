//! What is read in place against what is made of the whole message.

use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use sotto_proto::workload::{Address, address::Type, gateway_address};

use super::super::address;
use super::*;
use crate::mesh::MeshEvent;

/// Few, so that they are the same often; and some that are not taken.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[ab]{1,2}", 1 => Just(String::new()), 1 => ".{0,3}", 1 => Just("a/b".into())]
}

fn reference() -> impl Strategy<Value = String> {
    (name(), name()).prop_map(|(namespace, name)| format!("{namespace}/{name}"))
}

fn port() -> impl Strategy<Value = proto::Port> {
    let number = || prop_oneof![8 => 1..4_u32, 1 => Just(0), 1 => any::<u32>()];
    (number(), number(), prop_oneof![9 => 0..7, 1 => any::<i32>()]).prop_map(
        |(service_port, target_port, app_protocol)| proto::Port {
            service_port,
            target_port,
            app_protocol,
        },
    )
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![6 => vec(any::<u8>(), 4), 3 => vec(any::<u8>(), 16), 1 => vec(any::<u8>(), 0..6)]
}

fn gateway() -> impl Strategy<Value = Option<proto::GatewayAddress>> {
    let address = (name(), bytes()).prop_map(|(network, address)| {
        let address = proto::NetworkAddress { network, address, length: None };
        gateway_address::Destination::Address(address)
    });
    let gateway = (option::weighted(0.8, address), 0..70_000_u32);
    let gateway = gateway.prop_map(|(destination, hbone_mtls_port)| proto::GatewayAddress {
        destination,
        hbone_mtls_port,
    });
    option::weighted(0.2, gateway)
}

fn small() -> impl Strategy<Value = i32> {
    prop_oneof![20 => 0..4, 1 => any::<i32>()]
}

prop_compose! {
    fn names()(
        [uid, name_told, namespace, hostname, network, trust_domain] in [name(), name(), name(), name(), name(), name()],
        [service_account, node, canonical_name, canonical_revision, workload_name, cluster_id] in
            [name(), name(), name(), name(), name(), name()],
    ) -> proto::Workload {
        proto::Workload {
            uid, name: name_told, namespace, hostname, network, trust_domain, service_account, node,
            canonical_name, canonical_revision, workload_name, cluster_id,
            ..proto::Workload::default()
        }
    }
}

prop_compose! {
    fn any_workload()(
        names in names().boxed(),
        addresses in vec(bytes(), 0..3),
        (waypoint, network_gateway) in (gateway(), gateway()),
        tunnel in option::weighted(0.2, (small(), 0..70_000_u32)),
        services in hash_map(reference(), vec(port(), 0..3), 0..3),
        authorization_policies in vec(reference(), 0..3),
        [tunnel_protocol, workload_type, status, network_mode] in [small(), small(), small(), small()],
        (native_tunnel, capacity) in (any::<bool>(), option::of(0..3_u32)),
        locality in option::of((name(), name(), name())),
        extended in proptest::bool::weighted(0.05),
    ) -> proto::Workload {
        proto::Workload {
            addresses, waypoint, network_gateway, authorization_policies, tunnel_protocol, workload_type, status,
            network_mode, native_tunnel, capacity,
            application_tunnel: tunnel.map(|(protocol, port)| proto::ApplicationTunnel { protocol, port }),
            services: services.into_iter().map(|(key, ports)| (key, proto::PortList { ports })).collect(),
            locality: locality.map(|(region, zone, subzone)| proto::Locality { region, zone, subzone }),
            extensions: extended.then(proto::Extension::default).into_iter().collect(),
            ..names
        }
    }
}

fn told(workload: proto::Workload) -> Vec<u8> {
    Address { r#type: Some(Type::Workload(workload)) }.encode_to_vec()
}

/// What comes of the whole message, if it is a workload.
fn whole(message: &[u8]) -> Option<Workload> {
    match address(Address::decode(message).ok()?) {
        Ok(MeshEvent::Workload(workload)) => Some(Workload::clone(&workload)),
        _ => None,
    }
}

/// Read in place; a decoder goes on as the client's does.
fn check(decoder: &mut Decoder, message: &[u8]) -> Result<bool, TestCaseError> {
    let read = decoder.in_place(message);
    if let Some(read) = &read {
        let whole = whole(message);
        prop_assert_eq!(Some(read), whole.as_ref());
        decoder.last = Some(std::sync::Arc::new(read.clone()));
    }
    Ok(read.is_some())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_is_taken_is_read_in_place_and_means_the_same(
        workloads in vec(any_workload().boxed(), 1..6),
    ) {
        let mut decoder = Decoder::default();
        for workload in workloads {
            // Bytes of a message from a large number on, and what makes none, are left to the other way.
            let odd = !workload.extensions.is_empty()
                || [workload.tunnel_protocol, workload.workload_type, workload.status, workload.network_mode]
                    .iter()
                    .chain(workload.services.values().flat_map(|list| list.ports.iter().map(|port| &port.app_protocol)))
                    .any(|number| *number < 0);
            let message = told(workload);
            let read = check(&mut decoder, &message)?;
            prop_assert!(read || odd || whole(&message).is_none(), "not read in place");
        }
    }

    #[test]
    fn whatever_the_bytes_are_none_is_read_in_another_way(
        (one, other) in (any_workload().boxed(), any_workload().boxed()),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut decoder = Decoder::default();
        // Fields twice, as parts of a message that have to be put together.
        let inner = [one.encode_to_vec(), other.encode_to_vec()].concat();
        let twice = Address { r#type: None }.encode_to_vec();
        let length = u8::try_from(inner.len() % 128).unwrap();
        for mut message in [
            [&twice[..], &[0x0a, length], &inner[..usize::from(length)]].concat(),
            [told(one.clone()), told(other)].concat(),
            told(one),
        ] {
            for (at, byte) in &changes {
                let at = at.index(message.len().max(1));
                if let Some(place) = message.get_mut(at) {
                    *place = *byte;
                }
                check(&mut decoder, &message)?;
            }
            message.truncate(cut.index(message.len() + 1));
            check(&mut decoder, &message)?;
        }
    }
}
