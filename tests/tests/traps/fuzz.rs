//! Random sequences of what an application can ask of a socket, the wire watched: nothing of a captured connection
//! may be seen there.
//!
//! Runs for a few seconds, or for as many as `SOCKET_FUZZ_SECONDS` says; `SOCKET_FUZZ_SEED` repeats a run.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kit::wire::Capture;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::DontRoute;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use socket2::{Domain, Protocol, Socket, Type};
use sotto::capture::StandInRanges;

use super::{Bench, SECRET, assert_quiet};

/// Sequences between two looks at the wire.
const BATCH: usize = 100;
/// Sockets live this long at most.
const PATIENCE: Duration = Duration::from_millis(20);

/// One thing that is asked of a socket.
#[derive(Debug, Clone, Copy)]
enum Step {
    Bind(SocketAddr),
    Device(&'static str),
    NoDevice,
    DeviceByIndex(u32),
    ReuseAddress,
    Freebind,
    Transparent,
    Mark(u32),
    OnlyV6(bool),
    DontRoute(bool),
    FastOpenConnect,
    FastOpenNoCookie,
    Nonblocking(bool),
    Connect(SocketAddr),
    SendFastOpen(SocketAddr),
    Send,
    ShutdownWrite,
}

/// A socket and what is asked of it.
#[derive(Debug, Clone)]
struct Sequence {
    domain: Domain,
    protocol: Protocol,
    steps: Vec<Step>,
}

/// Addresses to bind and connect to.
struct Places {
    own: Vec<SocketAddr>,
    nowhere: Vec<SocketAddr>,
}

impl Places {
    /// With a stand-in of either kind, which an application may have seen in `ss`.
    fn new(bench: &Bench, nowhere: &[&str]) -> Result<Self> {
        let any = ["0.0.0.0:0", "[::]:0", "127.0.0.1:0", "[::1]:0", "127.64.1.0:0", "240.64.1.0:0"];
        let own = any.into_iter().map(|text| text.parse().context("an address"));
        let pod = [bench.client.ip4(), bench.client.ip6()].map(|ip| Ok(SocketAddr::new(ip, 0)));
        let nowhere = nowhere.iter().map(|text| text.parse().context("an address"));
        Ok(Self {
            own: own.chain(pod).collect::<Result<_>>()?,
            nowhere: nowhere.collect::<Result<_>>()?,
        })
    }

    fn sequence(&self, rng: &mut StdRng) -> Sequence {
        let domain = if rng.random() { Domain::IPV4 } else { Domain::IPV6 };
        let protocol = if rng.random_ratio(1, 4) { Protocol::MPTCP } else { Protocol::TCP };
        let length = rng.random_range(1..10);
        let mut steps: Vec<_> = (0..length).map(|_| self.step(rng)).collect();
        // Most sequences get somewhere.
        let to = self.nowhere(rng);
        match rng.random_range(0..3) {
            0 => steps.push(Step::SendFastOpen(to)),
            1 => steps.push(Step::Connect(to)),
            _ => {}
        }
        for _ in 0..rng.random_range(1..4) {
            steps.push(self.step(rng));
        }
        steps.push(Step::Send);
        Sequence { domain, protocol, steps }
    }

    fn nowhere(&self, rng: &mut StdRng) -> SocketAddr {
        self.nowhere[rng.random_range(0..self.nowhere.len())]
    }

