//! Agents come, go and are replaced; pods are enrolled and released.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use aya::maps::{Array, HashMap, Map, MapData};
use kit::lab::{LabPod, ask, connect};
use sotto::capture::StandInRanges;
use sotto::mesh::destinations::DestinationsDelta;
use sotto_abi::{Counter, POD_STAND_INS, PodConfig, names};

use super::{Bench, PORT, refusal, who_am_i};

#[test]
fn a_dead_agent_means_refused_at_once() -> Result<()> {
    let mut bench = Bench::new("dead")?;
    let relay = bench.enrol_client()?;
    let inside = bench.enrol_server()?;
    who_am_i(&bench.client, bench.targets()[0])?;
    drop((relay, inside));
    let outsider = bench.lab.pod(4)?;
    for to in bench.targets() {
        assert_eq!(refusal(&bench.client, to), ErrorKind::ConnectionRefused);
        assert_eq!(refusal(&outsider, to), ErrorKind::ConnectionRefused);
    }
    assert_eq!(bench.counts(&bench.client)?.of(Counter::Refused), 2);
    assert_eq!(bench.counts(&bench.server)?.of(Counter::Dropped), 2);
    Ok(())
}

#[test]
fn a_new_agent_lets_nothing_pass_while_it_forgets_the_mesh() -> Result<()> {
    let mut bench = Bench::new("forget")?;
    let relay = bench.enrol_client()?;
    let to = bench.targets()[0];
    // Enough of them that to forget them takes a while.
    let others = (0..20_000).map(|n| Ipv4Addr::from_bits(0x0a80_0000 + n).into());
    let added = others.chain([to.ip()]).collect();
    bench.kernel.update_destinations(&DestinationsDelta { added, ..Default::default() })?;
    bench.kernel.set_synced(true)?;
    drop(relay);

    let (client, installed) = (bench.client.clone(), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&installed);
    let knocking = std::thread::spawn(move || {
        client.run(move || {
            while !done.load(Ordering::Relaxed) {
                connect(to).expect_err("no agent listens");
            }
        });
    });
    let next = bench.lab.install(|_| {});
    installed.store(true, Ordering::Relaxed);
    knocking.join().expect("a connection went in the clear");
    assert_eq!(next?.counters()?.node.of(Counter::Unknown), 0);
    Ok(())
}

#[test]
fn a_dead_agent_means_direct_where_that_is_wanted() -> Result<()> {
    let mut bench = Bench::with("open", |config| config.fail_open = true)?;
    let relay = bench.enrol_client()?;
    let inside = bench.enrol_server()?;
    drop((relay, inside));
    for (to, own) in bench.targets().into_iter().zip([bench.client.ip4(), bench.client.ip6()]) {
        assert_eq!(who_am_i(&bench.client, to)?.ip(), own);
    }
    assert_eq!(bench.counts(&bench.client)?.of(Counter::FailedOpen), 2);
    Ok(())
}

#[test]
fn a_pod_without_an_ipv6_address_cannot_leak_over_ipv6() -> Result<()> {
    let bench = Bench::new("no6")?;
    let Bench { mut kernel, lab, server, .. } = bench;
    let client = lab.pod_on(&lab.host.bridge, 9, |pod| pod.ip6 = None)?;
    let _relay = lab.enrol(&mut kernel, &client)?;
    let to = SocketAddr::new(server.ip6(), PORT);
    assert_eq!(refusal(&client, to), ErrorKind::ConnectionRefused);
    Ok(())
}

#[test]
fn established_connections_survive_enrolment_and_release() -> Result<()> {
    let mut bench = Bench::new("survive")?;
    for to in bench.targets() {
        let before = bench.client.run(move || connect(to))?;
        let relay = bench.enrol_client()?;
        let inside = bench.enrol_server()?;
        let captured = bench.client.run(move || connect(to))?;
        let mut both = [before, captured];
        for stream in &mut both {
            ask(stream, "enrolled")?;
        }
        assert_eq!((relay.count(), inside.count()), (1, 1));

        bench.kernel.release(&bench.client.capture.pod.uid)?;
        bench.kernel.release(&bench.server.capture.pod.uid)?;
        for stream in &mut both {
            ask(stream, "released")?;
        }
        who_am_i(&bench.client, to)?;
        assert_eq!((relay.count(), inside.count()), (1, 1));

        drop((relay, inside));
        bench.kernel.finish_release(&bench.client.capture)?;
        bench.kernel.finish_release(&bench.server.capture)?;
        ask(&mut both[0], "finished")?;
    }
    Ok(())
}

