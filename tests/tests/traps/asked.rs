//! Other ways to ask for a connection than connect(2) of a fresh socket, and to ask who is at its other end.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kit::lab::{Relay, ask, ask_from, connect, peer_name, tcp_info};
use socket2::Domain;
use sotto::capture::{Role, StandInRanges};
use tokio_uring::net::TcpStream as RingStream;

use super::{Bench, PORT, SECRET, ip, seen, tcp};

/// The relay saw these destinations of the client's, in this order.
fn assert_seen(bench: &Bench, relay: &Relay, destinations: &[SocketAddr]) {
    let client =
        |to: &SocketAddr| if to.is_ipv4() { bench.client.ip4() } else { bench.client.ip6() };
    let expected: Vec<_> =
        destinations.iter().map(|to| (Role::Outbound, client(to), *to)).collect();
    assert_eq!(seen(relay), expected);
}

#[test]
fn a_socket_that_is_disconnected_is_captured_when_it_connects_again() -> Result<()> {
    let mut bench = Bench::new("unspec")?;
    let relay = bench.enrol_client()?;
    let [to, _] = bench.targets();
    let second: SocketAddr = "10.77.0.33:8080".parse()?;
    ip(&bench.server, "addr add 10.77.0.33/32 dev eth0")?;
    bench.client.run(move || -> Result<()> {
        let socket = tcp(Domain::IPV4)?;
        for to in [to, second] {
            socket.connect(&to.into())?;
            let mut stream = TcpStream::from(socket.try_clone()?);
            ask(&mut stream, "hello")?;
            ensure!(stream.peer_addr()? == to, "shown {}", stream.peer_addr()?);
            // connect(2) with AF_UNSPEC: the socket is as new.
            rustix::net::connect_unspec(socket.as_fd())?;
        }
        Ok(())
    })?;
    assert_seen(&bench, &relay, &[to, second]);
    Ok(())
}

#[test]
fn a_socket_of_ipv6_alone_is_captured() -> Result<()> {
    let mut bench = Bench::new("only6")?;
    let relay = bench.enrol_client()?;
    let [_, to] = bench.targets();
    bench.client.run(move || -> std::io::Result<_> {
        let socket = tcp(Domain::IPV6)?;
        socket.set_only_v6(true)?;
        ask_from(socket, to)
    })?;
    assert_seen(&bench, &relay, &[to]);
    Ok(())
}

#[test]
fn a_connection_asked_for_through_io_uring_is_captured() -> Result<()> {
    let mut bench = Bench::new("ring")?;
    let relay = bench.enrol_client()?;
    let targets = bench.targets();
    bench.client.run(move || {
        tokio_uring::start(async {
            for to in targets {
                let stream = RingStream::connect(to).await?;
                stream.write_all(b"hello\n".to_vec()).await.0?;
                let (read, _) = stream.read(vec![0; 100]).await;
                assert!(read? > 0, "no answer of {to}");
            }
            std::io::Result::Ok(())
        })
    })?;
    assert_seen(&bench, &relay, &targets);
    Ok(())
}

#[test]
fn a_socket_that_does_not_wait_is_captured() -> Result<()> {
    let mut bench = Bench::new("nowait")?;
    let relay = bench.enrol_client()?;
    let targets = bench.targets();
    bench.client.run(move || -> Result<()> {
        for to in targets {
            let socket = tcp(Domain::for_address(to))?;
            socket.set_nonblocking(true)?;
            let begun = socket.connect(&to.into());
            ensure!(
                begun.as_ref().err().is_none_or(|e| e.raw_os_error() == Some(libc::EINPROGRESS)),
                "{begun:?}"
            );
            socket.set_nonblocking(false)?;
            ask(&mut TcpStream::from(socket), "hello")?;
        }
        Ok(())
    })?;
    assert_seen(&bench, &relay, &targets);
    Ok(())
}

#[test]
fn so_peername_shows_the_real_other_end_on_both_sides() -> Result<()> {
    let mut bench = Bench::new("peername")?;
    let _relays = (bench.enrol_client()?, bench.enrol_server()?);
    let (here, client) = (SocketAddr::new(bench.server.ip4(), PORT + 1), bench.client.ip4());
    let listener = bench.server.run(move || std::net::TcpListener::bind(here))?;
    let stream = bench.client.run(move || connect(here))?;
    let (accepted, _) = listener.accept()?;
    assert_eq!(SocketAddr::from(peer_name(&stream)?), here);
    assert_eq!(IpAddr::V4(*peer_name(&accepted)?.ip()), client);
    Ok(())
}

#[test]
fn tcp_info_tells_of_the_leg_inside_the_pod() -> Result<()> {
    /// `TCP_ESTABLISHED` in net/tcp_states.h.
    const ESTABLISHED: u8 = 1;
    let mut bench = Bench::new("tcpinfo")?;
    let _relay = bench.enrol_client()?;
    let [to, _] = bench.targets();
    let info = bench.client.run(move || -> std::io::Result<_> {
        let mut stream = connect(to)?;
        ask(&mut stream, "hello")?;
        tcp_info(&stream)
    })?;
    assert_eq!(info.tcpi_state, ESTABLISHED);
    // As on loopback: no path's segment is that large.
    ensure!(info.tcpi_snd_mss > 9000, "segments of {}", info.tcpi_snd_mss);
    Ok(())
}