    fn step(&self, rng: &mut StdRng) -> Step {
        match rng.random_range(0..18) {
            0 => Step::Bind(self.own[rng.random_range(0..self.own.len())]),
            1 | 2 => Step::Device("eth0"),
            3 => Step::Device("lo"),
            4 => Step::NoDevice,
            5 => Step::DeviceByIndex(rng.random_range(0..4)),
            6 => Step::ReuseAddress,
            7 => Step::Freebind,
            8 => Step::Transparent,
            9 => Step::Mark([0, 0x111, 0x539, 7][rng.random_range(0..4)]),
            10 => Step::OnlyV6(rng.random()),
            11 => Step::DontRoute(rng.random()),
            12 => Step::FastOpenConnect,
            13 => Step::FastOpenNoCookie,
            14 => Step::Nonblocking(rng.random()),
            15 => Step::Connect(self.nowhere(rng)),
            16 => Step::SendFastOpen(self.nowhere(rng)),
            _ if rng.random_ratio(1, 4) => Step::ShutdownWrite,
            _ => Step::Send,
        }
    }
}

impl Sequence {
    /// Does it; what is refused is refused.
    fn run(&self) -> std::io::Result<()> {
        let socket = Socket::new(self.domain, Type::STREAM, Some(self.protocol))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        for step in &self.steps {
            let _refused = step.take(&socket);
        }
        Ok(())
    }
}

impl Step {
    fn take(self, socket: &Socket) -> std::io::Result<()> {
        match self {
            Self::Bind(at) => socket.bind(&at.into()),
            Self::Device(name) => socket.bind_device(Some(name.as_bytes())),
            Self::NoDevice => socket.bind_device(None),
            Self::DeviceByIndex(index) => {
                socket.bind_device_by_index_v4(std::num::NonZeroU32::new(index))
            }
            Self::ReuseAddress => socket.set_reuse_address(true),
            Self::Freebind => {
                socket.set_freebind_v4(true)?;
                socket.set_freebind_v6(true)
            }
            Self::Transparent => {
                socket.set_ip_transparent_v4(true)?;
                socket.set_ip_transparent_v6(true)
            }
            Self::Mark(mark) => socket.set_mark(mark),
            Self::OnlyV6(only) => socket.set_only_v6(only),
            Self::DontRoute(on) => Ok(setsockopt(&socket.as_fd(), DontRoute, &on)?),
            Self::FastOpenConnect => kit::lab::fast_open_connect(socket),
            Self::FastOpenNoCookie => kit::lab::fast_open_without_cookie(socket),
            Self::Nonblocking(on) => socket.set_nonblocking(on),
            Self::Connect(to) => socket.connect_timeout(&to.into(), PATIENCE),
            Self::SendFastOpen(to) => {
                socket.send_to_with_flags(SECRET, &to.into(), libc::MSG_FASTOPEN).map(drop)
            }
            Self::Send => socket.send_with_flags(SECRET, libc::MSG_NOSIGNAL).map(drop),
            Self::ShutdownWrite => socket.shutdown(std::net::Shutdown::Write),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs sequences until the time is up, `before` each batch; tells how many.
fn fuzz(
    bench: &Bench,
    places: &Places,
    capture: &Capture,
    before: impl Fn(&mut StdRng),
    is_privileged: bool,
) -> Result<usize> {
    let seed = number("SOCKET_FUZZ_SEED").unwrap_or_else(rand::random);
    let end = Instant::now() + Duration::from_secs(number("SOCKET_FUZZ_SECONDS").unwrap_or(5));
    let (mut rng, mut count) = (StdRng::seed_from_u64(seed), 0);
    while Instant::now() < end {
        before(&mut rng);
        let batch: Vec<_> = (0..BATCH).map(|_| places.sequence(&mut rng)).collect();
        let (mark, running) = (capture.mark(), batch.clone());
        let run = move || -> Result<()> { Ok(running.iter().try_for_each(Sequence::run)?) };
        if is_privileged {
            bench.client.run(run)?;
        } else {
            bench.client.run_unprivileged(run)?;
        }
        count += batch.len();
        assert_quiet(capture, mark).with_context(|| format!("seed {seed}, one of {batch:#?}"))?;
    }
    eprintln!("{count} sequences, seed {seed}");
    Ok(count)
}

#[test]
fn no_sequence_of_an_unprivileged_pod_puts_a_captured_byte_on_the_wire() -> Result<()> {
    let mut bench = Bench::new("fuzz")?;
    let relay = bench.enrol_client()?;
    let places = Places::new(
        &bench,
        &["10.77.0.200:9999", "[fd77::200]:9999", "[::ffff:10.77.0.200]:9999"],
    )?;
    for there in ["10.77.0.200", "fd77::200"] {
        let mut known = Command::new("ip");
        known.args(["neigh", "replace", there, "lladdr", "02:00:00:00:00:01", "dev", "eth0"]);
        ensure!(bench.client.run(move || known.status())?.success());
    }
    let capture = Capture::start(&format!("lab-{}-node", bench.lab.id), "pod2")?;
    let count = fuzz(&bench, &places, &capture, |_| {}, false)?;
    ensure!(relay.count() > count / 10, "only {} of {count} were captured", relay.count());
    Ok(())
}

/// What a pod may do to its own routes.
const VANDALISM: [&str; 8] = [
    "route del local 127.64.0.0/10 table local",
    "route del prohibit 127.64.0.0/10",
    "route del local 127.0.0.0/8 table local",
    "-6 route del local 100::/64 table local",
    "-6 route del prohibit 100::/64",
    "route add default via 10.77.0.1 table 100",
    "rule add fwmark 7 lookup 100",
    "rule add pref 0 lookup main",
];

#[test]
fn no_sequence_of_a_pod_with_net_admin_gets_a_captured_byte_past_its_node() -> Result<()> {
    let mut bench = Bench::new("admin")?;
    let host = format!("lab-{}-node", bench.lab.id);
    let relay = bench.enrol_client()?;
    let places = Places::new(
        &bench,
        &["198.51.100.7:9999", "[2001:db8::7]:9999", "[::ffff:198.51.100.7]:9999"],
    )?;
    let uplink = [
        "link add up0 type veth peer name up1",
        "link set up1 up",
        "link set up0 up",
        "addr add 203.0.113.2/24 dev up0",
        "-6 addr add 2001:db8:1::2/64 dev up0 nodad",
        "route add default via 203.0.113.1",
        "-6 route add default via 2001:db8:1::1",
        "neigh replace 203.0.113.1 lladdr 02:00:00:00:00:09 dev up0",
        "neigh replace 2001:db8:1::1 lladdr 02:00:00:00:00:09 dev up0",
    ];
    for line in uplink {
        let done = Command::new("ip").args(["-n", &host]).args(line.split(' ')).status()?;
        ensure!(done.success(), "{line}");
    }
    bench.lab.host.netns.enter(|| -> Result<()> {
        for setting in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            sotto::sys::sysctl::write(setting, "1")?;
        }
        // As kube-proxy may have it.
        sotto::sys::sysctl::write("net.ipv4.conf.all.route_localnet", "1").map_err(Into::into)
    })??;
    sotto::capture::confine(&bench.lab.host.netns, &StandInRanges::default())?;
    let capture = Capture::start(&host, "up0")?;
    let client = bench.client.clone();
    let vandalise = |rng: &mut StdRng| {
        let line = VANDALISM[rng.random_range(0..VANDALISM.len())];
        let done = client.run(move || Command::new("ip").args(line.split(' ')).output());
        assert!(done.is_ok(), "{done:?}");
    };
    let count = fuzz(&bench, &places, &capture, vandalise, true)?;
    ensure!(relay.count() > 0, "none of {count} was captured");
    Ok(())
}
