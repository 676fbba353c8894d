//! What stands for other addresses inside a pod, and who is shown what.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kit::lab::{LabPod, ask, ask_from, connect};
use kit::wire::Capture;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use sotto::capture::Role;
use sotto::sys::socket::AppDialler;
use sotto_abi::names;

use super::{Bench, PORT, SECRET, assert_quiet, ip, seen, tcp, who_am_i};

/// Destinations that nobody has, though their neighbours would be known: whatever a pod sends there is on the wire.
fn nowhere(pod: &LabPod) -> Result<[SocketAddr; 2]> {
    for there in ["10.77.0.200", "fd77::200"] {
        ip(pod, &format!("neigh replace {there} lladdr 02:00:00:00:00:01 dev eth0"))?;
    }
    Ok(["10.77.0.200:9999".parse()?, "[fd77::200]:9999".parse()?])
}

/// The wire of the client's pod.
fn wire(bench: &Bench) -> Result<Capture> {
    Capture::start(&format!("lab-{}-node", bench.lab.id), "pod2")
}

#[test]
fn each_end_is_shown_the_other_as_it_is() -> Result<()> {
    let mut bench = Bench::new("shown")?;
    let _relays = (bench.enrol_client()?, bench.enrol_server()?);
    let own = [bench.client.ip4(), bench.client.ip6()];
    for (to, own) in bench.targets().into_iter().zip(own) {
        let shown = bench.client.run(move || -> Result<_> {
            let stream = connect(to)?;
            Ok((stream.peer_addr()?, stream.local_addr()?))
        })?;
        assert_eq!((shown.0, shown.1.ip()), (to, own));

        let mut here = to;
        here.set_port(PORT + 1);
        let listener = bench.server.run(move || TcpListener::bind(here))?;
        let client = bench.client.run(move || connect(here))?;
        let (accepted, said) = listener.accept()?;
        // The port is that of the relay on the client's side.
        assert_eq!((said.ip(), client.peer_addr()?), (own, here));
        assert_eq!((accepted.peer_addr()?, accepted.local_addr()?), (said, here));
    }
    Ok(())
}

#[test]
fn pods_of_ipv6_alone_are_carried_both_ways() -> Result<()> {
    let Bench { mut kernel, lab, .. } = Bench::new("six")?;
    let mut six = |number| -> Result<_> {
        let pod = lab.pod_on(&lab.host.bridge, number, |pod| pod.ip4 = None)?;
        ip(&pod, "-4 addr flush dev eth0")?;
        let relay = lab.enrol(&mut kernel, &pod)?;
        Ok((pod, relay))
    };
    let ((client, out), (server, inward)) = (six(20)?, six(21)?);
    let _serving = server.serve(PORT)?;
    let to = SocketAddr::new(server.ip6(), PORT);
    assert_eq!(who_am_i(&client, to)?.ip(), client.ip6());
    assert_eq!(seen(&out), [(Role::Outbound, client.ip6(), to)]);
    assert_eq!(seen(&inward), [(Role::Plaintext, client.ip6(), to)]);
    Ok(())
}

#[test]
fn a_clients_own_port_is_kept_also_a_privileged_one() -> Result<()> {
    let mut bench = Bench::new("port")?;
    let _relay = bench.enrol_server()?;
    for (to, own) in bench.targets().into_iter().zip([bench.client.ip4(), bench.client.ip6()]) {
        for port in [702, 40_123] {
            let from = SocketAddr::new(own, port);
            let told = bench.client.run(move || -> std::io::Result<_> {
                let socket = tcp(Domain::for_address(from))?;
                socket.set_reuse_address(true)?;
                socket.bind(&from.into())?;
                socket.connect(&to.into())?;
                ask(&mut TcpStream::from(socket), "hello")
            })?;
            assert_eq!(told, from);
        }
    }
    Ok(())
}

#[test]
fn a_client_may_use_a_port_that_the_agent_uses_for_another_of_its_connections() -> Result<()> {
    let mut bench = Bench::new("clash")?;
    let _relay = bench.enrol_server()?;
    let [to, _] = bench.targets();
    let client = bench.client.ip4();
    // Whatever port the application sees, the client itself may have at the same time.
    let mut first = bench.client.run(move || connect(to))?;
    let seen = ask(&mut first, "first")?.port();
    let other = if seen == first.local_addr()?.port() { seen - 1 } else { seen };
    let told = bench.client.run(move || -> std::io::Result<_> {
        let socket = tcp(Domain::IPV4)?;
        socket.bind(&SocketAddr::new(client, other).into())?;
        ask_from(socket, to)
    })?;
    assert_eq!(told, client);
    assert_eq!(ask(&mut first, "still")?.ip(), client);
    Ok(())
}

