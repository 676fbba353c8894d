//! Ways that lead the agent back to itself: what rules in a pod do to connections that the agent makes there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::bench::{Bench, STREAMS};

/// The echo's port.
const PORT: u16 = 7000;
/// The agent's connections for one of a client: its own, those of some hops, and what its threads were at meanwhile.
const A_FEW: usize = 40;
/// A command in a pod may take so long.
const LIMIT: Duration = Duration::from_secs(10);

const CLIENT: (&str, &str) = ("front", "client");
const ECHO: (&str, &str) = ("back", "echo");

/// Runs a script in a pod.
async fn run(bench: &Bench, (namespace, app): (&str, &str), script: &str) -> String {
    let pod = bench.cluster.pod_of(namespace, app).await.unwrap();
    let name = pod.metadata.name.unwrap();
    let node = bench.cluster.node_of(namespace, &name).unwrap();
    let output = node.exec((namespace, &name), &["bash", "-c", script], LIMIT).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What stands for an address in a pod that has a connection to it.
async fn stand_in(bench: &Bench, from: (&str, &str), to: SocketAddr) -> SocketAddr {
    let (ip, port) = (to.ip(), to.port());
    let look = format!(
        "exec 3<>/dev/tcp/{ip}/{port}; grep -o '[0-9A-F]*407F:{port:04X}' /proc/net/tcp | head -n1"
    );
    let hex = run(bench, from, &look).await;
    let (address, _) = hex.trim().split_once(':').unwrap();
    let address = u32::from_str_radix(address, 16).unwrap().to_le_bytes();
    SocketAddr::new(IpAddr::from(address), port)
}

/// Redirects what leaves the pod and is so.
async fn redirect(bench: &Bench, pod: (&str, &str), which: &str, to: SocketAddr) {
    let rules = format!(
        "add table ip loops; add chain ip loops out {{ type nat hook output priority -100; }}; \
         add rule ip loops out {which} dnat to {to}"
    );
    run(bench, pod, &format!("nft '{rules}'")).await;
}

/// Connections of its pods that the agent of a node has told of.
fn told(bench: &Bench, node: usize) -> usize {
    let log = bench.agent(node).process.log();
    log.lines().filter(|line| line.contains("direction=\"outbound\"")).count()
}

/// Waits until one is counted as failed.
async fn failed(bench: &Bench, node: usize) {
    let name = "istio_tcp_connections_failed_total";
    let counted = async || {
        let failed = bench.agent(node).metric(name, &["reporter=\"source\""]).await?;
        Ok((failed > 0.0).then_some(()))
    };
    bench.cluster.wait_until("a connection is counted as failed", LIMIT, counted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_leads_back_to_the_agent_ends_after_a_few_hops() {
    let bench = Bench::start(&[(STREAMS, &["front", "back"])]).await;
    bench.enrol("front", true).await;
    let echo = SocketAddr::new(bench.ip("back", "echo").await, PORT);
    let to = stand_in(&bench, CLIENT, echo).await;
    // Also of the agent's dial, which is made in the pod.
    redirect(&bench, CLIENT, &format!("ip daddr {} tcp dport {PORT}", echo.ip()), to).await;
    let before = told(&bench, 1);
    assert_eq!(bench.curl(CLIENT, &format!("http://{echo}")).await, "exit 56");
    bench.logged(1, "it came back to the agent").await;
    failed(&bench, 1).await;
    let hops = told(&bench, 1) - before;
    assert!((2..=A_FEW).contains(&hops), "{hops} connections for one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_dials_for_a_client_leads_to_the_application_or_nowhere() {
    let bench = Bench::streams().await;
    let echo = SocketAddr::new(bench.ip("back", "echo").await, PORT);
    let web = SocketAddr::new(bench.ip("back", "web").await, 8000);
    let to = stand_in(&bench, ECHO, web).await;
    redirect(&bench, ECHO, &format!("ip saddr 240.64.0.0/10 tcp dport {PORT}"), to).await;
    assert_eq!(bench.curl(CLIENT, &format!("http://{echo}")).await, "exit 56");
    bench.logged(2, "came back to it").await;
    failed(&bench, 2).await;
}
