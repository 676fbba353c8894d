//! Which data threads carry a pod's connections.

use std::collections::BTreeMap;

use super::bench::Bench;
use super::reload::load;

/// Of four connections the first two stay together, and each other is on a thread of its own.
const MOST: usize = 3;
/// A thread that carries less than this part of what the busiest does carries nothing.
const PART: f64 = 0.2;

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_data_threads_and_so_are_the_tunnels_that_carry_them() {
    let bench = Bench::streams().await;
    let cores = std::thread::available_parallelism().unwrap().get();
    for (connections, expected) in [(1, 1), (4, cores.min(MOST))] {
        let before = [1, 2].map(|node| spent(&bench, node));
        load(&bench, connections).await;
        for (node, before) in [1, 2].into_iter().zip(before) {
            let after = spent(&bench, node);
            let used: Vec<_> = after.iter().map(|(name, now)| now - before[name]).collect();
            let busiest = used.iter().copied().fold(0.0, f64::max);
            let busy = used.iter().filter(|seconds| **seconds > busiest * PART).count();
            assert_eq!(busy, expected, "node {node}, {connections} connections: {used:?}");
        }
    }
}

/// CPU seconds of each data thread of a node's agent so far, by name.
fn spent(bench: &Bench, node: usize) -> BTreeMap<String, f64> {
    let pid = bench.agent(node).process.pid().unwrap();
    let mut spent = BTreeMap::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let path = thread.unwrap().path();
        // A thread of the blocking pool may end meanwhile.
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        if name.starts_with("data-") {
            let schedstat = std::fs::read_to_string(path.join("schedstat")).unwrap();
            let nanoseconds = schedstat.split_whitespace().next().unwrap();
            spent.insert(name, nanoseconds.parse::<f64>().unwrap() / 1e9);
        }
    }
    assert!(!spent.is_empty());
    spent
}