#[test]
fn what_looks_past_the_hooks_sees_stand_ins() -> Result<()> {
    let mut bench = Bench::new("past")?;
    let _relay = bench.enrol_client()?;
    let [to, _] = bench.targets();
    let (shown, own, table) = bench.client.run(move || -> std::io::Result<_> {
        let stream = connect(to)?;
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
        Ok((stream.peer_addr()?, stream.local_addr()?, table))
    })?;
    assert_eq!(shown, to);
    // Local and remote ends are the second and third column: address in the machine's order, port. A listing
    // that is read while sockets come and go may show one twice: what it is told by is the inode, the tenth.
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = format!(":{:04X}", own.port());
    let ours = columns.filter(|row| row.get(1).is_some_and(|local| local.ends_with(&own)));
    let sockets: BTreeSet<_> = ours
        .map(|row| (row[9].to_owned(), row[2].split(':').next().unwrap_or_default().to_owned()))
        .collect();
    let sockets: Vec<_> = sockets.into_iter().collect();
    let [(_, seen)] = &sockets[..] else { anyhow::bail!("{sockets:?} in {table}") };
    let seen = Ipv4Addr::from(u32::from_str_radix(seen, 16)?.to_ne_bytes());
    ensure!(StandInRanges::default().holds(seen.into()).is_some(), "{seen} is no stand-in");
    Ok(())
}

#[test]
fn who_comes_with_a_stand_ins_address_from_outside_is_not_answered() -> Result<()> {
    let mut bench = Bench::new("martian")?;
    let relay = bench.enrol_server()?;
    let stand_in = bench.kernel.stand_ins().of_client(Ipv4Addr::new(10, 77, 0, 99).into())?;
    // IPv6 has no such check: there the secret is what an outsider lacks.
    for (forged, to) in [(stand_in, bench.targets()[0]), ("100::105".parse()?, bench.targets()[1])]
    {
        let prefix = if forged.is_ipv4() { 32 } else { 128 };
        ip(&bench.client, &format!("addr add {forged}/{prefix} dev eth0"))?;
        let answered = bench.client.run(move || -> std::io::Result<()> {
            let socket = tcp(Domain::for_address(to))?;
            socket.bind(&SocketAddr::new(forged, 0).into())?;
            socket.connect_timeout(&to.into(), Duration::from_millis(700))
        });
        ensure!(answered.is_err(), "{forged} was answered");
    }
    assert_eq!(relay.count(), 0);
    Ok(())
}

#[test]
fn a_device_that_is_plugged_in_later_leads_nothing_out() -> Result<()> {
    let mut bench = Bench::new("later")?;
    let relay = bench.enrol_client()?;
    for line in [
        "link add eth1 type veth peer name peer1",
        "addr add 10.88.0.2/24 dev eth1",
        "link set eth1 up",
        "link set peer1 up",
        "route add default via 10.88.0.1 dev eth1 metric 500",
        "neigh replace 10.88.0.1 lladdr 02:00:00:00:00:02 dev eth1",
        "-6 addr add fd88::2/64 dev eth1 nodad",
        "-6 route add default via fd88::1 dev eth1 metric 500",
        "neigh replace fd88::1 lladdr 02:00:00:00:00:02 dev eth1",
    ] {
        ip(&bench.client, line)?;
    }
    let capture = kit::wire::Capture::start(&format!("lab-{}-node-2", bench.lab.id), "peer1")?;
    for to in bench.targets() {
        let mark = capture.mark();
        bench.client.run_unprivileged(move || {
            let socket = tcp(Domain::for_address(to))?;
            socket.set_write_timeout(Some(Duration::from_secs(1)))?;
            socket.connect(&to.into())?;
            socket.bind_device(Some(b"eth1"))?;
            let _whatever_comes_of_it = socket.send(SECRET);
            Ok(())
        })?;
        std::thread::sleep(Duration::from_millis(300));
        let trace = capture.since(mark)?;
        ensure!(trace.flows.is_empty(), "on the second device: {:?}", trace.flows);
    }
    ensure!(relay.count() == 2, "{} were captured", relay.count());
    Ok(())
}

#[test]
fn a_pod_plugged_into_another_network_goes_on_being_captured() -> Result<()> {
    let mut bench = Bench::new("plug")?;
    let relay = bench.enrol_client()?;
    ip(&bench.client, "link add eth1 type veth peer name peer1")?;
    ip(&bench.client, "addr add 10.88.0.2/24 dev eth1")?;
    ip(&bench.client, "link set eth1 up")?;
    ip(&bench.client, "link set peer1 up")?;
    let targets = bench.targets();
    for to in targets {
        super::who_am_i(&bench.client, to).context("beside a device that came later")?;
    }
    assert_seen(&bench, &relay, &targets);
    Ok(())
}
