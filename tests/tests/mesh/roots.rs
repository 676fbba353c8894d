//! The mesh's root is changed by the commands of `deploy/README.md` while applications talk.

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use kit::cluster::{Agent, ClusterOptions};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::bench::Bench;
use super::hbone::{self, Root, Tunnel};

const CLIENT: (&str, &str) = ("front", "client");
const GOOD: &str = "spiffe://cluster.local/ns/good/sa/good";
/// The control plane takes 10 s at most, agents as long as they are told to spread it; what the kubelet takes is not in it here.
const STEP: Duration = Duration::from_secs(60);

/// The commands of the section, without what looks at the agents: here that is done by their metrics themselves.
fn commands() -> &'static str {
    let page = include_str!("../../../deploy/README.md");
    let from = page.find("# What is there (keep it").expect("the commands");
    let commands = &page[from..];
    &commands[..commands.find("# What every agent says").expect("the end of what is done")]
}

/// The one that puts three files into the Secret.
fn put() -> &'static str {
    let commands = commands();
    &commands[commands.find("put()").expect("the command")..]
}

async fn step(bench: &Bench, files: &str) {
    bench.shell(&format!("{}put {files}", put())).await;
}

/// Fingerprints of the two roots, as the section says how to get them.
async fn fingerprint(bench: &Bench, file: &str) -> String {
    let said = bench.shell(&format!("openssl x509 -in {file} -outform DER | sha256sum")).await;
    said.split_whitespace().next().unwrap().to_owned()
}

/// What an agent says of a root: how many trust it, how many hang on it.
async fn roots(agent: &Agent, root: &str) -> [f64; 2] {
    let label = format!("root=\"{root}\"");
    let mut said = [0.0; 2];
    for (value, name) in said.iter_mut().zip(["sotto_root_trusting", "sotto_root_signed"]) {
        *value = agent.metric(name, &[&label]).await.unwrap();
    }
    said
}

/// Waits until every agent says so of both roots: with how many each is trusted, and signs.
async fn until(
    bench: &Bench,
    what: &str,
    said: impl Fn([f64; 2], [f64; 2]) -> bool,
    both: &[String; 2],
) {
    for agent in &bench.cluster.agents {
        let so = async || {
            let (old, new) = (roots(agent, &both[0]).await, roots(agent, &both[1]).await);
            let tunnels = agent.metric("sotto_tunnels_of_old_root", &[]).await?;
            Ok((said(old, new) && tunnels < 0.5).then_some(()))
        };
        let what = format!("{}: {what}", agent.node());
        bench.cluster.wait_until(&what, STEP, so).await.unwrap();
    }
}

/// Short connections one after another, and some that last for seconds, until told to end; not one may fail.
async fn traffic(bench: &Bench, to: IpAddr, stop: &CancellationToken) -> u64 {
    let run = async |flags: &str| {
        let mut bytes = 0;
        while !stop.is_cancelled() {
            bytes += bench.pulse(CLIENT, to, flags).await.unwrap();
        }
        bytes
    };
    let (fresh, steady) = tokio::join!(
        run("--fresh --connections=2 --pause-ms=20 --seconds=10"),
        run("--connections=4 --pause-ms=20 --seconds=5"),
    );
    fresh + steady
}

/// Whether an echo's agent takes a tunnel of somebody with a certificate of this root.
async fn is_believed(bench: &Bench, root: &Root, pod: IpAddr) -> bool {
    let netns = bench.cluster.fabric.external.clone();
    // The client's part of a handshake is done before the server judges it.
    let mut tls = hbone::secure(&netns, pod, root.identify(GOOD)).await.unwrap();
    match tokio::time::timeout(Duration::from_secs(5), tls.read_u8()).await {
        Ok(Err(error)) => {
            assert!(error.to_string().contains("UnknownCA"), "{error}");
            false
        }
        Ok(Ok(_)) => {
            let tunnel = Tunnel::open(&netns, pod, root.identify(GOOD)).await;
            assert_eq!(tunnel.connect(&format!("{pod}:7000")).await, StatusCode::OK);
            true
        }
        Err(_) => panic!("neither taken nor refused"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_changed_under_traffic_and_back() {
    let bench = Bench::streams_with(ClusterOptions {
        agent_flags: vec![String::from("--renewal-spread=3s")],
        ..ClusterOptions::default()
    })
    .await;
    let pod = bench.ip("back", "echo").await;
    let old = Root::of_mesh(&bench.cluster).await;
    bench.shell(commands()).await;
    let both = [fingerprint(&bench, "old.pem").await, fingerprint(&bench, "new.pem").await];
    let stop = CancellationToken::new();
    let change = async {
        until(
            &bench,
            "the old root alone",
            |old, new| old[0] > 0.0 && old[1] > 0.0 && new[0] == 0.0,
            &both,
        )
        .await;
        assert!(is_believed(&bench, &old, pod).await);
        step(&bench, "old.pem old-key.pem both.pem").await;
        until(&bench, "both are trusted", |old, new| new[0] == old[0] && new[1] == 0.0, &both)
            .await;
        step(&bench, "new.pem new-key.pem both.pem").await;
        until(&bench, "the new signs", |old, new| old[0] == new[0] && old[1] == 0.0, &both).await;
        assert!(is_believed(&bench, &old, pod).await, "both are trusted still");
        let new = Root::of_mesh(&bench.cluster).await;
        step(&bench, "new.pem new-key.pem new.pem").await;
        until(&bench, "the old is dropped", |old, new| old == [0.0; 2] && new[1] > 0.0, &both)
            .await;
        assert!(!is_believed(&bench, &old, pod).await, "a certificate of the old root");
        assert!(is_believed(&bench, &new, pod).await);
        // And back, step by step.
        step(&bench, "new.pem new-key.pem both.pem").await;
        until(&bench, "both are trusted", |old, new| new[0] == old[0] && old[1] == 0.0, &both)
            .await;
        step(&bench, "old.pem old-key.pem both.pem").await;
        until(&bench, "the old signs", |old, new| old[0] == new[0] && new[1] == 0.0, &both).await;
        step(&bench, "old.pem old-key.pem old.pem").await;
        until(&bench, "the new is dropped", |old, new| new == [0.0; 2] && old[1] > 0.0, &both)
            .await;
        assert!(!is_believed(&bench, &new, pod).await, "a certificate of the new root");
        stop.cancel();
    };
    let (bytes, ()) = tokio::join!(traffic(&bench, pod, &stop), change);
    assert!(bytes > 1000, "{bytes}");
}
