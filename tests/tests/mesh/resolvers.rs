//! What pods ask of real resolvers, by real clients: unbound, dnsmasq and CoreDNS, and the resolvers of glibc, musl, Go,
//! busybox and BIND. What the mesh knows it answers; all else comes as from the resolver itself.
//!
//! All of them are Debian's but CoreDNS, and none is needed to build or use the project: not run unless asked for
//! (`cargo nextest run --run-ignored only -E 'binary(mesh) & test(resolvers::)'`), and then what is absent from `PATH` is a
//! failure: unbound, dnsmasq, coredns; dig (bind9-dnsutils), busybox, musl-gcc (musl-tools), cc, go, dnsperf.

#![expect(clippy::print_stdout, reason = "figures are to be read")]

use std::path::Path;
use std::process::Command;

use kit::cluster::ClusterOptions;
use sotto_proto::workload::{NetworkAddress, Port, Service};

use super::bench::Bench;
use super::script::{Script, workload};

const SOURCE: &str = include_str!("resolvers/resolve.c");
const GO_SOURCE: &str = include_str!("resolvers/resolve.go");
const MANIFEST: &str = include_str!("resolvers/pods.yaml");
/// A pod that the mesh answers, and one beside it that it does not.
const ASKS: &str = "asks";
const DIRECT: &str = "direct";
/// Known to the mesh alone.
const KNOWN: &str = "only.mesh.example";
const KNOWN_AT: [u8; 4] = [240, 240, 0, 1];
/// Addresses of a name whose answer is longer than 512 bytes, and of one whose is longer than any datagram should be.
const MANY: usize = 40;
const HUGE: usize = 240;

/// What is asked of the resolver, and has the same answer in both pods. `$C` are the clients of
/// libraries, `$T` those that ask over TCP what does not fit (musl does from 1.2.4 on).
const ELSEWHERE: [&str; 20] = [
    "dig plain.example A",
    "dig plain.example AAAA",
    "dig alias.example A",
    "dig +tcp plain.example A",
    "dig +noedns plain.example A",
    "dig +dnssec +nsid plain.example A",
    "dig +bufsize=512 +ignore many.example A",
    "dig +noedns +ignore many.example A",
    "dig +bufsize=512 many.example A",
    "dig huge.example A",
    "dig +ignore huge.example A",
    "dig +tcp +keepopen plain.example A huge.example A nothing.example A",
    "dig nothing.example A",
    "dig plain.example MX",
    "dig plain.example TXT",
    "dig -x 192.0.2.10",
    "dig +search +showsearch plain.example A",
    "for c in $C; do $c plain.example alias.example nothing.example; done",
    "for c in $T; do $c many.example huge.example; done",
    "busybox nslookup plain.example; busybox nslookup nothing.example",
];

/// What is asked and the mesh answers: and lines that the answer has.
const MESH: [(&str, &str); 8] = [
    ("dig +short only.mesh.example A", "240.240.0.1"),
    ("dig +short +tcp only.mesh.example A", "240.240.0.1"),
    ("dig +short +noedns only.mesh.example A", "240.240.0.1"),
    ("dig +short ONLY.Mesh.Example. A", "240.240.0.1"),
    (
        "dig only.mesh.example AAAA | grep -o 'status: NOERROR\\|ANSWER: 0'",
        "status: NOERROR\nANSWER: 0",
    ),
    ("dig +search +short only.mesh.example A", "only.mesh.example.\n240.240.0.1"),
    (
        "for c in $C; do $c only.mesh.example | sort -u; done",
        "only.mesh.example 240.240.0.1\nonly.mesh.example 240.240.0.1\nonly.mesh.example 240.240.0.1",
    ),
    ("busybox nslookup only.mesh.example | grep -c 240.240.0.1", "1"),
];

