//! Which connections are captured at all.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::Result;
use kit::lab::Lab;
use sotto::mesh::destinations::DestinationsDelta;
use sotto_abi::Counter;

use super::{Bench, PORT, refusal, who_am_i};

#[test]
fn a_pod_that_is_not_enrolled_is_not_touched() -> Result<()> {
    let mut bench = Bench::new("plain")?;
    let other = bench.lab.pod(4)?;
    let relay = bench.lab.enrol(&mut bench.kernel, &other)?;
    for (to, own) in bench.targets().into_iter().zip([bench.client.ip4(), bench.client.ip6()]) {
        assert_eq!(who_am_i(&bench.client, to)?.ip(), own);
    }
    assert_eq!(relay.count(), 0);
    assert_eq!(bench.kernel.counters()?.node, sotto_abi::Counts::default());
    Ok(())
}

#[test]
fn a_destination_outside_the_mesh_goes_direct_and_is_counted() -> Result<()> {
    let mut bench = Bench::new("direct")?;
    let relay = bench.enrol_client()?;
    let [to, to6] = bench.targets();

    // As long as the mesh is not known, everything is captured.
    who_am_i(&bench.client, to)?;
    assert_eq!(relay.count(), 1);

    bench.kernel.set_synced(true)?;
    who_am_i(&bench.client, to)?;
    who_am_i(&bench.client, to6)?;
    assert_eq!(relay.count(), 1);
    let counts = bench.counts(&bench.client)?;
    assert_eq!((counts.of(Counter::Captured), counts.of(Counter::Unknown)), (1, 2));

    let both = DestinationsDelta {
        added: vec![to.ip()],
        added_cidrs: vec!["fd77::/64".parse()?],
        ..DestinationsDelta::default()
    };
    bench.kernel.update_destinations(&both)?;
    who_am_i(&bench.client, to)?;
    who_am_i(&bench.client, to6)?;
    assert_eq!(relay.count(), 3);

    let gone = DestinationsDelta {
        removed: both.added,
        removed_cidrs: both.added_cidrs,
        ..DestinationsDelta::default()
    };
    bench.kernel.update_destinations(&gone)?;
    who_am_i(&bench.client, to)?;
    who_am_i(&bench.client, to6)?;
    assert_eq!(relay.count(), 3);
    Ok(())
}

#[test]
fn a_port_that_nobody_serves_is_refused_by_connect_itself() -> Result<()> {
    let mut bench = Bench::new("closed")?;
    let relay = bench.enrol_client()?;
    let targets = bench.targets();
    let closed = DestinationsDelta { closed: targets.to_vec(), ..DestinationsDelta::default() };
    bench.kernel.update_destinations(&closed)?;
    for to in targets {
        assert_eq!(refusal(&bench.client, to), ErrorKind::ConnectionRefused);
    }
    assert_eq!(relay.count(), 0);
    assert_eq!(bench.counts(&bench.client)?.of(Counter::Refused), 2);
    let opened = DestinationsDelta { opened: targets.to_vec(), ..DestinationsDelta::default() };
    bench.kernel.update_destinations(&opened)?;
    for to in targets {
        who_am_i(&bench.client, to)?;
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn unknown_destinations_can_be_captured_by_choice() -> Result<()> {
    let mut bench = Bench::with("unknown", |config| config.proxy_unknown = true)?;
    let relay = bench.enrol_client()?;
    bench.kernel.set_synced(true)?;
    for to in bench.targets() {
        who_am_i(&bench.client, to)?;
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn too_many_destinations_mean_that_all_are_captured() -> Result<()> {
    let mut bench = Bench::new("full")?;
    let relay = bench.enrol_client()?;
    bench.kernel.set_synced(true)?;
    let ranges = (0..=sotto_abi::MAX_DESTINATION_CIDRS)
        .map(|number| ipnet::Ipv4Net::new((0x0100_0000 + (number << 8)).into(), 24))
        .map(|range| range.map(ipnet::IpNet::V4));
    let delta = DestinationsDelta {
        added_cidrs: ranges.collect::<Result<_, _>>()?,
        ..DestinationsDelta::default()
    };
    bench.kernel.update_destinations(&delta)?;
    who_am_i(&bench.client, bench.targets()[0])?;
    assert_eq!(relay.count(), 1);
    Ok(())
}

#[test]
fn excluded_ports_and_ranges_go_direct() -> Result<()> {
    let bench = Bench::new("excluded")?;
    let Bench { mut kernel, lab, server, .. } = bench;
    let _more = server.serve(PORT + 1)?;
    let client = lab.pod_on(&lab.host.bridge, 9, |pod| {
        pod.exclusions.outbound_ports = vec![PORT + 1];
        pod.exclusions.outbound_cidrs = vec!["fd77::/64".parse().expect("a range")];
    })?;
    let relay = lab.enrol(&mut kernel, &client)?;
    who_am_i(&client, SocketAddr::new(server.ip4(), PORT + 1))?;
    who_am_i(&client, SocketAddr::new(server.ip6(), PORT))?;
    assert_eq!(relay.count(), 0);
    who_am_i(&client, SocketAddr::new(server.ip4(), PORT))?;
    assert_eq!(relay.count(), 1);
    Ok(())
}

#[test]
fn pods_with_the_same_address_are_told_apart() -> Result<()> {
    let Bench { mut kernel, lab, client, server, _server } = Bench::new("one")?;
    let island = kit::lab::Host::create(&format!("lab-{}-island", lab.id))?;
    let client_there = lab.pod_on(&island.bridge, 2, |_| {})?;
    let server_there = lab.pod_on(&island.bridge, 3, |_| {})?;
    let _serving = (server.serve(PORT + 2)?, server_there.serve(PORT + 2)?);
    let here = (lab.enrol(&mut kernel, &client)?, lab.enrol(&mut kernel, &server)?);
    let there = lab.enrol(&mut kernel, &client_there)?;
    let to = SocketAddr::new(server.ip4(), PORT + 2);
    who_am_i(&client, to)?;
    assert_eq!((here.0.count(), here.1.count(), there.count()), (1, 1, 0));
    who_am_i(&client_there, to)?;
    assert_eq!((here.0.count(), here.1.count(), there.count()), (1, 1, 1));
    Ok(())
}

#[test]
fn two_agents_on_one_kernel_do_not_meet() -> Result<()> {
    let lab = Lab::new("first")?;
    let other = Lab::new("second")?;
    let (mut kernel, mut other_kernel) = (lab.install(|_| {})?, other.install(|_| {})?);
    let (client, server) = (lab.pod(2)?, lab.pod(3)?);
    let (other_client, other_server) = (other.pod(2)?, other.pod(3)?);
    let _serving = (server.serve(PORT)?, other_server.serve(PORT)?);
    let relay = lab.enrol(&mut kernel, &client)?;
    let other_relay = other.enrol(&mut other_kernel, &other_client)?;
    let to = SocketAddr::new(server.ip4(), PORT);
    who_am_i(&client, to)?;
    assert_eq!((relay.count(), other_relay.count()), (1, 0));
    who_am_i(&other_client, to)?;
    assert_eq!((relay.count(), other_relay.count()), (1, 1));
    Ok(())
}
