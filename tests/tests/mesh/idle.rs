//! A mesh in which nothing happens.

use std::time::Duration;

use super::bench::Bench;

const WATCHED: Duration = Duration::from_secs(5);
/// More than this part of a core, used by an idle process, is a busy loop.
const PART: f64 = 0.01;

#[tokio::test(flavor = "multi_thread")]
async fn idle_agents_and_an_idle_control_plane_use_less_than_one_percent_of_a_core() {
    let bench = Bench::bookinfo().await;
    bench.shows(("bookinfo", "productpage-v1"), "http://details:9080/details/1", "200").await;
    // What the start has left to do.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let agents = bench.cluster.agents.iter().map(|agent| &agent.process);
    let plane = bench.cluster.control_plane.iter().map(|plane| &plane.process);
    let all: Vec<_> = agents.chain(plane).collect();
    let before: Vec<_> = all.iter().map(|process| process.usage().unwrap()).collect();
    tokio::time::sleep(WATCHED).await;
    for (process, before) in all.iter().zip(before) {
        let used = process.usage().unwrap().cpu_seconds - before.cpu_seconds;
        let part = used / WATCHED.as_secs_f64();
        assert!(part < PART, "{}: {part}", process.log_file().display());
    }
}
