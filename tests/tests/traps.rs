//! What redirection by sockets, routes and programs can get wrong, each named by the fact that holds instead.
//!
//! Real kernel, real pods, no tunnel: a plaintext relay stands for the agent.

#[path = "traps/asked.rs"]
mod asked;
#[path = "traps/fuzz.rs"]
mod fuzz;
#[path = "traps/inbound.rs"]
mod inbound;
#[path = "traps/lifecycle.rs"]
mod lifecycle;
#[path = "traps/names.rs"]
mod names;
#[path = "traps/neighbours.rs"]
mod neighbours;
#[path = "traps/outbound.rs"]
mod outbound;
#[path = "traps/selection.rs"]
mod selection;
#[path = "traps/stand_ins.rs"]
mod stand_ins;
#[path = "traps/system.rs"]
mod system;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kit::lab::{Lab, LabPod, Relay, Server, ask, connect};
use kit::wire::{Capture, Flow, Mark};
use socket2::{Domain, Protocol, Socket, Type};
use sotto::capture::bpf::{Kernel, KernelConfig};
use sotto::capture::{Role, StandInRanges};
use sotto_abi::Counts;

/// Where the servers of these tests listen.
const PORT: u16 = 8080;
/// "At once", generously: any retransmission takes a second at least.
const AT_ONCE: Duration = Duration::from_millis(700);
/// By then the capture's thread has seen what was on the wire.
const SEEN: Duration = Duration::from_millis(100);

/// A lab with a client pod and a serving pod.
struct Bench {
    // Dropped in this order: relays of the tests go first, the lab last.
    kernel: Kernel,
    _server: Server,
    client: LabPod,
    server: LabPod,
    lab: Lab,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        Self::with(name, |_| {})
    }

    fn with(name: &str, change: impl FnOnce(&mut KernelConfig)) -> Result<Self> {
        let lab = Lab::new(name)?;
        let kernel = lab.install(change)?;
        let (client, server) = (lab.pod(2)?, lab.pod(3)?);
        let serving = server.serve(PORT)?;
        Ok(Self { kernel, _server: serving, client, server, lab })
    }

    fn enrol_client(&mut self) -> Result<Relay> {
        self.lab.enrol(&mut self.kernel, &self.client)
    }

    fn enrol_server(&mut self) -> Result<Relay> {
        self.lab.enrol(&mut self.kernel, &self.server)
    }

    /// The server's IPv4 and IPv6 address.
    fn targets(&self) -> [SocketAddr; 2] {
        [self.server.ip4(), self.server.ip6()].map(|ip| SocketAddr::new(ip, PORT))
    }

    /// What was counted for a pod.
    fn counts(&self, pod: &LabPod) -> Result<Counts> {
        let counters = self.kernel.counters()?;
        let of_pod = counters.pods.into_iter().find(|(uid, _)| *uid == pod.capture.pod.uid);
        Ok(of_pod.context("the pod is not counted")?.1)
    }
}

/// What must not be on the wire.
const SECRET: &[u8] = b"the secret of a captured connection";

fn tcp(domain: Domain) -> std::io::Result<Socket> {
    Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
}

/// Runs `ip` in a pod.
fn ip(pod: &LabPod, line: &str) -> Result<()> {
    let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let output = pod.run(move || Command::new("ip").args(arguments).output())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Nothing of a captured connection is on the wire: neither its bytes, nor anything to or from a stand-in.
fn assert_quiet(capture: &Capture, mark: Mark) -> Result<()> {
    std::thread::sleep(SEEN);
    let trace = capture.since(mark)?;
    ensure!(!trace.reads(SECRET), "the secret is on the wire: {:?}", trace.flows);
    let ranges = StandInRanges::default();
    let of_stand_ins = |flow: &&Flow| {
        [flow.client, flow.server].iter().any(|end| ranges.holds(end.ip()).is_some())
    };
    let leaked: Vec<_> = trace.flows.iter().filter(of_stand_ins).collect();
    ensure!(leaked.is_empty(), "on the wire: {leaked:?}");
    Ok(())
}

/// Connects from a pod and asks the server who the client is.
fn who_am_i(from: &LabPod, to: SocketAddr) -> Result<SocketAddr> {
    let told = from.run(move || ask(&mut connect(to)?, "hello"));
    told.with_context(|| format!("failed to ask {to}"))
}

/// The error of a connect(2), and that it came at once.
fn refusal(from: &LabPod, to: SocketAddr) -> std::io::ErrorKind {
    let started = Instant::now();
    let error = from.run(move || connect(to)).expect_err("the connection should fail");
    assert!(started.elapsed() < AT_ONCE, "{error} took {:?}", started.elapsed());
    error.kind()
}

/// All that a relay saw, without the clients' ports.
fn seen(relay: &Relay) -> Vec<(Role, IpAddr, SocketAddr)> {
    relay.seen().into_iter().map(|one| (one.role, one.client.ip(), one.destination)).collect()
}
