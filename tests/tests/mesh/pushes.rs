//! A control plane that is killed while it pushes.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use kit::topology::EXTERNAL_IP;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::bench::{Bench, READY};
use super::callers::Callers;
use super::recorder::{RECORDER, Recorder, Span};

/// When it is killed, after a flip to STRICT and a DENY were stored: before it has told them,
/// about when it does, and in the middle of the policies that follow.
const KILLS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(70), Duration::from_millis(400)];
/// Policies that are stored, all at once, after the flip.
const BATCH: usize = 1500;
/// How long clients meet a mesh without a control plane.
const DEAD: Duration = Duration::from_secs(1);
/// The agents' backoff may be at its longest, 15 s.
const BACK: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_pushes_the_control_plane_leaves_nothing_open() {
    let mut bench = Bench::streams().await;
    store(&bench, peer("default", "back", "STRICT", None));
    turn(&bench, false);
    decided(&bench, EXTERNAL_IP.to_string(), "back/echo", false).await;
    decided(&bench, EXTERNAL_IP.to_string(), "back/web", true).await;
    let mut shut = vec![Watched::start(&bench, "echo").await];
    let open = Watched::start(&bench, "web").await;
    for (round, delay) in KILLS.into_iter().enumerate() {
        let batch = batch(&bench, round);
        turn(&bench, true);
        let stored = tokio::task::spawn_blocking(batch);
        tokio::time::sleep(delay).await;
        let plane = &mut bench.cluster.control_plane.as_mut().unwrap().process;
        plane.kill().await.unwrap();
        stored.await.unwrap();
        // A pod that comes now: its namespace is STRICT, nobody tells its agent so.
        shut.push(Watched::newcomer(&bench, round).await);
        if round + 1 == KILLS.len() {
            let agent = &mut bench.cluster.agents[1].process;
            agent.kill().await.unwrap();
            agent.start().unwrap();
        }
        tokio::time::sleep(DEAD).await;
        bench.cluster.control_plane.as_mut().unwrap().process.start().unwrap();
        decided(&bench, EXTERNAL_IP.to_string(), "back/web", false).await;
        decided(&bench, String::from("front/client"), "back/web", false).await;
        let from = SystemTime::now();
        tokio::time::sleep(DEAD / 4).await;
        let strict = Span { from, to: SystemTime::now() };
        assert_eq!(
            open.recorder.within(&[strict]),
            0,
            "plaintext after the control plane's return"
        );
        let before = open.recorder.arrivals().len();
        turn(&bench, false);
        decided(&bench, EXTERNAL_IP.to_string(), "back/web", true).await;
        let let_in = async || Ok((open.recorder.arrivals().len() > before).then_some(()));
        bench.cluster.wait_until("plaintext is let in", READY, let_in).await.unwrap();
    }
    bench.cluster.wait_for_agents().await.unwrap();
    bench.cluster.wait_ready(&["back"], READY).await.unwrap();
    // The DENY is another object than the mode, and may be told later.
    decided(&bench, String::from("front/client"), "back/echo", true).await;
    let echo = bench.ip("back", "echo").await;
    let bytes = bench.pulse(("front", "client"), echo, "--connections=4 --seconds=4").await;
    assert!(bytes.unwrap() > 100, "mutual TLS is served");
    for pod in &shut {
        assert_eq!(pod.recorder.arrivals().len(), 0, "plaintext reached {}", pod.name);
        assert_eq!(pod.callers.served(), 0, "plaintext was served by {}", pod.name);
        assert!(pod.callers.refused() > 10, "nobody knocked at {}", pod.name);
    }
}

/// A pod, its app that tells what came in the clear, and clients that try to.
struct Watched {
    name: String,
    recorder: Recorder,
    callers: Callers,
}

impl Watched {
    async fn start(bench: &Bench, app: &str) -> Self {
        let name = bench.cluster.pod_of("back", app).await.unwrap().name_any();
        Self::of(bench, name, bench.ip("back", app).await)
    }

    /// One more pod of the echo, as soon as it is on the network.
    async fn newcomer(bench: &Bench, round: usize) -> Self {
        let pods = bench.cluster.pods("back", "app=echo").await.unwrap();
        let old: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
        bench.ok(&format!("scale deploy echo -n back --replicas={}", round + 2)).await;
        let came = async || {
            let mut pods = bench.cluster.pods("back", "app=echo").await?.into_iter();
            let Some(new) = pods.find(|pod| !old.contains(&pod.name_any())) else {
                return Ok(None);
            };
            let runs = bench.cluster.node_of("back", &new.name_any()).is_ok();
            let ip = new.status.as_ref().and_then(|status| status.pod_ip.clone());
            Ok(ip.filter(|_| runs).map(|ip| (new.name_any(), ip)))
        };
        let came = bench.cluster.wait_until("a new pod is on the network", READY, came).await;
        let (name, ip) = came.unwrap();
        Self::of(bench, name, ip.parse().unwrap())
    }

    fn of(bench: &Bench, name: String, ip: std::net::IpAddr) -> Self {
        let pod = bench.cluster.node_of("back", &name).unwrap().pod("back", &name).unwrap();
        let recorder = Recorder::start(&pod);
        let to = [SocketAddr::new(ip, RECORDER)];
        Self { name, recorder, callers: Callers::start(&bench.cluster.fabric.external, &to) }
    }
}

/// What is on its way when the control plane is killed: STRICT for one workload, and a DENY for
/// those who have an identity; or both taken back.
fn turn(bench: &Bench, shut: bool) {
    let mode = if shut { "STRICT" } else { "PERMISSIVE" };
    store(bench, peer("web", "back", mode, Some("web")));
    let namespace = if shut { "front" } else { "nobody" };
    store(bench, deny("no-front", "back", namespace));
}

/// Stores many policies, other ones each round.
fn batch(bench: &Bench, round: usize) -> impl FnOnce() + Send + use<> {
    let store = bench.cluster.api.store().clone();
    move || {
        for number in 0..BATCH {
            let name = format!("bulk-{number}");
            store.apply(deny(&name, "front", &format!("nobody-{round}"))).unwrap();
        }
    }
}

fn store(bench: &Bench, object: Value) {
    bench.cluster.api.store().apply(object).unwrap();
}

fn peer(name: &str, namespace: &str, mode: &str, app: Option<&str>) -> Value {
    let mut spec = json!({ "mtls": { "mode": mode } });
    if let Some(app) = app {
        spec["selector"] = json!({ "matchLabels": { "app": app } });
    }
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": name, "namespace": namespace }, "spec": spec,
    })
}

/// Keeps out who comes from a namespace.
fn deny(name: &str, namespace: &str, from: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "action": "DENY", "rules": [{ "from": [{ "source": { "namespaces": [from] } }] }] },
    })
}

/// Waits until the servers' agent decides so of who comes as things are now.
async fn decided(bench: &Bench, from: String, to: &str, allowed: bool) {
    let question = format!("/explain?source={from}&destination={to}&port={RECORDER}");
    let so = async || {
        let answer = bench.agent(2).process.get(15000, &question).await?;
        let told: Value = serde_json::from_str(&answer.body)?;
        Ok((told["judgements"][0]["allowed"] == allowed).then_some(()))
    };
    let what = format!("{from} may call {to}: {allowed}");
    bench.cluster.wait_until(&what, BACK, so).await.unwrap();
}
