//! Enrolment while traffic flows.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::bench::{Bench, STREAMS};

/// How often a namespace's label changes.
const FLIPS: usize = 24;
/// Client, server, client out, server out: every combination, again and again.
const ROUND: [(&str, bool); 4] =
    [("front", true), ("back", true), ("front", false), ("back", false)];
/// Time between two changes.
const PACE: Duration = Duration::from_secs(1);
const CLIENT: (&str, &str) = ("front", "client");
/// When the last streams end; all live on after the last flip.
const STREAM_SECONDS: usize = 42;

#[tokio::test(flavor = "multi_thread")]
async fn enrolling_and_unenrolling_under_traffic_loses_no_connection_old_or_new() {
    let bench = Bench::start(&[(STREAMS, &["front", "back"])]).await;
    let echo = bench.ip("back", "echo").await;
    let started = Instant::now();
    // Streams opened before, during and after: two at every second flip. They end in another order
    // than they began in, so that what each capture of a pod leaves open ends at its own time.
    let streams = (0..FLIPS / 2).map(async |turn| -> Result<u64> {
        let wait = PACE * 2 * u32::try_from(turn)?;
        tokio::time::sleep(wait).await;
        let end = if turn % 2 == 0 { STREAM_SECONDS } else { STREAM_SECONDS - 2 - turn / 2 };
        let seconds = end - usize::try_from(wait.as_secs())?;
        bench.pulse(CLIENT, echo, &format!("--connections=2 --seconds={seconds}")).await
    });
    let fresh = async || {
        let flags = format!("--connections=2 --seconds={STREAM_SECONDS} --fresh");
        bench.pulse(CLIENT, echo, &flags).await
    };
    let flips = async {
        let mut slowest = Duration::ZERO;
        for flip in 0..FLIPS {
            let until = started + PACE * u32::try_from(flip + 1).unwrap();
            tokio::time::sleep_until(until.into()).await;
            let (namespace, enrolled) = ROUND[flip % ROUND.len()];
            let changed = Instant::now();
            bench.enrol(namespace, enrolled).await;
            slowest = slowest.max(changed.elapsed());
        }
        (started.elapsed(), slowest)
    };
    let (streams, fresh, (elapsed, slowest)) =
        tokio::join!(futures::future::join_all(streams), fresh(), flips);
    assert!(elapsed < Duration::from_secs(34), "{FLIPS} flips took {elapsed:?}");
    assert!(slowest < Duration::from_secs(5), "a flip took {slowest:?}");
    for (number, stream) in streams.iter().enumerate() {
        assert!(stream.as_ref().is_ok_and(|bytes| *bytes > 100), "{number}: {stream:?}");
    }
    let fresh = fresh.unwrap();
    assert!(fresh > 500, "{fresh} new connections");
    mutual_tls_was_used(&bench).await;
}

/// The flips did something: some connections went through tunnels, some arrived in the clear.
async fn mutual_tls_was_used(bench: &Bench) {
    for security in ["mutual_tls", "unknown"] {
        let label = format!("connection_security_policy=\"{security}\"");
        let name = "istio_tcp_connections_opened_total";
        let labels = ["reporter=\"destination\"", &label];
        let opened = bench.agent(2).metric(name, &labels).await.unwrap();
        assert!(opened > 20.0, "{security}: {opened}");
    }
}
