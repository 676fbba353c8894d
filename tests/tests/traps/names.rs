//! What a pod asks of resolvers: who answers, and what the pod sees of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kit::lab::{Answering, Lab, LabPod, Resolver, connect};
use socket2::{Domain, Protocol, Socket, Type};
use sotto::capture::PodListeners;
use sotto::capture::bpf::Kernel;
use sotto::mesh::service::{Families, LoadBalancing, Port, Visibility};
use sotto::mesh::{
    Given, MeshEvent, MeshReader, NetworkAddress, ResourceKind, Service, ServiceKey, Store,
    Workload,
};
use sotto_abi::MAX_RESOLVERS;

use super::AT_ONCE;

/// A name that only the mesh knows, and its addresses.
const KNOWN: &str = "only.mesh.example";
const VIP4: Ipv4Addr = Ipv4Addr::new(240, 240, 0, 7);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 7);
/// A name that the mesh does not know.
const OTHER: &str = "elsewhere.example";
const PATIENCE: Duration = Duration::from_secs(5);

/// A pod that asks, another that is its resolver.
struct World {
    // Dropped in this order: what serves goes first, the lab last.
    answering: Option<Answering>,
    resolver: Resolver,
    client: LabPod,
    server: LabPod,
    mesh: MeshReader,
    kernel: Kernel,
    lab: Lab,
    _store: Store,
}

impl World {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let mut kernel = lab.install(|_| {})?;
        let (client, server) = (lab.pod(2)?, lab.pod(3)?);
        let resolver = server.resolve()?;
        let (store, mesh) = mesh(&client)?;
        let answering = Some(lab.answer(&mut kernel, &client, mesh.clone())?);
        Ok(Self { answering, resolver, client, server, mesh, kernel, lab, _store: store })
    }

    /// The resolver's addresses, as the pod may ask for them.
    fn resolvers(&self) -> [SocketAddr; 2] {
        [self.server.ip4(), self.server.ip6()].map(|ip| SocketAddr::new(ip, 53))
    }

    /// Who has asked the resolver so far.
    fn clients(&self) -> Vec<IpAddr> {
        self.resolver.seen().iter().map(|asked| asked.client.ip()).collect()
    }
}

/// A mesh that knows the pod, and a service by a name of its own.
fn mesh(pod: &LabPod) -> Result<(Store, MeshReader)> {
    let (mut store, reader) =
        Store::on(Given { node: "node".into(), cluster_id: Some("c".into()), ..Given::default() });
    let local = &pod.capture.pod;
    let own = Workload::pod("c", &local.namespace, &local.name, "default", pod.ip4())?;
    let own = Workload { node: "node".into(), ..own };
    let vips = [IpAddr::from(VIP4), IpAddr::from(VIP6)];
    let service = Service {
        name: "only".into(),
        key: ServiceKey { namespace: "lab".into(), hostname: KNOWN.into() },
        vips: vips.map(|ip| NetworkAddress::new("", ip)).to_vec(),
        cidr_vips: vec![],
        ports: vec![Port { service_port: 80, target_port: Some(80) }],
        subject_alt_names: vec![],
        waypoint: None,
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing::default(),
        canonical: true,
        families: Families::Any,
        visibility: Visibility::Public,
    };
    store.apply([MeshEvent::Workload(Arc::new(own)), MeshEvent::Service(Arc::new(service))]);
    store.set_synced(ResourceKind::Address);
    store.set_synced(ResourceKind::Authorization);
    Ok((store, reader))
}

/// A question for a name's addresses of one family (RFC 1035, 4.1).
fn question(id: u16, name: &str, is_v4: bool) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label is short"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, if is_v4 { 1 } else { 28 }, 0, 1]);
    bytes
}

/// The one address of an answer: it is the last of its bytes.
fn address(id: u16, answer: &[u8], is_v4: bool) -> Result<IpAddr> {
    ensure!(answer.get(..2) == Some(&id.to_be_bytes()), "another question's: {answer:?}");
    ensure!(answer.get(6..8) == Some(&[0, 1]), "not one answer: {answer:?}");
    Ok(if is_v4 {
        let octets: [u8; 4] = *answer.last_chunk().context("no address")?;
        octets.into()
    } else {
        let octets: [u8; 16] = *answer.last_chunk().context("no address")?;
        octets.into()
    })
}