#[test]
fn a_server_bound_to_its_device_is_reached() -> Result<()> {
    let mut bench = Bench::new("bound")?;
    let relay = bench.enrol_server()?;
    for ip in [bench.server.ip4(), bench.server.ip6()] {
        let at = SocketAddr::new(ip, PORT + 3);
        let listener: TcpListener = bench.server.run(move || -> std::io::Result<_> {
            let socket = tcp(Domain::for_address(at))?;
            socket.bind_device(Some(b"eth0"))?;
            socket.bind(&at.into())?;
            socket.listen(5)?;
            Ok(socket.into())
        })?;
        let mut client = bench.client.run(move || connect(at))?;
        client.write_all(b"hello")?;
        let (mut accepted, from) = listener.accept()?;
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes)?;
        assert_eq!((&bytes, from), (b"hello", client.local_addr()?));
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn a_routing_table_of_the_pods_own_is_left_alone() -> Result<()> {
    let mut bench = Bench::new("table")?;
    let own = "default via 10.77.0.1 dev eth0";
    ip(&bench.client, &format!("route add {own} table 100"))?;
    let _relay = bench.enrol_client()?;
    who_am_i(&bench.client, bench.targets()[0])?;
    let show = || Command::new("ip").args(["route", "show", "table", "100"]).output();
    let table = String::from_utf8(bench.client.run(show)?.stdout)?;
    assert_eq!(table.trim(), own);
    Ok(())
}

#[test]
fn no_rule_and_no_setting_is_changed_in_a_pod() -> Result<()> {
    let mut bench = Bench::new("least")?;
    let look = || -> Result<Vec<String>> {
        let mut found = Vec::new();
        for family in ["-4", "-6"] {
            let rules = Command::new("ip").args([family, "rule"]).output()?;
            found.push(String::from_utf8(rules.stdout)?);
        }
        for name in
            ["net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"]
        {
            found.push(sotto::sys::sysctl::read(name)?);
        }
        Ok(found)
    };
    let before = bench.client.run(look)?;
    let _relay = bench.enrol_client()?;
    assert_eq!(bench.client.run(look)?, before);
    Ok(())
}

#[test]
fn a_pod_with_an_address_on_lo_is_not_carried_in_circles() -> Result<()> {
    let mut bench = Bench::new("onlo")?;
    let relay = bench.enrol_server()?;
    for address in ["10.99.9.9/32", "fd99::9/128"] {
        ip(&bench.server, &format!("addr add {address} dev lo"))?;
    }
    for second in ["10.99.9.9", "fd99::9"] {
        let before = relay.count();
        let second: IpAddr = second.parse()?;
        who_am_i(&bench.server, SocketAddr::new(second, PORT))?;
        ensure!(relay.count() - before <= 1, "{} times around", relay.count() - before);
    }
    Ok(())
}

#[test]
fn the_agents_listeners_take_no_port_of_the_applications() -> Result<()> {
    let mut bench = Bench::new("listen")?;
    let _relay = bench.enrol_server()?;
    let listening = bench.server.run(|| Command::new("ss").args(["-Hltn"]).output())?;
    let listening = String::from_utf8(listening.stdout)?;
    for line in listening.lines() {
        let address = line.split_whitespace().nth(3).context("no address")?;
        let port = address.rsplit(':').next().context("no port")?;
        ensure!(
            [PORT, sotto_abi::HBONE_PORT].map(|port| port.to_string()).iter().any(|of| of == port),
            "{line}"
        );
    }
    // Every port of the ephemeral range can be had on all addresses.
    let refused = bench.server.run(|| {
        let taken = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_err();
        (32_768..=60_999).filter(taken).collect::<Vec<_>>()
    });
    assert_eq!(refused, [0_u16; 0]);
    Ok(())
}

#[test]
fn an_application_cannot_have_a_clients_stand_in() -> Result<()> {
    let mut bench = Bench::new("pose")?;
    let _relay = bench.enrol_server()?;
    let client = bench.client.ip4();
    let stand_in = bench.kernel.stand_ins().of_client(client)?;
    let [to, _] = bench.targets();
    let posed = bench.server.run(move || -> std::io::Result<_> {
        let socket = tcp(Domain::IPV4)?;
        socket.bind(&SocketAddr::new(stand_in, 0).into())?;
        ask_from(socket, to)
    });
    assert!(posed.is_err(), "posed as {posed:?}");
    let itself = bench.server.run(move || connect(SocketAddr::new(stand_in, PORT)));
    assert!(itself.is_err(), "reached itself as a client");
    Ok(())
}

#[test]
fn nobody_is_dialled_for_a_client_that_would_not_be_shown() -> Result<()> {
    let mut bench = Bench::new("unshown")?;
    let relay = bench.enrol_server()?;
    let [to, _] = bench.targets();
    who_am_i(&bench.client, to)?;
    for name in [names::GETPEERNAME4, names::GETPEERNAME6] {
        let pin = bench.lab.pin_dir().join(names::LINKS_DIRECTORY).join(name);
        let link = sotto::sys::bpf::open_pinned(&pin)?;
        sotto::sys::bpf::detach_link(std::os::fd::AsFd::as_fd(&link))?;
        assert!(!bench.kernel.stand_ins().are_shown());
        who_am_i(&bench.client, to).expect_err("the application was dialled");
        bench.kernel.maintain()?;
        assert_eq!(who_am_i(&bench.client, to)?, bench_client(&relay)?);
    }
    Ok(())
}

/// The last client.
fn bench_client(relay: &kit::lab::Relay) -> Result<SocketAddr> {
    Ok(relay.seen().last().context("nobody was seen")?.client)
}

#[test]
fn what_no_stand_in_is_there_for_is_dropped() -> Result<()> {
    let mut bench = Bench::new("forged")?;
    let relay = bench.enrol_client()?;
    for to in ["127.64.77.77:80", "127.64.0.9:15008"] {
        let to: SocketAddr = to.parse()?;
        let read = bench.client.run(move || connect(to)?.read(&mut [0; 1]));
        assert!(matches!(read, Ok(0) | Err(_)), "{to}: {read:?}");
    }
    assert_eq!(relay.count(), 0);
    Ok(())
}

/// Asks something of a socket, and sends the secret to a destination.
type Attempt = fn(&Socket, SocketAddr) -> std::io::Result<()>;

/// Ways to try to get past redirection, as an application without any capability.
fn attempts() -> Vec<(&'static str, Attempt)> {
    fn plain(socket: &Socket, to: SocketAddr) -> std::io::Result<()> {
        socket.connect(&to.into())?;
        socket.send(SECRET).map(drop)
    }
    fn device_before(socket: &Socket, to: SocketAddr) -> std::io::Result<()> {
        socket.bind_device(Some(b"eth0"))?;
        plain(socket, to)
    }
    fn device_after(socket: &Socket, to: SocketAddr) -> std::io::Result<()> {
        socket.connect(&to.into())?;
        socket.bind_device(Some(b"eth0"))?;
        socket.send(SECRET).map(drop)
    }
    fn fast_open_then_device(socket: &Socket, to: SocketAddr) -> std::io::Result<()> {
        kit::lab::fast_open_connect(socket)?;
        socket.connect(&to.into())?;
        socket.bind_device(Some(b"eth0"))?;
        socket.send(SECRET).map(drop)
    }
    fn fast_open_send(socket: &Socket, to: SocketAddr) -> std::io::Result<()> {
        kit::lab::fast_open_without_cookie(socket)?;
        socket.send_to_with_flags(SECRET, &to.into(), libc::MSG_FASTOPEN).map(drop)
    }
    fn device_then_fast_open_send(socket: &Socket, to: SocketAddr) -> std::io::Result<()> {
        socket.bind_device(Some(b"eth0"))?;
        fast_open_send(socket, to)
    }
    vec![
        ("plain", plain),
        ("device before", device_before),
        ("device after", device_after),
        ("TCP_FASTOPEN_CONNECT, then the device", fast_open_then_device),
        ("MSG_FASTOPEN", fast_open_send),
        ("device, then MSG_FASTOPEN", device_then_fast_open_send),
    ]
}

#[test]
fn nothing_that_an_application_can_ask_of_its_socket_puts_it_on_the_wire() -> Result<()> {
    let mut bench = Bench::new("leak")?;
    let relay = bench.enrol_client()?;
    let to = nowhere(&bench.client)?;
    let capture = wire(&bench)?;
    let protocols = [Protocol::TCP, Protocol::MPTCP];
    for (name, attempt) in attempts() {
        for (to, bind) in to.into_iter().flat_map(|to| [(to, false), (to, true)]) {
            for protocol in protocols {
                let (mark, before) = (capture.mark(), relay.count());
                let own = if to.is_ipv4() { bench.client.ip4() } else { bench.client.ip6() };
                let done = bench.client.run_unprivileged(move || {
                    let socket =
                        Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
                    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
                    if bind {
                        socket.bind(&SocketAddr::new(own, 0).into())?;
                    }
                    Ok(attempt(&socket, to)?)
                });
                let what = format!("{name}, {protocol:?} to {to}, bound: {bind}");
                assert_quiet(&capture, mark).context(what.clone())?;
                if protocol == Protocol::TCP {
                    done.context(what.clone())?;
                    assert_soon(|| relay.count() == before + 1);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_socket_bound_to_a_second_device_is_refused_and_does_not_get_out_either() -> Result<()> {
    let mut bench = Bench::new("second")?;
    let to = nowhere(&bench.client)?;
    let (client, name) = (bench.client.clone(), format!("lab-{}-node-2", bench.lab.id));
    ip(&client, "link add eth1 type veth peer name peer1")?;
    for line in [
        "addr add 10.88.0.2/24 dev eth1",
        "link set eth1 up",
        "link set peer1 up",
        "route add default via 10.88.0.1 dev eth1 metric 500",
        "neigh replace 10.88.0.1 lladdr 02:00:00:00:00:02 dev eth1",
        "-6 addr add fd88::2/64 dev eth1 nodad",
        "-6 route add default via fd88::1 dev eth1 metric 500",
        "neigh replace fd88::1 lladdr 02:00:00:00:00:02 dev eth1",
    ] {
        ip(&client, line)?;
    }
    let relay = bench.enrol_client()?;
    let capture = Capture::start(&name, "peer1")?;
    for to in to {
        let mark = capture.mark();
        let refused = client.run_unprivileged(move || {
            let before = tcp(Domain::for_address(to))?;
            before.bind_device(Some(b"eth1"))?;
            kit::lab::fast_open_without_cookie(&before)?;
            let refused = before.send_to_with_flags(SECRET, &to.into(), libc::MSG_FASTOPEN);

            let after = tcp(Domain::for_address(to))?;
            after.connect(&to.into())?;
            after.bind_device(Some(b"eth1"))?;
            after.send(SECRET)?;
            std::thread::sleep(Duration::from_millis(500));
            Ok(refused.map_err(|error| error.kind()))
        })?;
        assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
        assert_quiet(&capture, mark).with_context(|| format!("to {to}"))?;
    }
    assert_eq!(relay.count(), 2);
    Ok(())
}

#[test]
fn many_connections_to_one_destination_are_not_limited_by_the_agents_ports() -> Result<()> {
    let mut bench = Bench::new("many")?;
    let relay = bench.enrol_client()?;
    bench
        .client
        .run(|| sotto::sys::sysctl::write("net.ipv4.ip_local_port_range", "40000 40099"))?;
    let [to, _] = bench.targets();
    let others: Vec<SocketAddr> =
        (201..206).map(|host| SocketAddr::from(([10, 77, 0, host], 80))).chain([to]).collect();
    let count = others.len() * 50;
    let open = bench.client.run(move || -> std::io::Result<Vec<TcpStream>> {
        (0..50).flat_map(|_| others.clone()).map(connect).collect()
    })?;
    assert_eq!(open.len(), count);
    assert_soon(|| relay.count() == count);
    Ok(())
}

/// As many as the client has ports, but for the pod's own: each keeps its own.
#[test]
fn one_client_has_more_connections_to_a_port_than_an_ephemeral_range_holds() -> Result<()> {
    const COUNT: u16 = 17_000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard > u64::from(COUNT) + 500, "a process may have {hard} files here: too few");
    setrlimit(Resource::RLIMIT_NOFILE, hard.max(soft), hard)?;
    let mut bench = Bench::new("ports")?;
    let _relay = bench.enrol_server()?;
    bench.server.run(|| {
        sotto::sys::sysctl::write("net.core.somaxconn", "20000")?;
        sotto::sys::sysctl::write("net.ipv4.tcp_max_syn_backlog", "20000")
    })?;
    let to = SocketAddr::new(bench.server.ip4(), PORT + 1);
    // What waits to be accepted is no file yet.
    let listener = bench.server.run(move || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&to.into())?;
        socket.listen(20_000)?;
        Ok(socket)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dialler = AppDialler::new(bench.server.capture.netns.clone());
    let client: IpAddr = "192.0.2.7".parse()?;
    let stand_in = bench.kernel.stand_ins().of_client(client)?;
    // The port that a server of the pod listens on, at any address, cannot be kept: such a client gets another,
    // which would be in the way of whom it belongs to.
    let ports = (1024..1024 + COUNT).filter(|port| *port != PORT);
    let dialled = runtime.block_on(async {
        let mut dialled = Vec::new();
        for port in ports.clone() {
            let source = SocketAddr::new(stand_in, port);
            let dial = dialler.dial(Some(source), to, Duration::from_secs(5));
            let stream = dial.await.with_context(|| format!("port {port}"))?;
            dialled.push(stream.into_std()?);
        }
        anyhow::Ok(dialled)
    })?;
    assert_eq!(dialled.len(), usize::from(COUNT) - 1);
    // Each is answered as who it is. Two processors may hand them to the queue in another order.
    drop(dialled);
    let mut from = ports
        .clone()
        .map(|_| listener.accept().map(|(_, from)| from.as_socket()))
        .collect::<std::io::Result<Vec<_>>>()?;
    from.sort_unstable();
    assert!(from == ports.map(|port| Some((client, port).into())).collect::<Vec<_>>());
    Ok(())
}

/// The relay accepts in its own time.
fn assert_soon(is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(3);
    while !is_so() {
        assert!(std::time::Instant::now() < end, "it is not so");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_second_connect_is_refused_and_changes_nothing() -> Result<()> {
    let mut bench = Bench::new("twice")?;
    let relay = bench.enrol_client()?;
    for to in bench.targets() {
        let mut second = to;
        second.set_port(PORT + 1);
        let before = relay.count();
        let peer = bench.client.run(move || -> std::io::Result<_> {
            let socket = tcp(Domain::for_address(to))?;
            socket.connect(&to.into())?;
            let error = socket.connect(&second.into()).expect_err("it is connected");
            assert_eq!(error.raw_os_error(), Some(libc::EISCONN));
            let peer = socket.peer_addr()?.as_socket();
            ask(&mut TcpStream::from(socket), "hello")?;
            Ok(peer)
        })?;
        assert_eq!((relay.count() - before, peer), (1, Some(to)));
    }
    Ok(())
}

#[test]
fn a_range_that_the_pod_uses_is_told() -> Result<()> {
    let mut bench = Bench::new("used")?;
    ip(&bench.client, "addr add 240.64.3.4/32 dev eth0")?;
    let error = bench.enrol_client().map(drop).expect_err("the range is in use");
    let told = format!("{error:#}");
    ensure!(told.contains("240.64.3.4") && told.contains("--stand-ins"), "{told}");
    Ok(())
}

#[test]
fn a_range_that_the_node_uses_is_told() -> Result<()> {
    let bench = Bench::new("nodeuse")?;
    let node = &bench.lab.host.netns;
    let confine = || sotto::capture::confine(node, &sotto::capture::StandInRanges::default());
    confine()?;
    node.enter(|| {
        Command::new("ip").args(["addr", "add", "240.64.3.3/32", "dev", "br0"]).status()
    })??;
    let error = confine().expect_err("the range is in use").to_string();
    ensure!(error.contains("240.64.3.3") && error.contains("--stand-ins"), "{error}");
    Ok(())
}

#[test]
fn a_stand_in_is_used_again_only_when_no_socket_has_it() -> Result<()> {
    let mut bench = Bench::new("reuse")?;
    let _relay = bench.enrol_server()?;
    let [to, _] = bench.targets();
    let mut kept = bench.client.run(move || connect(to))?;
    let client = ask(&mut kept, "first")?;
    let stand_ins = bench.kernel.stand_ins();
    let of_kept = stand_ins.of_client(client.ip())?;

    let take_all = |from: u32, kernel: &mut sotto::capture::bpf::Kernel| -> Result<Vec<IpAddr>> {
        let mut taken = Vec::new();
        for number in from.. {
            let other = std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).into();
            let stand_in = stand_ins.of_client(other).or_else(|_| {
                kernel.maintain().map_err(anyhow::Error::from)?;
                Ok::<_, anyhow::Error>(stand_ins.of_client(other)?)
            });
            match stand_in {
                Ok(stand_in) => taken.push(stand_in),
                Err(_) => break,
            }
        }
        Ok(taken)
    };
    let first = take_all(0, &mut bench.kernel)?;
    ensure!(first.len() > 100_000, "only {}", first.len());
    std::thread::sleep(Duration::from_secs(11));
    bench.kernel.maintain()?;
    let again = take_all(1 << 20, &mut bench.kernel)?;
    ensure!(again.len() > 60_000, "only {} came back", again.len());
    ensure!(!again.contains(&of_kept), "a stand-in in use was given to another");
    ask(&mut kept, "still")?;
    Ok(())
}
