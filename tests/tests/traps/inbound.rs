//! What reaches a pod.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use kit::lab::{Place, ask, connect};
use sotto::capture::Role;
use sotto_abi::{AddressPort, Counter, HBONE_PORT, names};

use super::{AT_ONCE, Bench, PORT, seen, who_am_i};

#[test]
fn inbound_is_captured_and_the_app_sees_the_clients_address_and_port() -> Result<()> {
    let mut bench = Bench::new("in")?;
    let relay = bench.enrol_server()?;
    for (to, client) in bench.targets().into_iter().zip([bench.client.ip4(), bench.client.ip6()]) {
        let told = who_am_i(&bench.client, to)?;
        assert_eq!(told.ip(), client);
        assert_eq!(seen(&relay).last(), Some(&(Role::Plaintext, client, to)));
        assert_eq!(relay.seen().last().map(|one| one.client), Some(told));
    }
    assert_eq!(bench.counts(&bench.server)?.of(Counter::Plaintext), 2);
    Ok(())
}

#[test]
fn an_application_that_starts_anew_finds_its_port_free_while_its_clients_stay() -> Result<()> {
    let mut bench = Bench::new("anew")?;
    let relay = bench.enrol_server()?;
    for to in bench.targets().map(|to| SocketAddr::new(to.ip(), PORT + 1)) {
        let before = bench.server.serve(PORT + 1)?;
        let _client = bench.client.run(move || -> std::io::Result<_> {
            let mut stream = connect(to)?;
            ask(&mut stream, "hello")?;
            Ok(stream)
        })?;
        assert_eq!(seen(&relay).last().map(|one| one.2), Some(to));
        drop(before);
        let bound = bench.server.run(move || -> std::io::Result<()> {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::for_address(to), kind, None)?;
            // As servers do: what is left of their last life must not keep them out.
            socket.set_reuse_address(true)?;
            socket.bind(&to.into())?;
            socket.listen(1)
        });
        bound.with_context(|| format!("bind {to}"))?;
    }
    Ok(())
}

#[test]
fn the_hbone_port_goes_to_the_hbone_listener() -> Result<()> {
    let mut bench = Bench::new("hbone")?;
    let relay = bench.enrol_server()?;
    for ip in [bench.server.ip4(), bench.server.ip6()] {
        let to = SocketAddr::new(ip, HBONE_PORT);
        let said = bench.client.run(move || -> std::io::Result<String> {
            let mut text = String::new();
            connect(to)?.read_to_string(&mut text).map(|_| text)
        })?;
        assert_eq!(said, "hbone\n");
    }
    let roles: Vec<_> = relay.seen().into_iter().map(|one| one.role).collect();
    assert_eq!(roles, [Role::Hbone, Role::Hbone]);
    Ok(())
}

