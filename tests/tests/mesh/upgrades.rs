//! Agents that are replaced while traffic flows, as a DaemonSet does it that is updated with a surge.

use std::time::Duration;

use kit::cluster::programs;
use tokio::task::JoinHandle;

use super::bench::Bench;

const CLIENT: (&str, &str) = ("front", "client");
const WEB: &str = "http://web.back.svc.cluster.local/get";
/// How long traffic flows; longer than all replacements take.
const SECONDS: u64 = 20;
/// Longer than agents let open connections go on.
const END: Duration = Duration::from_secs(40);
/// Longer than an agent takes that has given all away, and less than one that waits for open connections.
const ENDS: Duration = Duration::from_secs(15);
/// Each way of each of two connections, in bytes: more than flows during all replacements.
const TRANSFER: u64 = 1 << 30;
/// What an agent says that has given its connections away.
const GAVE: &str = "gave the agent that took over";

#[tokio::test(flavor = "multi_thread")]
async fn no_new_connection_is_lost_while_agents_are_replaced_and_open_ones_go_on() {
    let mut bench = Bench::streams().await;
    let sotto = programs::find("sotto").unwrap();
    let echo = bench.ip("back", "echo").await;
    let flags = |more| format!("--connections=4 --seconds={SECONDS}{more}");
    let fresh = tokio::spawn(bench.pulsing(CLIENT, echo, &flags(" --fresh")).await.unwrap());
    let open = tokio::spawn(bench.pulsing(CLIENT, echo, &flags("")).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut before = Vec::new();
    for number in [1, 0] {
        before.push(bench.cluster.surge(number, &sotto).await.unwrap());
    }
    // None of them ends before the connections that it has.
    let ends = before.iter_mut().map(|agent| agent.process.terminate(END));
    let (fresh, open, ends) = tokio::join!(fresh, open, futures::future::join_all(ends));
    for end in ends {
        assert_eq!(end.unwrap().code(), Some(0), "{}", before[0].process.log_tail(20));
    }
    let fresh = fresh.unwrap().unwrap();
    assert!(fresh > 1000, "{fresh} new connections");
    assert!(open.unwrap().is_ok_and(|bytes| bytes > 100), "an open connection was lost");
    drop(before);
    bench.shows(CLIENT, WEB, "200").await;
}

/// Replaces every agent twice; each has had so many connections, as long as they were open. Those before are ended as a
/// DaemonSet does it, as soon as the next is ready; then killed once they have given all away.
async fn replace_all(bench: &mut Bench, connections: [usize; 2], open: impl Fn() -> bool) {
    let sotto = programs::find("sotto").unwrap();
    for (round, number) in [1, 0, 1, 0].into_iter().enumerate() {
        let had = format!("connections={} ", connections[number]);
        // Agents of one name write to one log.
        let others = bench.cluster.agents[number].process.log().matches(GAVE).count();
        let mut before = bench.cluster.surge(number, &sotto).await.unwrap();
        if round < 2 {
            let ended = before.process.terminate(ENDS).await.unwrap();
            assert_eq!(ended.code(), Some(0), "{}", before.process.log_tail(20));
        }
        let gave = async || {
            let log = before.process.log();
            Ok(log.lines().filter(|line| line.contains(GAVE)).nth(others).map(str::to_owned))
        };
        let what = "the agent before has given all away";
        let told = bench.cluster.wait_until(what, END, gave).await.unwrap();
        assert!(told.contains(&had) || !open(), "not {had}: {told}");
        if round >= 2 {
            // Whatever could not go at first has gone as well.
            tokio::time::sleep(Duration::from_millis(600)).await;
            // As abruptly as can be: nothing of it is needed any more.
            before.process.kill().await.unwrap();
        }
    }
}

/// Replaces the agents while the client's connections to the echo go on; none pauses for long.
async fn outlive(bench: &mut Bench, of_agents: [usize; 2]) {
    let echo = bench.ip("back", "echo").await;
    let line = format!("pulse --to={echo}:7000 --connections=20 --seconds={SECONDS} --longest");
    let open = tokio::spawn(bench.running(CLIENT, &line).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    replace_all(bench, of_agents, || !open.is_finished()).await;
    let times = open.await.unwrap().unwrap();
    let longest: u64 = times.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap();
    eprintln!("{LONGEST}: {}", times.trim());
    // Whatever else this machine does. Where it is quiet, some milliseconds.
    assert!(longest < 1_000_000, "{longest} microseconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_large_transfers_arrives_while_agents_are_replaced() {
    let mut bench = Bench::streams().await;
    let echo = bench.ip("back", "echo").await;
    let line = format!("exact drive {echo}:7200 exchange --bytes={TRANSFER}");
    let transfers = bench.running(CLIENT, &format!("{line} --connections=2 --at-once=2")).await;
    let transfers = tokio::spawn(transfers.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    replace_all(&mut bench, [2, 2], || !transfers.is_finished()).await;
    transfers.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_outlive_the_agents_that_opened_them() {
    let mut bench = Bench::streams().await;
    outlive(&mut bench, [20, 20]).await;
    bench.shows(CLIENT, WEB, "200").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_tunnel_outlive_the_agents_that_opened_them() {
    let mut bench = Bench::streams().await;
    for (from, to) in [(true, false), (false, true)] {
        for (namespace, enrolled) in [("front", from), ("back", to)] {
            bench.enrol(namespace, enrolled).await;
            bench.everyone_knows(namespace, enrolled).await;
        }
        // What comes to a pod while it is released ends with the agent that took it.
        tokio::time::sleep(Duration::from_secs(4)).await;
        outlive(&mut bench, [from, to].map(|meshed| if meshed { 20 } else { 0 })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_successor_dies_takes_back() {
    let mut bench = Bench::streams().await;
    let sotto = programs::find("sotto").unwrap();
    for number in [0, 1] {
        let before = bench.cluster.surge(number, &sotto).await.unwrap();
        bench.shows(CLIENT, WEB, "200").await;
        assert!(before.ready().await, "it stays, should its successor fail");
        let mut failed = std::mem::replace(&mut bench.cluster.agents[number], before);
        failed.process.kill().await.unwrap();
        bench.logged(number + 1, "taking back").await;
        bench.shows(CLIENT, WEB, "200").await;
    }
}

/// Longer than an agent takes to give all away once another has asked for the node, in milliseconds.
const GIVING: std::ops::Range<u64> = 0..900;

/// Starts the next agent of a node, and goes on a moment after the one before has heard of it.
async fn midway(bench: &mut Bench, number: usize) -> kit::cluster::Agent {
    let sotto = programs::find("sotto").unwrap();
    let before = bench.cluster.surge_begun(number, &sotto).await.unwrap();
    let heard =
        async || Ok(before.process.log().contains("another agent takes over").then_some(()));
    bench.cluster.wait_until("the agent before gives way", END, heard).await.unwrap();
    let moment = Duration::from_millis(rand::random_range(GIVING));
    eprintln!("killed {moment:?} after that");
    tokio::time::sleep(moment).await;
    before
}

/// Connections may be reset, and none may hang, or say something wrong.
fn broken_at_worst(ended: anyhow::Result<u64>) {
    let Err(error) = ended else { return };
    let told = error.to_string();
    let hangs = told.contains("does not come back") || told.contains("no connection in time");
    assert!(!hangs && !told.contains("received"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_while_connections_change_hands_none_hangs_and_none_is_readable() {
    let mut bench = Bench::streams().await;
    let echo = bench.ip("back", "echo").await;
    let mark = bench.cluster.wire.mark();
    for round in 0..6 {
        let number = round % 2;
        let open = bench.pulsing(CLIENT, echo, "--connections=30 --seconds=6").await.unwrap();
        let open = tokio::spawn(open);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut before = midway(&mut bench, number).await;
        if round < 3 {
            let next = &mut bench.cluster.agents[number];
            next.process.kill().await.unwrap();
            drop(std::mem::replace(&mut bench.cluster.agents[number], before));
            bench.logged(number + 1, "taking back").await;
        } else {
            before.process.kill().await.unwrap();
        }
        bench.shows(CLIENT, WEB, "200").await;
        broken_at_worst(open.await.unwrap());
    }
    let trace = bench.cluster.wire.since(mark).unwrap();
    let plain: Vec<_> = trace.to_port(7000).chain(trace.to_port(8000)).collect();
    assert!(plain.is_empty(), "{plain:?}");
    assert!(trace.to_port(15008).count() > 0, "nothing crossed the wire: {:?}", trace.flows);
}

/// Replaces a node's agent as its DaemonSet does it; what the one before said of what it gave away.
async fn replace(bench: &mut Bench, number: usize) -> String {
    let sotto = programs::find("sotto").unwrap();
    let mut before = bench.cluster.surge(number, &sotto).await.unwrap();
    let ended = before.process.terminate(END).await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", before.process.log_tail(20));
    // Agents of one name write to one log.
    let log = before.process.log();
    let gave = log.lines().rev().find_map(|line| line.find(GAVE).map(|at| &line[at..]));
    gave.unwrap().to_owned()
}

/// What `pulse --longest` prints.
const LONGEST: &str = "longest, p99.9 and p99, in microseconds";

/// Connections that stand there, and that say something all the time.
const IDLE: usize = 1000;
const BUSY: usize = 100;

/// What an application in the client does, as a task.
async fn load(bench: &Bench, line: &str) -> JoinHandle<anyhow::Result<String>> {
    tokio::spawn(bench.running(CLIENT, line).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load, whose pauses mean something on a quiet machine alone"]
async fn ten_replacements_under_every_load_lose_nothing() {
    let mut bench = Bench::streams().await;
    let echo = bench.ip("back", "echo").await;
    let pulse = |seconds, rest: &str| {
        format!("pulse --to={echo}:7000 --seconds={seconds} --longest {rest}")
    };
    let idle = load(&bench, &pulse(95, &format!("--connections={IDLE} --pause-ms=20000"))).await;
    // The echo, too, has room for so many at once only.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let fresh = load(&bench, &pulse(90, "--connections=4 --pause-ms=20 --fresh")).await;
    let exact = format!("exact drive {echo}:7200 exchange --bytes={TRANSFER}");
    let transfers = format!("{exact} --connections=2 --at-once=2");
    let alone = load(&bench, &transfers).await;
    let busy = |seconds| pulse(seconds, &format!("--connections={BUSY}"));
    let times = load(&bench, &busy(10)).await.await.unwrap().unwrap();
    eprintln!("busy, nobody replaced: {LONGEST}: {}", times.trim());
    alone.await.unwrap().unwrap();
    let busy = load(&bench, &busy(75)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let strict = super::bench::pa("v1", "back", "strict", "{ mtls: { mode: STRICT } }");
    for round in 0..5 {
        match round {
            1 => drop(bench.apply(&strict).await),
            3 => bench.cluster.delete(&strict).await.unwrap(),
            _ => {}
        }
        let transfers = load(&bench, &transfers).await;
        for number in [1, 0] {
            let gave = replace(&mut bench, number).await;
            eprintln!("round {round}, agent {number}: {gave}");
        }
        transfers.await.unwrap().unwrap();
    }
    for (what, load) in [("fresh", fresh), ("idle", idle), ("busy", busy)] {
        let times = load.await.unwrap().unwrap();
        eprintln!("{what}: {LONGEST}: {}", times.trim());
    }
}

/// Connections that are open at once: nearly as many as an agent with 20,000 descriptors lets pods have, of whom each may
/// have a third of what all others leave.
const MANY: u32 = PAIRS * EACH;
/// Pairs of pods, a client and an echo, and how many connections each has.
const PAIRS: u32 = 20;
const EACH: u32 = 375;

/// The pods of a pair.
fn pair(number: u32) -> String {
    let pod = |namespace, app, node, image| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {app}-{number}, namespace: {namespace} }}\n\
             spec:\n  selector: {{ matchLabels: {{ app: {app}-{number} }} }}\n  template:\n    \
             metadata: {{ labels: {{ app: {app}-{number} }} }}\n    spec:\n      serviceAccountName: {app}\n      \
             nodeSelector: {{ kubernetes.io/hostname: {node} }}\n      \
             containers: [{{ name: {app}, image: {image} }}]\n---\n"
        )
    };
    let client = pod("front", "client", "node1", "curlimages/curl");
    client + &pod("back", "echo", "node2", "istio/tcp-echo-server")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "its figures mean something on a quiet machine alone"]
async fn thousands_of_connections_change_hands() {
    let mut bench = Bench::streams().await;
    bench.cluster.apply(&(0..PAIRS).map(pair).collect::<String>()).await.unwrap();
    let ready = async || {
        for (namespace, app) in [("front", "client"), ("back", "echo")] {
            for number in 0..PAIRS {
                bench.cluster.pod_of(namespace, &format!("{app}-{number}")).await?;
            }
        }
        Ok(Some(()))
    };
    bench.cluster.wait_until("each pair has its pods", END, ready).await.unwrap();
    bench.cluster.wait_ready(&["front", "back"], END).await.unwrap();
    bench.everyone_knows("back", true).await;
    let mut open = Vec::new();
    for number in 0..PAIRS {
        let echo = bench.ip("back", &format!("echo-{number}")).await;
        let line = format!(
            "pulse --to={echo}:7000 --connections={EACH} --seconds=80 --pause-ms=20000 --longest"
        );
        let client = format!("client-{number}");
        open.push(tokio::spawn(bench.running(("front", &client), &line).await.unwrap()));
    }
    let all = async || {
        let labels = ["reporter=\"source\"", "connection_security_policy=\"mutual_tls\""];
        let opened = bench.agent(1).metric("istio_tcp_connections_opened_total", &labels).await?;
        Ok((opened >= f64::from(MANY)).then_some(()))
    };
    bench.cluster.wait_until("all are open", END, all).await.unwrap();
    for number in [1, 0, 1, 0] {
        let had = bench.cluster.agents[number].process.usage().unwrap().rss_bytes >> 10;
        let gave = replace(&mut bench, number).await;
        let has = bench.cluster.agents[number].process.usage().unwrap().rss_bytes >> 10;
        eprintln!("agent {number}: {had} KiB before, {has} KiB after; {gave}");
        assert!(gave.contains(&format!("connections={MANY} ")), "{gave}");
    }
    for open in open {
        let times = open.await.unwrap().unwrap();
        eprintln!("{LONGEST}: {}", times.trim());
    }
}
