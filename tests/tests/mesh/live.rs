//! Settings that change while agents run.

use std::time::Duration;

use kit::cluster::ClusterOptions;

use super::bench::Bench;

const CLIENT: (&str, &str) = ("front", "client");

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_under_a_running_agent_and_a_mistake_changes_none() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        std::fs::write(folder.path().join(name), content).unwrap();
    };
    let bench = Bench::streams_with(ClusterOptions {
        agent_flags: vec![format!("--live-settings={}", folder.path().display())],
        ..ClusterOptions::default()
    })
    .await;
    let outside = bench.cluster.external_url();
    let counted = async || {
        let labels = ["destination_workload=\"unknown\""];
        bench.agent(1).metric("istio_tcp_connections_opened_total", &labels).await.unwrap()
    };
    bench.shows(CLIENT, &outside, "200").await;
    assert!(counted().await < 0.5, "the kernel's own path is not the agent's");

    write("unknown-destinations", "proxy\n");
    write("drain-deadline", "3s\n");
    write("log-level", "info,access=off\n");
    bench.logged(1, "settings have changed").await;
    let passes = async || {
        assert_eq!(bench.curl(CLIENT, &outside).await, "200");
        Ok((counted().await > 0.5).then_some(()))
    };
    let limit = Duration::from_secs(10);
    bench
        .cluster
        .wait_until("what goes outside passes through the agent", limit, passes)
        .await
        .unwrap();
    let config = bench.agent(1).config_dump().await.unwrap()["config"].clone();
    assert_eq!(config["unknownDestinations"], "proxy");
    assert_eq!(config["drainDeadline"], "3s");
    let lines = |bench: &Bench| bench.agent(1).process.log().matches("connection complete").count();
    let before = lines(&bench);
    bench.shows(CLIENT, &outside, "200").await;
    assert_eq!(lines(&bench), before, "its access log is off");

    write("drain-deadline", "soon");
    write("unknown-destinations", "direct");
    let told = bench.logged(1, "settings stay as they are").await;
    assert!(told.contains("drain-deadline"), "{told}");
    let config = bench.agent(1).config_dump().await.unwrap()["config"].clone();
    assert_eq!(config["unknownDestinations"], "proxy", "with a mistake all stays");

    // Without a file its flag counts again.
    std::fs::remove_file(folder.path().join("drain-deadline")).unwrap();
    let settled = async || {
        let config = bench.agent(1).config_dump().await?["config"].clone();
        let settled = config["unknownDestinations"] == "direct" && config["drainDeadline"] == "25s";
        Ok(settled.then_some(()))
    };
    bench.cluster.wait_until("settings change again", limit, settled).await.unwrap();
    let passed = counted().await;
    bench.shows(CLIENT, &outside, "200").await;
    assert!(counted().await < passed + 0.5, "it is the kernel's own path again");
}