#[test]
fn release_leaves_nothing_behind() -> Result<()> {
    let mut bench = Bench::new("leave")?;
    let before = traces(&bench.client)?;
    for _ in 0..2 {
        let relay = bench.enrol_client()?;
        assert_ne!(traces(&bench.client)?, before);
        who_am_i(&bench.client, bench.targets()[0])?;
        assert_eq!(relay.count(), 1);
        bench.kernel.release(&bench.client.capture.pod.uid)?;
        drop(relay);
        bench.kernel.finish_release(&bench.client.capture)?;
        assert_eq!(traces(&bench.client)?, before);
        let pods = std::fs::read_dir(bench.lab.pin_dir().join(names::PODS_DIRECTORY))?;
        assert_eq!(pods.count(), 0);
        who_am_i(&bench.client, bench.targets()[0])?;
    }
    // To release what is not there is fine.
    bench.kernel.release(&bench.client.capture.pod.uid)?;
    bench.kernel.finish_release(&bench.client.capture)?;
    Ok(())
}

#[test]
fn a_release_that_is_begun_anew_leaves_nothing_behind_either() -> Result<()> {
    let mut bench = Bench::new("anew")?;
    let (before, uid) = (traces(&bench.client)?, bench.client.capture.pod.uid.clone());
    let relay = bench.enrol_client()?;
    for _ in 0..2 {
        bench.kernel.let_out(&uid)?;
        bench.kernel.release(&uid)?;
    }
    drop(relay);
    bench.kernel.finish_release(&bench.client.capture)?;
    assert_eq!(traces(&bench.client)?, before);
    who_am_i(&bench.client, bench.targets()[0])?;
    Ok(())
}

#[test]
fn removal_takes_back_all_of_the_node_and_its_pods() -> Result<()> {
    let mut bench = Bench::new("remove")?;
    let before = traces(&bench.client)?;
    let relay = bench.enrol_client()?;
    sotto::capture::bpf::remove_all(bench.lab.pin_dir())
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    assert!(!bench.lab.pin_dir().exists());
    who_am_i(&bench.client, bench.targets()[0])?;
    assert_eq!(relay.count(), 0);
    drop(relay);
    assert_eq!(traces(&bench.client)?, before);
    Ok(())
}

#[test]
fn removal_takes_the_routes_of_a_pod_that_is_released_and_drains() -> Result<()> {
    let mut bench = Bench::new("drains")?;
    let before = traces(&bench.client)?;
    drop(bench.enrol_client()?);
    bench.kernel.release(&bench.client.capture.pod.uid)?;
    assert_ne!(traces(&bench.client)?, before, "what is open needs its routes");
    sotto::capture::bpf::remove_all(bench.lab.pin_dir())
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    assert_eq!(traces(&bench.client)?, before);
    Ok(())
}

#[test]
fn when_the_mesh_leaves_new_connections_go_direct_and_open_ones_go_on() -> Result<()> {
    let mut bench = Bench::new("leaves")?;
    let before = [traces(&bench.client)?, traces(&bench.server)?];
    let (relay, inside) = (bench.enrol_client()?, bench.enrol_server()?);
    let mut open = Vec::new();
    for to in bench.targets() {
        let mut stream = bench.client.run(move || connect(to))?;
        ask(&mut stream, "captured")?;
        open.push(stream);
    }
    assert_eq!((relay.count(), inside.count()), (2, 2));

    bench.kernel.let_all_out().map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    // No agent puts back what it has let go of.
    bench.kernel.maintain()?;
    for (to, own) in bench.targets().into_iter().zip([bench.client.ip4(), bench.client.ip6()]) {
        assert_eq!(who_am_i(&bench.client, to)?.ip(), own);
    }
    for stream in &mut open {
        ask(stream, "still")?;
    }
    assert_eq!((relay.count(), inside.count()), (2, 2));

    drop((open, relay, inside));
    sotto::capture::bpf::remove_all(bench.lab.pin_dir())
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    assert!(!bench.lab.pin_dir().exists());
    assert_eq!([traces(&bench.client)?, traces(&bench.server)?], before);
    for to in bench.targets() {
        who_am_i(&bench.client, to)?;
    }
    Ok(())
}

