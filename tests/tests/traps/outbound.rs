//! What a pod opens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context, Result};
use kit::lab::{ask, ask_from, connect};
use socket2::{Domain, Protocol, Socket, Type};
use sotto::capture::Role;

use super::{Bench, PORT, tcp, who_am_i};

#[test]
fn outbound_is_captured_with_its_destination_over_ipv4_and_ipv6() -> Result<()> {
    let mut bench = Bench::new("out")?;
    let relay = bench.enrol_client()?;
    for (to, own) in bench.targets().into_iter().zip([bench.client.ip4(), bench.client.ip6()]) {
        assert_eq!(who_am_i(&bench.client, to)?.ip(), own);
        assert_eq!(super::seen(&relay).last(), Some(&(Role::Outbound, own, to)));
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn a_connection_to_the_pod_itself_does_not_loop() -> Result<()> {
    let mut bench = Bench::new("self")?;
    let relay = bench.enrol_server()?;
    let own = bench.targets();
    let local = [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].map(|ip| SocketAddr::from((ip, PORT)));
    let local6: SocketAddr = format!("[::1]:{PORT}").parse()?;
    for to in own.into_iter().chain(local).chain([local6]) {
        who_am_i(&bench.server, to)?;
    }
    assert_eq!(super::seen(&relay), []);
    Ok(())
}

#[test]
fn a_connection_to_an_address_that_only_the_pod_knows_of_does_not_loop() -> Result<()> {
    let mut bench = Bench::new("second")?;
    let relay = bench.enrol_server()?;
    for (second, flags) in [("10.78.0.3", &[][..]), ("fd78::3", &["nodad"])] {
        let mut add = Command::new("ip");
        add.args(["addr", "add", second, "dev", "eth0"]).args(flags);
        assert!(bench.server.run(move || add.status())?.success());
        let second: IpAddr = second.parse()?;
        assert_eq!(who_am_i(&bench.server, SocketAddr::new(second, PORT))?.ip(), second);
    }
    // As the mesh is not known, all that the control plane might know goes by the agent: once.
    assert!(relay.count() <= 2, "{:?}", super::seen(&relay));
    Ok(())
}

#[test]
fn an_app_bound_to_its_device_is_captured() -> Result<()> {
    let mut bench = Bench::new("dev")?;
    let relay = bench.enrol_client()?;
    for (to, domain) in bench.targets().into_iter().zip([Domain::IPV4, Domain::IPV6]) {
        bench.client.run(move || {
            let socket = tcp(domain)?;
            socket.bind_device(Some(b"eth0"))?;
            ask_from(socket, to)
        })?;
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn an_app_with_a_mark_of_its_own_is_captured() -> Result<()> {
    let mut bench = Bench::new("mark")?;
    let relay = bench.enrol_client()?;
    let [to, _] = bench.targets();
    for mark in [0x539, 0x111, 7] {
        bench.client.run(move || {
            let socket = tcp(Domain::IPV4)?;
            socket.set_mark(mark)?;
            ask_from(socket, to)
        })?;
    }
    assert_eq!(relay.count(), 3);
    Ok(())
}

#[test]
fn an_app_bound_to_the_pods_address_is_captured() -> Result<()> {
    let mut bench = Bench::new("bind")?;
    let relay = bench.enrol_client()?;
    let ([to, _], own) = (bench.targets(), SocketAddr::new(bench.client.ip4(), 0));
    bench.client.run(move || {
        let socket = tcp(Domain::IPV4)?;
        socket.bind(&own.into())?;
        ask_from(socket, to)
    })?;
    assert_eq!(relay.count(), 1);
    Ok(())
}

#[test]
fn ipv4_mapped_destinations_are_captured_as_ipv4() -> Result<()> {
    let mut bench = Bench::new("map")?;
    let relay = bench.enrol_client()?;
    let IpAddr::V4(ip) = bench.server.ip4() else { unreachable!("ip4 is of version 4") };
    let mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), PORT);
    bench.client.run(move || ask_from(tcp(Domain::IPV6)?, mapped))?;
    let expected = (Role::Outbound, bench.client.ip4(), SocketAddr::new(ip.into(), PORT));
    assert_eq!(super::seen(&relay), [expected]);
    Ok(())
}

#[test]
fn multipath_tcp_is_captured() -> Result<()> {
    let mut bench = Bench::new("mptcp")?;
    if !std::path::Path::new("/proc/sys/net/mptcp/enabled").exists() {
        eprintln!("this kernel has no multipath TCP: nothing to capture");
        return Ok(());
    }
    let relay = bench.enrol_client()?;
    for (to, domain) in bench.targets().into_iter().zip([Domain::IPV4, Domain::IPV6]) {
        bench.client.run(move || {
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP))?;
            ask_from(socket, to)
        })?;
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn a_client_port_may_be_used_again_for_the_same_destination() -> Result<()> {
    let mut bench = Bench::new("again")?;
    let out = bench.enrol_client()?;
    let inside = bench.enrol_server()?;
    let [to, _] = bench.targets();
    let own = SocketAddr::new(bench.client.ip4(), 45_678);
    for round in 1..=20 {
        bench.client.run(move || {
            let socket = tcp(Domain::IPV4)?;
            socket.set_reuse_address(true)?;
            // Closed by a reset, so that the port is free at once.
            socket.set_linger(Some(std::time::Duration::ZERO))?;
            socket.bind(&own.into())?;
            ask_from(socket, to)
        })?;
        assert_eq!((out.count(), inside.count()), (round, round));
    }
    Ok(())
}

/// Both may end at the same address and port. The kernel keeps their own ports apart as long as both are bound to
/// the same device, or neither is.
#[test]
fn a_connection_that_goes_out_never_takes_the_port_of_a_captured_one() -> Result<()> {
    let mut bench = Bench::new("ports")?;
    let (relay, client) = (bench.enrol_client()?, bench.client.clone());
    client.run(|| sotto::sys::sysctl::write("net.ipv4.ip_local_port_range", "40000 40005"))?;
    for to in bench.targets() {
        bench.kernel.set_synced(false)?;
        let before = relay.count();
        let mut captured = client.run(move || connect(to))?;
        ask(&mut captured, "hello")?;
        assert_eq!(relay.count() - before, 1);

        bench.kernel.set_synced(true)?;
        let mut direct = Vec::new();
        let end = loop {
            match client.run(move || connect(to)) {
                Ok(stream) => direct.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), std::io::ErrorKind::AddrNotAvailable);
        assert!(!direct.is_empty(), "no port was left to try");
        assert_eq!(relay.count() - before, 1);
        for mut stream in direct.into_iter().chain([captured]) {
            ask(&mut stream, "still here").with_context(|| format!("{stream:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_burst_of_short_connections_leaves_none_behind() -> Result<()> {
    let mut bench = Bench::new("burst")?;
    let out = bench.enrol_client()?;
    let inside = bench.enrol_server()?;
    let [to, to6] = bench.targets();
    for to in [to, to6] {
        bench.client.run(move || -> Result<()> {
            for round in 0..300 {
                let mut stream = connect(to)?;
                ask(&mut stream, &round.to_string())?;
            }
            Ok(())
        })?;
    }
    assert_eq!((out.count(), inside.count()), (600, 600));
    Ok(())
}

#[test]
fn datagrams_are_not_touched() -> Result<()> {
    let mut bench = Bench::new("udp")?;
    let relay = bench.enrol_client()?;
    let to = SocketAddr::new(bench.server.ip4(), 5353);
    let server = bench.server.run(move || std::net::UdpSocket::bind(("0.0.0.0", 5353)))?;
    server.set_read_timeout(Some(std::time::Duration::from_secs(3)))?;
    bench.client.run(move || -> std::io::Result<()> {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(to)?;
        socket.send(b"hello").map(drop)
    })?;
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer)?;
    assert_eq!((&buffer[..length], from.ip()), (b"hello".as_slice(), bench.client.ip4()));
    assert_eq!(relay.count(), 0);
    Ok(())
}

/// What a socket uses; the kernel pads it with zeros.
fn congestion_control(socket: &TcpStream) -> Result<String> {
    let name = socket2::SockRef::from(socket).tcp_congestion()?;
    Ok(String::from_utf8(name)?.trim_end_matches('\0').to_owned())
}

#[test]
fn legs_inside_a_pod_are_not_paced_and_those_outside_as_the_pod_says() -> Result<()> {
    const DEFAULT: &str = "net.ipv4.tcp_congestion_control";
    let mut bench = Bench::new("pace")?;
    let [to, to_v6] = bench.targets();
    for pod in [&bench.client, &bench.server] {
        // Any but the one preferred inside shows it; this one every kernel has.
        pod.run(|| sotto::sys::sysctl::write(DEFAULT, "reno"))?;
    }
    let outside = bench.client.run(move || congestion_control(&connect(to)?))?;
    assert_eq!(outside, "reno");

    let _relays = (bench.enrol_client()?, bench.enrol_server()?);
    for mut to in [to, to_v6] {
        to.set_port(PORT + 1);
        let listener = bench.server.run(move || std::net::TcpListener::bind(to))?;
        let (dialled, client) = bench.client.run(move || -> Result<_> {
            let client = connect(to)?;
            Ok((congestion_control(&client)?, client))
        })?;
        assert_eq!(dialled, "cubic", "the client's end, {to}");
        let accepted = congestion_control(&listener.accept()?.0)?;
        assert_eq!(accepted, "cubic", "the server's end, {to}");
        drop(client);
    }
    Ok(())
}
