//! Our agent and a ztunnel, one on each node of a pocket cluster with one control plane: what pods
//! say to each other passes both, whichever dials.
//!
//! The ztunnel is made outside of this repository and given by its path in `SOTTO_PEER`. Without it
//! there is nothing to show, and the test is not run: it is ignored unless asked for
//! (`SOTTO_PEER=... cargo nextest run --run-ignored only -E 'binary(peer)'`), and fails then.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "the figures of each case")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kit::bench::peer;
use kit::cluster::{Cluster, ClusterOptions, programs};

const MANIFEST: &str = include_str!("peer.yaml");
const NAMESPACE: &str = "mixed";
const READY: Duration = Duration::from_secs(60);
/// What each way is shown with; a reset must be seen as some end, as a ztunnel may make one of it: how it ends, and with how many connections, of them at a time, and
/// bytes each way on each.
const CASES: [(&str, u32, u32, u64); 8] = [
    ("exchange", 1, 1, 1000),
    ("exchange", 10_000, 64, 2000),
    ("exchange", 1, 1, 512 << 20),
    ("exchange", 32, 32, 16 << 20),
    ("client-first", 100, 10, 300_000),
    ("server-first", 100, 10, 300_000),
    ("client-resets", 100, 10, 10_000),
    ("server-resets", 100, 10, 10_000),
];

/// A mesh with our agent on the first node, and a ztunnel on the second.
async fn mixed() -> Cluster {
    let program = PathBuf::from(std::env::var_os("SOTTO_PEER").expect("SOTTO_PEER, a ztunnel"));
    assert!(program.is_file(), "{} is no program", program.display());
    let options = ClusterOptions { agents: false, ..Default::default() };
    let mut cluster = Cluster::start(options).await.unwrap();
    cluster.wire.stop();
    cluster.apply(MANIFEST).await.unwrap();
    cluster.wait_ready(&[NAMESPACE], READY).await.unwrap();
    let [ours, theirs] = <[_; 2]>::try_from(cluster.nodes.clone()).ok().unwrap();
    let sotto = programs::find("sotto").unwrap();
    cluster.start_agent(&ours, &sotto, Vec::new()).await.unwrap();
    cluster.wait_for_agents().await.unwrap();
    peer::start(&mut cluster, &program, &[theirs], NAMESPACE).await.unwrap();
    cluster
}

/// Connections that both agents counted as ones in mutual TLS.
async fn counted(cluster: &Cluster) -> Vec<f64> {
    let labels = ["connection_security_policy=\"mutual_tls\""];
    let mut counts = Vec::new();
    for agent in &cluster.agents {
        counts.push(agent.metric("istio_tcp_connections_opened_total", &labels).await.unwrap());
    }
    counts
}

/// Drives one case from the client of a node to the server of the other.
async fn drive(cluster: &Cluster, from: u8, to: u8, case: (&str, u32, u32, u64)) {
    let (how, connections, at_once, bytes) = case;
    let server = cluster.pod_of(NAMESPACE, &format!("server-{to}")).await.unwrap();
    let address = server.status.unwrap().pod_ip.unwrap();
    let kit_app = cluster.nodes[0].config.kit_app.display().to_string();
    let words = [
        kit_app,
        String::from("exact"),
        String::from("drive"),
        format!("{address}:7200"),
        how.to_owned(),
        format!("--connections={connections}"),
        format!("--at-once={at_once}"),
        format!("--bytes={bytes}"),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let begun = Instant::now();
    let done = cluster.exec(NAMESPACE, &format!("client-{from}"), &words).await.unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{from} to {to}, {case:?}: {said}\n{}", cluster.post_mortem());
    let seen = String::from_utf8_lossy(&done.stdout);
    println!("node{from} to node{to}: {case:?} in {:?}: {}", begun.elapsed(), seen.trim());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a ztunnel, by its path in SOTTO_PEER"]
async fn a_ztunnel_and_our_agent_carry_everything_between_them() {
    let cluster = mixed().await;
    for (from, to) in [(1, 2), (2, 1)] {
        // Until both know of the other's pods.
        let what = format!("node{from} reaches node{to} through the mesh");
        let crossed = cluster.wait_until(&what, READY, async || {
            let before = counted(&cluster).await;
            drive(&cluster, from, to, CASES[0]).await;
            let after = counted(&cluster).await;
            let both = before.iter().zip(&after).all(|(before, after)| after > before);
            Ok(both.then_some(()))
        });
        crossed.await.unwrap();
        for case in CASES {
            let before = counted(&cluster).await;
            drive(&cluster, from, to, case).await;
            let after = counted(&cluster).await;
            for (agent, (before, after)) in before.iter().zip(&after).enumerate() {
                let passed = after - before;
                assert!(passed >= f64::from(case.1), "{case:?}: {passed} passed agent {agent}");
            }
        }
    }
    let left = cluster.stop().await;
    assert!(left.is_empty(), "{left:?}");
}
