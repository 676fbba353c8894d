//! Policies that change under open connections.

use std::time::{Duration, Instant};

use super::bench::{Bench, LEGACY, STREAMS, pa};

#[tokio::test(flavor = "multi_thread")]
async fn strict_resets_open_plaintext_within_a_second_and_leaves_mutual_tls_alone() {
    let bench = Bench::start(&[(STREAMS, &["front", "back"]), (LEGACY, &["legacy"])]).await;
    for namespace in ["front", "back"] {
        bench.enrol(namespace, true).await;
        bench.everyone_knows(namespace, true).await;
    }
    let echo = bench.ip("back", "echo").await;
    let flags = "--connections=3 --seconds=8";
    let plain = async {
        let ended = bench.pulse(("legacy", "sleep"), echo, flags).await;
        (ended, Instant::now())
    };
    let tunnelled = bench.pulse(("front", "client"), echo, flags);
    let policy = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        bench.apply(&pa("v1", "back", "default", "{ mtls: { mode: STRICT } }")).await;
        Instant::now()
    };
    let ((plain, ended), tunnelled, applied) = tokio::join!(plain, tunnelled, policy);
    let complaint = format!("{:#}", plain.unwrap_err());
    assert!(complaint.contains("reset by peer"), "{complaint}");
    let took = ended.saturating_duration_since(applied);
    assert!(took < Duration::from_secs(1), "open plaintext lived on for {took:?}");
    let tunnelled = tunnelled.unwrap();
    assert!(tunnelled > 600, "{tunnelled} bytes in 8 s");
    bench.logged(2, "connection closed due to policy rejection").await;
}