fn udp(domain: Domain) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// Asks over a socket with a peer, as glibc and Go do: what it is shown as the peer, and the answer.
fn ask_connected(to: SocketAddr, question: &[u8]) -> Result<(SocketAddr, Vec<u8>)> {
    let socket = udp(Domain::for_address(to))?;
    socket.connect(to)?;
    socket.send(question)?;
    Ok((socket.peer_addr()?, read(&socket)?))
}

fn read(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

#[test]
fn a_connected_socket_is_answered_by_the_mesh_as_by_its_resolver() -> Result<()> {
    let world = World::new("conn")?;
    for (to, is_v4) in world.resolvers().into_iter().zip([true, false]) {
        let vip = if is_v4 { IpAddr::from(VIP4) } else { VIP6.into() };
        let asked = move || ask_connected(to, &question(7, KNOWN, is_v4));
        let (peer, answer) = world.client.run_unprivileged(asked)?;
        assert_eq!((peer, address(7, &answer, is_v4)?), (to, vip));
    }
    assert_eq!(world.resolver.seen(), []);
    Ok(())
}

/// As musl does: it takes no answer of whom it has not asked.
#[test]
fn a_socket_without_a_peer_is_told_that_those_answer_whom_it_has_asked() -> Result<()> {
    let world = World::new("unconn")?;
    let second = world.lab.pod(4)?;
    let _second_resolver = second.resolve()?;
    let of = |ip: IpAddr| SocketAddr::new(ip, 53);
    let IpAddr::V4(mapped) = world.server.ip4() else { unreachable!("of IPv4") };
    let cases = [
        (Domain::IPV4, [of(world.server.ip4()), of(second.ip4())]),
        (Domain::IPV6, [of(world.server.ip6()), of(second.ip6())]),
        (Domain::IPV6, [of(mapped.to_ipv6_mapped().into()), of(world.server.ip6())]),
    ];
    for (domain, servers) in cases {
        for name in [KNOWN, OTHER] {
            let from = world.client.run(move || -> Result<Vec<SocketAddr>> {
                let socket = udp(domain)?;
                for server in servers {
                    socket.send_to(&question(9, name, true), server)?;
                }
                let mut from = Vec::new();
                for _ in servers {
                    let mut answer = [0; 512];
                    let (length, server) = socket.recv_from(&mut answer)?;
                    let vip = address(9, &answer[..length], true)?;
                    ensure!((vip == IpAddr::from(VIP4)) == (name == KNOWN), "{vip} is {name}");
                    from.push(SocketAddr::new(server.ip(), server.port()));
                }
                Ok(from)
            })?;
            for server in servers {
                assert!(from.contains(&server), "{servers:?}: {from:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_the_mesh_does_not_know_is_the_resolvers_to_answer_byte_for_byte() -> Result<()> {
    let world = World::new("other")?;
    let own = [world.client.ip4(), world.client.ip6()];
    for (to, own) in world.resolvers().into_iter().zip(own) {
        // Also what is no question for an address, or nothing that we could read.
        let mut text = question(11, KNOWN, true);
        let at = text.len() - 3;
        text[at] = 16;
        let mut strange = question(12, OTHER, true);
        strange.extend([1, 2, 3]);
        for asked in [question(10, OTHER, true), question(10, OTHER, false), text, strange] {
            let expected = Resolver::answer(&asked, false).context("an answer")?;
            let answer = world.client.run(move || ask_connected(to, &asked))?.1;
            assert_eq!(answer, expected);
        }
        assert!(world.clients().iter().rev().take(4).all(|client| *client == own));
    }
    assert_eq!(world.clients().len(), 8);
    Ok(())
}

#[test]
fn many_questions_of_one_socket_are_each_answered() -> Result<()> {
    let world = World::new("many")?;
    let to = world.resolvers()[0];
    let answered = world.client.run(move || -> Result<usize> {
        let socket = udp(Domain::IPV4)?;
        socket.connect(to)?;
        let mut open: Vec<u16> = (0..200).collect();
        for id in open.clone() {
            let name = if id % 2 == 0 { KNOWN } else { OTHER };
            socket.send(&question(id, name, true))?;
        }
        while !open.is_empty() {
            let answer = read(&socket)?;
            let id = u16::from_be_bytes([answer[0], answer[1]]);
            let vip = address(id, &answer, true)?;
            ensure!((vip == IpAddr::from(VIP4)) == (id % 2 == 0), "{id}: {vip}");
            open.retain(|other| *other != id);
        }
        Ok(200)
    })?;
    assert_eq!((answered, world.resolver.seen().len()), (200, 100));
    Ok(())
}

/// Asks for `name` so many times over one socket, a few at a time, and counts the answers that have an address.
fn burst(to: SocketAddr, name: &str, count: u16) -> Result<usize> {
    let socket = udp(Domain::IPV4)?;
    socket.connect(to)?;
    let sending = socket.try_clone()?;
    let questions: Vec<_> = (0..count).map(|id| question(id, name, true)).collect();
    std::thread::scope(|scope| {
        // Not more at once than a socket has room for.
        let sent = scope.spawn(move || -> std::io::Result<()> {
            for some in questions.chunks(50) {
                some.iter().try_for_each(|one| sending.send(one).map(drop))?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        let mut answered = 0;
        for _ in 0..count {
            let answer = read(&socket)?;
            answered += usize::from(answer.get(6..8) == Some(&[0, 1]));
        }
        sent.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        Ok(answered)
    })
}

#[test]
fn questions_that_are_too_many_for_a_slow_resolver_wait_for_their_turn() -> Result<()> {
    let world = World::new("slow")?;
    let to = world.resolvers()[0];
    assert_eq!(world.client.run(move || burst(to, "slow.example", 1200))?, 1200);
    assert_eq!(world.resolver.seen().len(), 1200);
    Ok(())
}

#[test]
fn a_port_that_a_resolver_was_asked_from_is_used_again_for_a_moment_and_then_no_more() -> Result<()>
{
    let world = World::new("ports")?;
    let to = world.resolvers()[0];
    let ports = |world: &World| -> std::collections::BTreeSet<u16> {
        world.resolver.seen().iter().map(|asked| asked.client.port()).collect()
    };
    let ask = move || -> Result<()> {
        for id in 0..50 {
            ask_connected(to, &question(id, OTHER, true))?;
        }
        Ok(())
    };
    let started = Instant::now();
    world.client.run(ask)?;
    let first = ports(&world);
    // Each second has its own; one at a time asks from one.
    let seconds = usize::try_from(started.elapsed().as_secs())? + 1;
    assert!(first.len() <= 2 * seconds, "{first:?}");
    std::thread::sleep(Duration::from_millis(2500));
    world.client.run(ask)?;
    let later = ports(&world);
    assert!(later.len() > first.len(), "{later:?}");
    // And none is left open: nobody in the pod has a socket of UDP towards a resolver.
    std::thread::sleep(Duration::from_millis(2500));
    let table = world.client.run(|| std::fs::read_to_string("/proc/thread-self/net/udp"))?;
    let towards = table
        .lines()
        .filter(|line| line.split_whitespace().nth(2).is_some_and(|peer| peer.ends_with(":0035")));
    assert_eq!(towards.count(), 0, "{table}");
    Ok(())
}

/// Sends a message over TCP (RFC 1035, 4.2.2), and reads the next.
fn exchange(stream: &mut std::net::TcpStream, message: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(message.len())?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_stream_to_a_resolver_is_answered_message_by_message() -> Result<()> {
    let world = World::new("stream")?;
    for (to, own) in world.resolvers().into_iter().zip([world.client.ip4(), world.client.ip6()]) {
        let (peer, answers) = world.client.run(move || -> Result<_> {
            let mut stream = connect(to)?;
            let peer = stream.peer_addr()?;
            let asked = [(1, KNOWN), (2, OTHER), (3, KNOWN), (4, "big.example")];
            let answers = asked.map(|(id, name)| exchange(&mut stream, &question(id, name, true)));
            // In order on both sides.
            stream.shutdown(std::net::Shutdown::Write)?;
            ensure!(stream.read(&mut [0; 1])? == 0, "more than was asked for");
            Ok((peer, answers.into_iter().collect::<Result<Vec<_>>>()?))
        })?;
        assert_eq!(peer, to);
        assert_eq!(address(1, &answers[0], true)?, IpAddr::from(VIP4));
        assert_eq!(Some(&answers[1]), Resolver::answer(&question(2, OTHER, true), true).as_ref());
        assert_eq!(address(3, &answers[2], true)?, IpAddr::from(VIP4));
        let big = Resolver::answer(&question(4, "big.example", true), true);
        assert_eq!(Some(&answers[3]), big.as_ref());
        let last = world.resolver.seen().pop().context("nobody asked")?;
        assert_eq!((last.client.ip(), last.by_stream), (own, true));
    }
    assert_eq!(world.resolver.seen().len(), 4);
    Ok(())
}

#[test]
fn without_the_agent_resolvers_are_asked_as_before() -> Result<()> {
    let mut world = World::new("away")?;
    let kept = world.client.run({
        let to = world.resolvers()[0];
        move || -> Result<UdpSocket> {
            let socket = udp(Domain::IPV4)?;
            socket.connect(to)?;
            socket.send(&question(1, KNOWN, true))?;
            address(1, &read(&socket)?, true)?;
            Ok(socket)
        }
    })?;
    drop(world.answering.take());
    for (to, own) in world.resolvers().into_iter().zip([world.client.ip4(), world.client.ip6()]) {
        let asked = question(2, KNOWN, true);
        let expected = Resolver::answer(&asked, false).context("an answer")?;
        let (peer, answer) = world.client.run(move || ask_connected(to, &asked))?;
        assert_eq!((peer, answer), (to, expected.clone()));
        let (answer, from) = world.client.run(move || -> Result<_> {
            let socket = udp(Domain::for_address(to))?;
            socket.send_to(&question(2, KNOWN, true), to)?;
            let mut answer = [0; 512];
            let (length, from) = socket.recv_from(&mut answer)?;
            Ok((answer[..length].to_vec(), from))
        })?;
        assert_eq!((answer, from.ip()), (expected, to.ip()));
        assert_eq!(world.clients().last(), Some(&own));
    }
    // What was connected while the agent was there is told at once, and answered by the next agent.
    let asked = Instant::now();
    kept.send(&question(3, KNOWN, true))?;
    assert_eq!(read(&kept).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    let next = world.lab.answer(&mut world.kernel, &world.client, world.mesh.clone())?;
    kept.send(&question(4, KNOWN, true))?;
    assert_eq!(address(4, &read(&kept)?, true)?, IpAddr::from(VIP4));
    drop(next);
    Ok(())
}

#[test]
fn a_pod_that_opts_out_asks_its_resolvers_itself() -> Result<()> {
    let mut world = World::new("out")?;
    drop(world.answering.take());
    let listeners = PodListeners::bind(&world.client.capture)?;
    world.kernel.capture(&world.client.capture, &listeners)?;
    for to in world.resolvers() {
        let asked = question(5, KNOWN, true);
        let expected = Resolver::answer(&asked, false).context("an answer")?;
        let answer = world.client.run(move || ask_connected(to, &asked))?;
        assert_eq!(answer, (to, expected));
    }
    Ok(())
}

#[test]
fn a_pod_that_is_not_enrolled_asks_its_resolvers_itself() -> Result<()> {
    let world = World::new("none")?;
    let outsider = world.lab.pod(5)?;
    for to in world.resolvers() {
        let asked = question(6, KNOWN, true);
        let expected = Resolver::answer(&asked, false).context("an answer")?;
        let answer = outsider.run(move || ask_connected(to, &asked))?;
        assert_eq!(answer, (to, expected));
    }
    Ok(())
}

#[test]
fn a_released_pod_asks_its_resolvers_itself_and_leaves_nothing_behind() -> Result<()> {
    let mut world = World::new("gone")?;
    let to = world.resolvers()[0];
    world.client.run(move || ask_connected(to, &question(1, KNOWN, true)))?;
    world.kernel.release(&world.client.capture.pod.uid)?;
    drop(world.answering.take());
    world.kernel.finish_release(&world.client.capture)?;
    let asked = question(2, KNOWN, true);
    let expected = Resolver::answer(&asked, false).context("an answer")?;
    assert_eq!(world.client.run(move || ask_connected(to, &asked))?, (to, expected));
    let maps = world.lab.pin_dir().join(sotto_abi::names::MAPS_DIRECTORY);
    let map = aya::maps::MapData::from_pin(maps.join(sotto_abi::names::RESOLVERS))?;
    let map = aya::maps::Map::HashMap(map);
    let left: aya::maps::HashMap<_, sotto_abi::ResolverKey, sotto_abi::Address> = map.try_into()?;
    assert_eq!(left.keys().count(), 0);
    Ok(())
}

#[test]
fn datagrams_to_other_ports_are_nobodys_business() -> Result<()> {
    let world = World::new("ports")?;
    for (ip, own) in
        [(world.server.ip4(), world.client.ip4()), (world.server.ip6(), world.client.ip6())]
    {
        let at = SocketAddr::new(ip, 5353);
        let server = world.server.run(move || UdpSocket::bind(at))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let (connected, other) = world.client.run(move || -> Result<_> {
            let (connected, other) = (udp(Domain::for_address(at))?, udp(Domain::for_address(at))?);
            connected.connect(at)?;
            connected.send(&question(1, KNOWN, true))?;
            other.send_to(&question(1, KNOWN, true), at)?;
            Ok((connected, other))
        })?;
        for client in [&connected, &other] {
            let mut bytes = [0; 512];
            let (length, from) = server.recv_from(&mut bytes)?;
            assert_eq!((&bytes[..length], from.ip()), (&question(1, KNOWN, true)[..], own));
            server.send_to(b"answer", from)?;
            let (length, from) = client.recv_from(&mut bytes)?;
            assert_eq!((&bytes[..length], from.ip(), from.port()), (&b"answer"[..], ip, 5353));
        }
    }
    Ok(())
}

/// CoreDNS in an enrolled pod, or a cache in a container of the pod.
#[test]
fn a_resolver_in_the_pod_itself_is_reached_and_may_have_every_port() -> Result<()> {
    let world = World::new("inside")?;
    let _inside = world.client.resolve()?;
    // The port of what is rewritten, too, but for what the agent has bound.
    for to in [world.client.ip4(), Ipv4Addr::LOCALHOST.into(), world.client.ip6()] {
        let to = SocketAddr::new(to, 53);
        let asked = question(1, KNOWN, true);
        let expected = Resolver::answer(&asked, false).context("an answer")?;
        assert_eq!(world.client.run(move || ask_connected(to, &asked))?, (to, expected));
    }
    assert_eq!(world.resolver.seen(), []);
    let (to, own) = (SocketAddr::new(world.client.ip4(), 53), world.server.ip4());
    let from_outside = world.server.run(move || ask_connected(to, &question(2, OTHER, true)))?;
    assert_eq!(from_outside.0, to);
    assert!(own.is_ipv4());
    Ok(())
}

#[test]
fn a_resolver_that_is_not_there_is_said_to_have_failed_at_once() -> Result<()> {
    let world = World::new("refuse")?;
    let nobody = world.lab.pod(6)?;
    let to = SocketAddr::new(nobody.ip4(), 53);
    let asked = Instant::now();
    let (_, answer) = world.client.run(move || ask_connected(to, &question(3, OTHER, true)))?;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    // SERVFAIL (RFC 1035, 4.1.1).
    assert_eq!(answer[3] & 0xf, 2, "{answer:?}");
    // What the mesh knows it knows all the same.
    let (_, answer) = world.client.run(move || ask_connected(to, &question(4, KNOWN, true)))?;
    assert_eq!(address(4, &answer, true)?, IpAddr::from(VIP4));
    Ok(())
}

#[test]
fn a_resolver_that_is_silent_holds_nobody_up() -> Result<()> {
    let world = World::new("silent")?;
    let to = world.resolvers()[0];
    let started = Instant::now();
    world.client.run(move || -> Result<()> {
        let socket = udp(Domain::IPV4)?;
        socket.connect(to)?;
        for id in 0..1000 {
            socket.send(&question(id, "silent.example", true))?;
        }
        // Some were too many, and were told so; what the mesh knows is answered meanwhile.
        let (peer, answer) = ask_connected(to, &question(7, KNOWN, true))?;
        ensure!((peer, address(7, &answer, true)?) == (to, IpAddr::from(VIP4)), "{answer:?}");
        Ok(())
    })?;
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    Ok(())
}

#[test]
fn a_pod_that_asks_many_resolvers_is_answered_and_takes_nothing_of_others() -> Result<()> {
    let world = World::new("slots")?;
    // None of them is there, and the mesh answers in their place.
    for number in 0..MAX_RESOLVERS {
        let to = SocketAddr::from(([10, 77, 0, 100 + u8::try_from(number)?], 53));
        let (peer, answer) =
            world.client.run(move || ask_connected(to, &question(8, KNOWN, true)))?;
        assert_eq!((peer, address(8, &answer, true)?), (to, IpAddr::from(VIP4)));
    }
    let to = world.resolvers()[0];
    let asked = question(8, KNOWN, true);
    let expected = Resolver::answer(&asked, false).context("an answer")?;
    assert_eq!(world.client.run(move || ask_connected(to, &asked))?, (to, expected));
    // Another pod has as many.
    let other = world.lab.pod(7)?;
    let mut kernel = world.kernel;
    let (_store, mesh) = mesh(&other)?;
    let _answering = world.lab.answer(&mut kernel, &other, mesh)?;
    let to = SocketAddr::new(world.server.ip4(), 53);
    let (_, answer) = other.run(move || ask_connected(to, &question(9, KNOWN, true)))?;
    assert_eq!(address(9, &answer, true)?, IpAddr::from(VIP4));
    Ok(())
}