#[test]
fn a_closed_port_is_a_reset_and_not_a_hang() -> Result<()> {
    let mut bench = Bench::new("closed")?;
    let relay = bench.enrol_server()?;
    for ip in [bench.server.ip4(), bench.server.ip6()] {
        let to = SocketAddr::new(ip, PORT + 1);
        let started = Instant::now();
        let read = bench.client.run(move || connect(to)?.read(&mut [0; 1]));
        assert_eq!(read.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
        assert!(started.elapsed() < AT_ONCE, "{ip} took {:?}", started.elapsed());
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn only_the_kubelets_connections_are_exempt() -> Result<()> {
    let mut bench = Bench::new("probe")?;
    let relay = bench.enrol_server()?;
    for to in bench.targets() {
        bench.lab.on_node(Place::Kubelet, move || ask(&mut connect(to)?, "probe"))?;
        assert_eq!(relay.count(), 0);
    }
    assert_eq!(bench.counts(&bench.server)?.of(Counter::Probe), 2);
    for (index, to) in bench.targets().into_iter().enumerate() {
        bench.lab.on_node(Place::App, move || ask(&mut connect(to)?, "hello"))?;
        assert_eq!(relay.count(), index + 1);
    }
    Ok(())
}

#[test]
fn a_probe_reaches_what_the_pod_declares_for_probes_and_nothing_else() -> Result<()> {
    let mut bench = Bench::new("declared")?;
    let relay = bench.enrol_server()?;
    let probe = |bench: &Bench, to: SocketAddr| {
        bench.lab.on_node(Place::Kubelet, move || ask(&mut connect(to)?, "probe"))
    };
    for to in bench.targets() {
        probe(&bench, to)?;
    }
    assert_eq!(relay.count(), 0);
    // A pod that declares none is probed like by anyone: probes of its address are some other pod's.
    let server = bench.server.clone();
    let declares = |bench: &mut Bench, ports: &[u16]| {
        let again = server.declaring(ports);
        bench.lab.enrol(&mut bench.kernel, &again)
    };
    let relay = declares(&mut bench, &[])?;
    for (index, to) in bench.targets().into_iter().enumerate() {
        probe(&bench, to)?;
        assert_eq!(relay.count(), index + 1, "{to}");
    }
    let relay = declares(&mut bench, &[PORT + 1])?;
    probe(&bench, bench.targets()[0])?;
    assert_eq!(relay.count(), 1);
    // What it declares comes and goes with its spec, and with its capture.
    let relay = declares(&mut bench, &[PORT, PORT + 1])?;
    probe(&bench, bench.targets()[0])?;
    assert_eq!(relay.count(), 0);
    bench.kernel.release(&bench.server.capture.pod.uid)?;
    let path = bench.lab.pin_dir().join(names::MAPS_DIRECTORY).join(names::PROBE_PORTS);
    let ports: aya::maps::HashMap<_, AddressPort, u64> =
        aya::maps::Map::HashMap(aya::maps::MapData::from_pin(path)?).try_into()?;
    assert_eq!(ports.keys().count(), 0);
    Ok(())
}

#[test]
fn a_probe_sees_the_apps_own_refusal() -> Result<()> {
    let mut bench = Bench::new("refusal")?;
    let closed = bench.server.declaring(&[PORT + 1]);
    let _relay = bench.lab.enrol(&mut bench.kernel, &closed)?;
    for ip in [bench.server.ip4(), bench.server.ip6()] {
        let to = SocketAddr::new(ip, PORT + 1);
        let refused = bench.lab.on_node(Place::Kubelet, move || connect(to)).map(drop);
        assert_eq!(
            refused.map_err(|error| error.kind()),
            Err(std::io::ErrorKind::ConnectionRefused)
        );
    }
    Ok(())
}

#[test]
fn a_probes_port_is_not_exempt_after_the_probe() -> Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};

    let mut bench = Bench::new("after")?;
    let relay = bench.enrol_server()?;
    let [to, _] = bench.targets();
    let from = SocketAddr::from(([10, 77, 0, 1], 40_123));
    let ask = move || -> std::io::Result<std::net::IpAddr> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(std::time::Duration::ZERO))?;
        socket.bind(&from.into())?;
        kit::lab::ask_from(socket, to)
    };
    bench.lab.on_node(Place::Kubelet, ask)?;
    assert_eq!(relay.count(), 0);
    bench.lab.on_node(Place::App, ask)?;
    assert_eq!(relay.count(), 1);
    Ok(())
}

/// Where the agent listens in the pod.
fn own_listeners(bench: &Bench) -> Result<Vec<SocketAddr>> {
    let listening = bench.server.run(|| -> Result<String> {
        let output = std::process::Command::new("ss").args(["-Hltn"]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    })?;
    let own: Vec<SocketAddr> = listening
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .filter_map(|address| address.parse().ok())
        .filter(|address: &SocketAddr| address.port() == HBONE_PORT)
        .collect();
    assert!(own.len() >= 6, "{listening}");
    Ok(own)
}

#[test]
fn the_agents_own_listeners_cannot_be_reached_by_address() -> Result<()> {
    let mut bench = Bench::new("own")?;
    let relay = bench.enrol_server()?;
    for to in own_listeners(&bench)? {
        let read = bench.server.run(move || connect(to)?.read(&mut [0; 1]));
        assert!(matches!(read, Ok(0) | Err(_)), "{to}: {read:?}");
    }
    assert_eq!(relay.count(), 0);
    Ok(())
}

#[test]
fn no_application_can_take_a_share_of_the_agents_connections() -> Result<()> {
    let mut bench = Bench::new("share")?;
    let _relay = bench.enrol_server()?;
    for address in own_listeners(&bench)? {
        // Root as the agent is, which is all that a reuseport group asks of who joins it.
        let joined = bench.server.run(move || -> std::io::Result<()> {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
            socket.set_reuse_port(true)?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_freebind_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(1)
        });
        let refused = joined.expect_err("joined the agent's listeners");
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse, "{address}");
    }
    Ok(())
}
