//! Namespaces, capabilities and sockets below the capture.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kit::lab::{Lab, ask, connect};
use socket2::{Domain, Socket, Type};
use sotto::capture::{PodListeners, Role};
use sotto::sys::Netns;
use sotto::sys::netlink::Netlink;
use sotto::sys::privileges::{self, Capability};
use sotto::sys::socket::{self, AppDialler};
use tokio_util::sync::CancellationToken;

use super::{Bench, PORT, who_am_i};

fn here() -> u64 {
    Netns::current().expect("a thread has a namespace").inode()
}

#[test]
fn a_thread_comes_home_even_from_a_panic() -> Result<()> {
    let (home, there) = (here(), Netns::create()?);
    let inside = || {
        assert_eq!(here(), there.inode());
        panic!("on purpose");
    };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| there.enter(inside)));
    assert!(outcome.is_err());
    assert_eq!(here(), home);
    Ok(())
}

#[test]
fn namespaces_nest() -> Result<()> {
    let (home, outer, inner) = (here(), Netns::create()?, Netns::create()?);
    let seen = outer.enter(|| {
        let before = here();
        let nested = inner.enter(here);
        (before, nested.ok(), here())
    })?;
    assert_eq!(seen, (outer.inode(), Some(inner.inode()), outer.inode()));
    assert_eq!(here(), home);
    assert_ne!(outer.cookie()?, inner.cookie()?);
    Ok(())
}

#[test]
fn a_bridge_in_a_pod_is_found_and_no_other_device() -> Result<()> {
    let netns = Netns::create()?;
    let found = || -> Result<Option<String>> {
        Ok(netns.enter(|| Netlink::open().and_then(Netlink::bridge))??)
    };
    let add = |line: &str| -> Result<String> { netns.enter(|| kit::command::ip(line))? };
    add("link add eth0 type veth peer name other")?;
    assert_eq!(found()?, None);
    add("link add docker0 type bridge")?;
    assert_eq!(found()?.as_deref(), Some("docker0"));
    Ok(())
}

#[test]
fn a_file_that_is_no_network_namespace_is_refused() {
    for path in ["/proc/self/ns/mnt", "/etc/hostname"] {
        assert!(Netns::open(path.as_ref()).is_err(), "{path}");
    }
}

#[test]
fn the_capabilities_that_are_kept_are_enough() -> Result<()> {
    let mut bench = Bench::new("caps")?;
    let (client, server) = (bench.client.clone(), bench.server.clone());
    let to = SocketAddr::new(server.ip4(), PORT);
    std::thread::scope(|scope| {
        let agent = scope.spawn(|| -> Result<()> {
            privileges::drop_all_but(privileges::AGENT)?;
            anyhow::ensure!(privileges::has(Capability::NetAdmin)?);
            let status = std::fs::read_to_string("/proc/thread-self/status")?;
            let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
            let effective = u64::from_str_radix(effective.context("no CapEff")?, 16)?;
            anyhow::ensure!(effective.count_ones() as usize <= privileges::AGENT.len());
            bench.kernel = bench.lab.install(|_| {})?;
            let relays = (
                bench.lab.enrol(&mut bench.kernel, &client)?,
                bench.lab.enrol(&mut bench.kernel, &server)?,
            );
            who_am_i(&client, to)?;
            anyhow::ensure!((relays.0.count(), relays.1.count()) == (1, 1));
            bench.kernel.release(&client.capture.pod.uid)?;
            bench.kernel.finish_release(&client.capture)?;
            Ok(())
        });
        agent.join().expect("the agent's thread does not panic")
    })
}

#[test]
fn what_waits_to_be_accepted_is_served_after_the_stop() -> Result<()> {
    let mut bench = Bench::new("queue")?;
    let listeners = PodListeners::bind(&bench.client.capture)?;
    bench.kernel.capture(&bench.client.capture, &listeners)?;
    let [to, to6] = bench.targets();
    let waiting =
        bench.client.run(move || Ok::<_, std::io::Error>([connect(to)?, connect(to6)?]))?;

    let stop = CancellationToken::new();
    stop.cancel();
    let seen = RefCell::new(Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let on = |captured: sotto::capture::Captured| {
        seen.borrow_mut().push((captured.role, captured.original_destination));
    };
    runtime.block_on(listeners.run(Arc::clone(&bench.client.capture), on, stop))?;
    assert_eq!(seen.into_inner(), [(Role::Outbound, to), (Role::Outbound, to6)]);
    drop(waiting);
    Ok(())
}

#[test]
fn a_pod_can_be_dialled_as_itself_and_as_anyone() -> Result<()> {
    let mut bench = Bench::new("dial")?;
    let relay = bench.enrol_server()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dialler = AppDialler::new(bench.server.capture.netns.clone());
    let (own, foreign) = (bench.targets(), ["192.0.2.7", "2001:db8::7"]);
    let stand_ins = bench.kernel.stand_ins();
    for (to, foreign) in own.into_iter().zip(foreign) {
        let foreign: SocketAddr = SocketAddr::new(foreign.parse()?, 702);
        let disguise = SocketAddr::new(stand_ins.of_client(foreign.ip())?, foreign.port());
        for (source, expected) in [(None, to.ip()), (Some(disguise), foreign.ip())] {
            let dial = dialler.dial(source, to, Duration::from_secs(2));
            let stream = runtime.block_on(dial).with_context(|| format!("{source:?} to {to}"))?;
            let mut stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            let told = ask(&mut stream, "hello")?;
            assert_eq!(told.ip(), expected);
            if source.is_some() {
                assert_eq!(told, foreign);
            }
        }
    }
    assert_eq!(relay.count(), 0);
    Ok(())
}

#[test]
fn a_dial_to_nowhere_ends_in_time() -> Result<()> {
    let lab = Lab::new("time")?;
    let pod = lab.pod(2)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Nobody answers for this neighbour.
    let to = "10.77.0.200:80".parse()?;
    let dial = socket::dial_from(&pod.capture.netns, to, Duration::from_millis(200));
    let error = runtime.block_on(dial).expect_err("nobody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    Ok(())
}

/// A tunnel holds its port as long as it lives. Servers ask for `SO_REUSEADDR`, with which they can have it too.
#[test]
fn an_app_may_listen_on_the_port_that_a_dial_to_the_outside_goes_from() -> Result<()> {
    let lab = Lab::new("port")?;
    let (pod, peer) = (lab.pod(2)?, lab.pod(3)?);
    let _server = peer.serve(PORT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let to = (peer.ip4(), PORT).into();
    let dial = socket::dial_from(&pod.capture.netns, to, Duration::from_secs(5));
    let dialled = runtime.block_on(dial)?;
    let port = dialled.local_addr()?.port();
    let listened = pod.run(move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.listen(1)
    });
    drop(dialled);
    listened.context("an application cannot have the port")
}