/// A program of the host, on `PATH`.
fn program(name: &str) -> String {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
    assert!(found.status.success(), "{name} is needed on PATH");
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

/// Runs what must succeed.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Builds the clients, and says how each is called.
fn clients(dir: &Path) -> Vec<String> {
    let at = |name: &str| dir.join(name).display().to_string();
    std::fs::write(at("resolve.c"), SOURCE).unwrap();
    std::fs::write(at("resolve.go"), GO_SOURCE).unwrap();
    run(Command::new(program("cc")).args(["-o", &at("glibc"), &at("resolve.c")]));
    run(Command::new(program("musl-gcc")).args(["-static", "-o", &at("musl"), &at("resolve.c")]));
    let mut go = Command::new(program("go"));
    go.args(["build", "-o", &at("go"), &at("resolve.go")]).env("CGO_ENABLED", "0");
    run(go.env("HOME", dir).env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local"));
    ["glibc", "musl", "go"].map(at).into()
}

fn addresses(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("198.51.100.{}", index + 1))
}

/// Everything that the resolvers know, in the form of a zone's file.
fn records() -> Vec<String> {
    let mut records = vec![
        String::from("plain.example. 300 IN A 192.0.2.10"),
        String::from("plain.example. 300 IN AAAA 2001:db8::10"),
        String::from("plain.example. 300 IN TXT \"a text\""),
        String::from("alias.example. 300 IN CNAME plain.example."),
    ];
    for (name, count) in [("many", MANY), ("huge", HUGE)] {
        records.extend(addresses(count).map(|ip| format!("{name}.example. 300 IN A {ip}")));
    }
    records
}

fn unbound(dir: &Path) -> Vec<String> {
    let config = dir.join("unbound.conf");
    let data: Vec<_> = records().iter().map(|one| format!("  local-data: '{one}'\n")).collect();
    let text = format!(
        "server:\n  interface: 0.0.0.0\n  access-control: 0.0.0.0/0 allow\n  username: \"\"\n  \
         chroot: \"\"\n  pidfile: \"\"\n  directory: \"{}\"\n  use-syslog: no\n  \
         module-config: \"iterator\"\n  so-rcvbuf: 4m\n  local-zone: \"example.\" static\n  \
         local-zone: \"local.\" static\n{}remote-control:\n  control-enable: no\n",
        dir.display(),
        data.concat()
    );
    std::fs::write(&config, text).unwrap();
    vec![program("unbound"), "-d".into(), "-c".into(), config.display().to_string()]
}

fn dnsmasq(dir: &Path) -> Vec<String> {
    let config = dir.join("dnsmasq.conf");
    let hosts = dir.join("dnsmasq.hosts");
    let mut lines =
        vec![String::from("192.0.2.10 plain.example"), "2001:db8::10 plain.example".into()];
    for (name, count) in [("many", MANY), ("huge", HUGE)] {
        lines.extend(addresses(count).map(|ip| format!("{ip} {name}.example")));
    }
    std::fs::write(&hosts, lines.join("\n") + "\n").unwrap();
    let text = format!(
        "user=root\nno-resolv\nno-hosts\naddn-hosts={}\nlocal=/example/local/arpa/\n\
         cname=alias.example,plain.example\ntxt-record=plain.example,a text\nlocal-ttl=300\n\
         dns-forward-max=4096\n",
        hosts.display()
    );
    std::fs::write(&config, text).unwrap();
    let file = format!("--conf-file={}", config.display());
    vec![program("dnsmasq"), "--keep-in-foreground".into(), "--pid-file".into(), file]
}

fn coredns(dir: &Path) -> Vec<String> {
    let (config, zone) = (dir.join("Corefile"), dir.join("zone"));
    let soa = "example. 300 IN SOA ns.example. admin.example. 1 7200 3600 1209600 300\n\
               example. 300 IN NS ns.example.\nns.example. 300 IN A 192.0.2.53\n";
    std::fs::write(&zone, format!("{soa}{}\n", records().join("\n"))).unwrap();
    let text = format!(
        ".:53 {{\n  bufsize 1232\n  file {} example\n  template ANY ANY local arpa {{\n    \
         rcode NXDOMAIN\n  }}\n}}\n",
        zone.display()
    );
    std::fs::write(&config, text).unwrap();
    vec![program("coredns"), "-conf".into(), config.display().to_string()]
}

/// A pod that asks by way of the mesh, one that does not, and a resolver.
struct World {
    bench: Bench,
    dir: tempfile::TempDir,
    clients: Vec<String>,
    resolver: String,
    _script: Script,
}

impl World {
    async fn with(resolver: fn(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clients = clients(dir.path());
        let command = serde_json::to_string(&resolver(dir.path())).unwrap();
        let manifest = MANIFEST.replace("COMMAND", &command);
        let namespaces = ["front", "back"];
        let mut bench = Bench::with(ClusterOptions::default(), &[(&manifest, &namespaces)]).await;
        bench.enrol("front", true).await;
        let resolver = bench.ip("back", "resolver").await.to_string();
        for app in [ASKS, DIRECT] {
            bench
                .shell(&format!(
                    "kubectl exec -n front deploy/{app} -- sh -c 'printf \"%s\\n\" \"search \
                     front.svc.cluster.local svc.cluster.local cluster.local\" \"nameserver \
                     {resolver}\" \"options ndots:5 timeout:3 attempts:2\" > /etc/resolv.conf'"
                ))
                .await;
        }
        let pods = bench.cluster.pods("front", "").await.unwrap();
        let mut script = Script::take(&mut bench, 1).await;
        script.workloads(pods.iter().map(|pod| workload(pod, &[])).collect()).await;
        script.services(vec![known()]).await;
        script.policies(vec![]).await;
        Self { bench, dir, clients, resolver, _script: script }
    }

    /// What a script says in a pod.
    async fn says(&self, app: &str, script: &str) -> String {
        let all = self.clients.join(" ");
        let of_tcp: Vec<_> = self.clients.iter().filter(|one| !one.ends_with("musl")).collect();
        let of_tcp = of_tcp.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(" ");
        let script = format!("C='{all}'; T='{of_tcp}'; {script}");
        let output = self.bench.cluster.exec("front", app, &["sh", "-c", &script]).await.unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(err, "", "{app}: {script}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Both pods are answered alike where the mesh knows nothing, and as the mesh knows where it does.
    async fn shows_all(&self) {
        for script in MESH {
            let (script, expected) = script;
            assert_eq!(self.says(ASKS, script).await.trim(), expected, "{script}");
        }
        // The mesh has answered all of them, but those with a search domain that nobody knows.
        let agent = self.bench.agent(1);
        let counted = async |name: &str| agent.metric(name, &["protocol=\"udp\""]).await.unwrap();
        let (asked, forwarded) = (
            counted("istio_dns_requests_total").await,
            counted("istio_dns_upstream_requests_total").await,
        );
        assert!(asked >= 10.0 && forwarded <= asked / 2.0, "{forwarded} of {asked}");
        let beside = self.says(DIRECT, &format!("dig {KNOWN} A")).await;
        assert!(beside.contains("NXDOMAIN"), "{beside}");
        for script in ELSEWHERE {
            let through = comparable(&self.says(ASKS, script).await);
            let direct = comparable(&self.says(DIRECT, script).await);
            let says_something = ["example", "192.0.2", "status:"];
            let says = |line: &String| says_something.iter().any(|word| line.contains(word));
            assert!(direct.iter().any(says), "{script}: {direct:?}");
            // Which of the addresses there is room for is a matter of chance: how many is not.
            let cut = |line: &String| script.contains("+ignore") && line.contains("\tA\t");
            let compared = |lines: Vec<String>| -> Vec<_> {
                lines.into_iter().filter(|line| !cut(line)).collect()
            };
            assert_eq!(compared(through), compared(direct), "{script}");
        }
    }
}

/// The lines that two answers to one question have alike, in an order.
fn comparable(said: &str) -> Vec<String> {
    let fleeting = [";; Query time", ";; WHEN", "; COOKIE", "; <<>> DiG"];
    let kept = said.lines().filter(|line| !fleeting.iter().any(|start| line.starts_with(start)));
    let without_id = |line: &str| match line.split_once(", id: ") {
        Some((before, _)) => before.to_owned(),
        None => line.to_owned(),
    };
    let mut lines: Vec<_> = kept.map(without_id).collect();
    lines.sort();
    lines
}

fn known() -> Service {
    let vip = NetworkAddress { address: KNOWN_AT.into(), ..NetworkAddress::default() };
    Service {
        name: "only".into(),
        namespace: "back".into(),
        hostname: KNOWN.into(),
        addresses: vec![vip],
        ports: vec![Port { service_port: 80, target_port: 80, ..Port::default() }],
        ..Service::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs unbound, dig, busybox, musl-gcc, cc and go"]
async fn clients_of_all_kinds_are_answered_beside_unbound() {
    Box::pin(World::with(unbound)).await.shows_all().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dnsmasq, dig, busybox, musl-gcc, cc and go"]
async fn clients_of_all_kinds_are_answered_beside_dnsmasq() {
    Box::pin(World::with(dnsmasq)).await.shows_all().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs coredns, dig, busybox, musl-gcc, cc and go"]
async fn clients_of_all_kinds_are_answered_beside_coredns() {
    Box::pin(World::with(coredns)).await.shows_all().await;
}

/// Seconds of each sample, questions a second, and samples of each way.
const SECONDS: u32 = 2;
const RATE: u32 = 10_000;
const ROUNDS: usize = 5;
/// What the way through the mesh may cost, at the median.
const DEARER_US: f64 = 30.0;

/// How long answers took, in microseconds, from the shortest on; all that were asked for have come.
async fn sample(world: &World, app: &str, name: &str) -> Vec<f64> {
    let questions = world.dir.path().join("questions");
    std::fs::write(&questions, format!("{name} A\n")).unwrap();
    let script = format!(
        "{} -v -s {} -d {} -Q {RATE} -l {SECONDS} -q 500",
        program("dnsperf"),
        world.resolver,
        questions.display()
    );
    let said = world.says(app, &script).await;
    let took = |line: &str| -> Option<f64> {
        let mut words = line.strip_prefix("> NOERROR ")?.split_whitespace();
        Some(words.next_back()?.parse::<f64>().ok()? * 1e6)
    };
    let mut took: Vec<f64> = said.lines().filter_map(took).collect();
    let summary: Vec<_> = said.lines().filter(|line| line.contains("Queries")).collect();
    let lost =
        summary.iter().find(|line| line.contains("lost")).expect("dnsperf counts what is lost");
    assert!(lost.contains(" 0 (0.00%)"), "{app}, {name}: {summary:?}");
    let asked = usize::try_from(RATE * SECONDS).unwrap();
    assert!(took.len() >= asked * 9 / 10, "{app}, {name}: too slow to ask: {summary:?}");
    took.sort_by(f64::total_cmp);
    took
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// For a quiet machine, and programs of a profile that optimises (`--cargo-profile quick`).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs unbound, dnsperf, dig, musl-gcc, cc and go, and a quiet machine"]
async fn ten_thousand_questions_a_second_are_answered_as_soon_as_by_the_resolver() {
    let world = Box::pin(World::with(unbound)).await;
    let ways = [
        ("the resolver itself", DIRECT, "plain.example"),
        ("the mesh", ASKS, KNOWN),
        ("the resolver by way of the agent", ASKS, "plain.example"),
    ];
    let mut medians = [const { Vec::new() }; 3];
    let mut tails = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        for (at, (_, app, name)) in ways.iter().enumerate() {
            let took = sample(&world, app, name).await;
            // The first warms up.
            if round > 0 {
                medians[at].push(took[took.len() / 2]);
                tails[at].push(took[took.len() * 99 / 100]);
            }
        }
    }
    let [direct, mesh, forwarded] = medians.map(median);
    let tails = tails.map(median);
    for ((what, ..), (p50, p99)) in ways.iter().zip([direct, mesh, forwarded].iter().zip(tails)) {
        println!("{RATE}/s, none lost, answered by {what}: p50 {p50:.1} us, p99 {p99:.1} us");
    }
    assert!(mesh <= direct + DEARER_US, "{mesh} us, and {direct} us");
    assert!(forwarded <= direct + DEARER_US, "{forwarded} us, and {direct} us");
}