#[test]
fn the_next_agent_adopts_what_the_last_one_left() -> Result<()> {
    let mut bench = Bench::new("adopt")?;
    let relay = bench.enrol_client()?;
    let [to, _] = bench.targets();
    who_am_i(&bench.client, to)?;
    bench.kernel.set_synced(true)?;
    who_am_i(&bench.client, to)?;
    drop(relay);

    // The last agent's process is gone: all of its sockets and descriptors are. The next is of another cgroup.
    let Bench { kernel, _server, client, server, lab } = bench;
    drop(kernel);
    let mut kernel = lab.install(|config| config.agent_cgroup_id += 1_000_000)?;
    let adopted = kernel.adopted()?;
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].uid, client.capture.pod.uid);
    // It knows nothing of the mesh yet, so nothing goes direct, and nobody listens yet.
    assert_eq!(refusal(&client, to), ErrorKind::ConnectionRefused);

    // Its predecessor's cgroup, ours, is still exempt: the relay's dials get out.
    let relay = lab.enrol(&mut kernel, &client)?;
    who_am_i(&client, to)?;
    assert_eq!(relay.count(), 1);
    drop(relay);
    let bench = Bench { kernel, _server, client, server, lab };
    let counts = bench.counts(&bench.client)?;
    assert_eq!(
        [Counter::Captured, Counter::Unknown, Counter::Refused].map(|one| counts.of(one)),
        [2, 1, 1]
    );
    Ok(())
}

/// What the kernel has of a pod, and the pod itself, as an agent that redirected by marks left them.
fn as_by_marks(bench: &Bench) -> Result<()> {
    let pins = bench.lab.pin_dir();
    let uid = bench.client.capture.pod.uid.0.as_str();
    let of_pod = pins.join(names::PODS_DIRECTORY).join(uid).join(names::POD_CONFIG);
    let mut config: Array<_, PodConfig> = Map::Array(MapData::from_pin(of_pod)?).try_into()?;
    let known = config.get(&0, 0)?;
    let pod = sotto_abi::Pod { flags: known.pod.flags & !POD_STAND_INS, ..known.pod };
    // The second setting was on before.
    config.set(0, PodConfig { pod, settings: 1 << 1, ..known }, 0)?;
    let enrolled = MapData::from_pin(pins.join(names::MAPS_DIRECTORY).join(names::ENROLLED))?;
    let mut enrolled: HashMap<_, u64, sotto_abi::Pod> = Map::HashMap(enrolled).try_into()?;
    enrolled.insert(known.cookie, pod, 0)?;
    bench.client.run(|| -> Result<()> {
        for line in [
            "route del local 127.64.0.0/10 table local",
            "route del local 240.64.0.0/10 table local",
            "-6 route del local 100::/64 table local",
            "rule add fwmark 0x111 lookup 100 pref 100",
            "-6 rule add fwmark 0x111 lookup 100 pref 100",
            "route add local default dev lo table 100",
            "-6 route add local default dev lo table 100",
        ] {
            let output = std::process::Command::new("ip").args(line.split(' ')).output()?;
            anyhow::ensure!(output.status.success(), "{line}: {output:?}");
        }
        for name in SETTINGS {
            sotto::sys::sysctl::write(name, "1")?;
        }
        Ok(())
    })
}

const SETTINGS: [&str; 3] =
    ["net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"];

#[test]
fn a_pod_of_an_agent_that_redirected_by_marks_is_moved_over() -> Result<()> {
    let mut bench = Bench::new("marks")?;
    drop(bench.enrol_client()?);
    as_by_marks(&bench)?;
    // A connection of that agent's, which it drains.
    let held = bench.client.run(|| -> std::io::Result<_> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_mark(0x111)?;
        socket.connect(&listener.local_addr()?.into())?;
        Ok((listener.accept()?.0, socket))
    })?;
    let Bench { kernel, _server, client, server, lab } = bench;
    drop(kernel);
    let mut bench = Bench { kernel: lab.install(|_| {})?, _server, client, server, lab };
    for to in bench.targets() {
        assert_eq!(refusal(&bench.client, to), ErrorKind::ConnectionRefused);
    }
    let relay = bench.enrol_client()?;
    for to in bench.targets() {
        who_am_i(&bench.client, to)?;
    }
    assert_eq!(relay.count(), 2);
    let left = || -> Result<(String, Vec<String>)> {
        let rules = std::process::Command::new("ip").arg("rule").output()?;
        let settings = SETTINGS.map(sotto::sys::sysctl::read);
        Ok((String::from_utf8(rules.stdout)?, settings.into_iter().collect::<Result<_, _>>()?))
    };
    bench.kernel.maintain()?;
    let (rules, settings) = bench.client.run(left)?;
    assert!(rules.contains("0x111"), "its connection is open: {rules}");
    assert_eq!(settings, ["1", "1", "1"]);
    drop(held);
    bench.kernel.maintain()?;
    let (rules, settings) = bench.client.run(left)?;
    assert!(!rules.contains("0x111"), "{rules}");
    assert_eq!(settings, ["0", "1", "0"]);
    for to in bench.targets() {
        who_am_i(&bench.client, to)?;
    }
    Ok(())
}

#[test]
fn new_listeners_take_over_at_once_while_the_old_ones_drain() -> Result<()> {
    let mut bench = Bench::new("handover")?;
    let (old, old_inside) = (bench.enrol_client()?, bench.enrol_server()?);
    let [to, _] = bench.targets();
    let mut kept = bench.client.run(move || connect(to))?;
    ask(&mut kept, "old")?;
    let (new, new_inside) = (bench.enrol_client()?, bench.enrol_server()?);
    for _ in 0..20 {
        who_am_i(&bench.client, to)?;
    }
    old.stop_accepting();
    old_inside.stop_accepting();
    for _ in 0..20 {
        who_am_i(&bench.client, to)?;
    }
    ask(&mut kept, "still")?;
    assert_eq!((old.count(), old_inside.count()), (1, 1));
    assert_eq!((new.count(), new_inside.count()), (40, 40));
    Ok(())
}

#[test]
fn a_pod_that_is_gone_is_forgotten() -> Result<()> {
    let mut bench = Bench::new("gone")?;
    let relay = bench.enrol_client()?;
    assert_eq!(bench.kernel.adopted()?.len(), 1);
    drop(relay);
    let Bench { mut kernel, _server, client, server, lab } = bench;
    drop(client);
    // The kernel takes namespaces down on its own time.
    for _ in 0..100 {
        kernel.maintain()?;
        if std::fs::read_dir(lab.pin_dir().join(names::PODS_DIRECTORY))?.count() == 0 {
            drop((server, _server));
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    anyhow::bail!("the pins of a pod that is gone stay")
}

#[test]
fn a_kubelets_cgroup_made_anew_is_found_again() -> Result<()> {
    let mut bench = Bench::new("kubelet")?;
    let relay = bench.enrol_server()?;
    let [to, _] = bench.targets();
    bench.lab.remake_kubelet_cgroup()?;
    let lab = &bench.lab;
    lab.know_kubelet(&mut bench.kernel)?;
    let probe = move || ask(&mut connect(to)?, "probe");
    bench.lab.on_node(kit::lab::Place::Kubelet, probe)?;
    assert_eq!(relay.count(), 0);
    Ok(())
}

/// Another pod that is led into the client's network namespace.
fn intruder(bench: &Bench) -> LabPod {
    bench.client.renamed("intruder")
}

#[test]
fn a_network_namespace_that_a_pod_holds_is_no_other_pods() -> Result<()> {
    let mut bench = Bench::new("held")?;
    let relay = bench.enrol_client()?;
    let (intruder, [to, _]) = (intruder(&bench), bench.targets());
    assert!(bench.kernel.ensure_free(&intruder.capture).is_err());
    bench.kernel.ensure_free(&bench.client.capture)?;
    let refused = bench.lab.enrol(&mut bench.kernel, &intruder);
    assert!(format!("{:#}", refused.expect_err("taken")).contains("is held by the pod"));
    assert_eq!(bench.kernel.adopted()?.len(), 1);
    who_am_i(&bench.client, to)?;
    assert_eq!(relay.count(), 1);

    // The next agent knows whose it is, too.
    let Bench { kernel, _server, client, server, lab } = bench;
    drop((kernel, relay));
    let mut kernel = lab.install(|_| {})?;
    assert!(lab.enrol(&mut kernel, &intruder).is_err());
    let relay = lab.enrol(&mut kernel, &client)?;
    who_am_i(&client, to)?;
    assert_eq!(relay.count(), 1);
    // Once it is free it is anyone's.
    kernel.release(&client.capture.pod.uid)?;
    lab.enrol(&mut kernel, &intruder)?;
    drop((server, _server));
    Ok(())
}

#[test]
fn what_a_pod_undoes_it_undoes_only_of_its_own() -> Result<()> {
    let mut bench = Bench::new("undo")?;
    let relay = bench.enrol_client()?;
    let (intruder, before) = (intruder(&bench), traces(&bench.client)?);
    assert!(bench.lab.enrol(&mut bench.kernel, &intruder).is_err());
    let uid = &intruder.capture.pod.uid;
    bench.kernel.let_out(uid)?;
    bench.kernel.release(uid)?;
    bench.kernel.finish_release(&intruder.capture)?;
    assert_eq!(traces(&bench.client)?, before);
    who_am_i(&bench.client, bench.targets()[0])?;
    assert_eq!(relay.count(), 1);
    Ok(())
}

#[test]
fn a_pod_made_anew_under_its_uid_is_captured_in_its_new_namespace() -> Result<()> {
    let mut bench = Bench::new("anew")?;
    let _relay = bench.enrol_client()?;
    let uid = bench.client.capture.pod.uid.clone();
    let again = bench.lab.pod_on(&bench.lab.host.bridge, 9, |pod| pod.uid = uid)?;
    let relay = bench.lab.enrol(&mut bench.kernel, &again)?;
    who_am_i(&again, bench.targets()[0])?;
    assert_eq!(relay.count(), 1);
    who_am_i(&bench.client, bench.targets()[0])?;
    assert_eq!(bench.kernel.adopted()?.len(), 1);
    Ok(())
}

/// All that an enrolment changes inside a pod.
fn traces(pod: &LabPod) -> Result<Vec<String>> {
    pod.run(|| {
        let mut traces = Vec::new();
        for family in ["-4", "-6"] {
            for what in [&["rule"][..], &["nexthop"], &["route", "show", "table", "all"]] {
                let output = std::process::Command::new("ip").arg(family).args(what).output()?;
                traces.push(String::from_utf8(output.stdout)?);
            }
        }
        let sockets = std::process::Command::new("ss").args(["-Hltn"]).output()?;
        traces.push(String::from_utf8(sockets.stdout)?);
        Ok(traces)
    })
}

/// Says its own address as the client, over and over, and compares with what the server sees.
fn insist(pod: LabPod, to: SocketAddr, done: Arc<AtomicBool>) -> std::thread::JoinHandle<u32> {
    std::thread::spawn(move || {
        pod.run(move || {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                let asked = connect(to).and_then(|mut stream| {
                    let own = stream.local_addr()?.ip();
                    Ok((own, ask(&mut stream, "who am I")))
                });
                // No answer is no harm; a wrong one is.
                if let Ok((own, Ok(seen))) = asked {
                    // A hook may go right after it was looked for: then a stand-in shows, which nobody takes for
                    // localhost or another client.
                    let is_stand_in = StandInRanges::default().holds(seen.ip()).is_some();
                    assert!(seen.ip() == own || is_stand_in, "{own} was taken for {seen}");
                    served += 1;
                }
            }
            served
        })
    })
}

#[test]
fn a_server_never_takes_a_client_for_another_while_programs_come_and_go() -> Result<()> {
    use std::os::fd::AsFd as _;

    let mut bench = Bench::new("reload")?;
    let _relay = bench.enrol_server()?;
    let [to, to6] = bench.targets();
    let other = bench.lab.pod(5)?;
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [(&bench.client, to), (&other, to), (&bench.client, to6), (&other, to6)]
        .into_iter()
        .map(|(pod, to)| insist(pod.clone(), to, Arc::clone(&done)))
        .collect();
    for round in 0..30 {
        // An upgrade: programs are replaced in place.
        let _next = bench.lab.install(|_| {})?;
        if round % 3 == 0 {
            // Somebody detaches a hook, and the agent attaches it again.
            let name = [names::GETPEERNAME4, names::GETPEERNAME6][round / 3 % 2];
            let pin = bench.lab.pin_dir().join(names::LINKS_DIRECTORY).join(name);
            sotto::sys::bpf::detach_link(sotto::sys::bpf::open_pinned(&pin)?.as_fd())?;
            std::thread::sleep(std::time::Duration::from_millis(20));
            bench.kernel.maintain()?;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        let served = client.join().expect("a client was taken for another");
        assert!(served > 0, "it was never served");
    }
    Ok(())
}
