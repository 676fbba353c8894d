//! STRICT that comes and goes under load.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use futures::future::join_all;
use kit::topology::EXTERNAL_IP;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, LEGACY, STREAMS, pa};
use super::callers::Callers;
use super::hbone;
use super::recorder::{RECORDER, Recorder, Span};

/// Plaintext connections that are open when STRICT comes.
const OPEN: usize = 200;
/// Where agents answer questions.
const ADMIN: u16 = 15000;
/// How often each of [`PLACES`] changes: 1000 flips together.
const TURNS: usize = 250;
/// How long each state lasts at least, for clients to meet it.
const DWELL: Duration = Duration::from_millis(15);
/// Namespace and app of the pods whose policies flip, each by a policy of its own form.
const PLACES: [(&str, &str); 4] = [("flip", "a"), ("flip", "b"), ("flip", "c"), ("flop", "d")];

#[tokio::test(flavor = "multi_thread")]
async fn strict_resets_200_open_plaintext_connections_in_a_second_and_no_mutual_tls() {
    let bench = Bench::start(&[(STREAMS, &["front", "back"]), (LEGACY, &["legacy"])]).await;
    for namespace in ["front", "back"] {
        bench.enrol(namespace, true).await;
        bench.everyone_knows(namespace, true).await;
    }
    let echo = bench.ip("back", "echo").await;
    let outside = bench.cluster.pod_of("legacy", "sleep").await.unwrap().metadata.name.unwrap();
    let outside = bench.cluster.node_of("legacy", &outside).unwrap().pod("legacy", &outside);
    let netns = outside.unwrap().netns.file_name().unwrap().to_str().unwrap().to_owned();
    let to = SocketAddr::new(echo, 7000);
    let open = (0..OPEN).map(async |_| hbone::dial(&netns, to).await.unwrap());
    let plain = join_all(open).await;
    let plain = join_all(plain.into_iter().map(async |mut stream| {
        let mut bytes = 0;
        loop {
            let there_and_back = async {
                stream.write_all(b"?").await?;
                stream.read_u8().await
            };
            match there_and_back.await {
                Ok(_) => bytes += 1,
                Err(error) => return (bytes, error.kind(), Instant::now()),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }));
    let tunnelled = bench.pulse(("front", "client"), echo, "--connections=50 --seconds=8");
    let policy = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        bench.apply(&pa("v1", "back", "default", "{ mtls: { mode: STRICT } }")).await;
        Instant::now()
    };
    let (plain, tunnelled, applied) = tokio::join!(plain, tunnelled, policy);
    assert_eq!(plain.len(), OPEN);
    for (bytes, kind, _) in &plain {
        assert!(*bytes > 10, "{bytes} bytes in 3 s");
        assert_eq!(*kind, std::io::ErrorKind::ConnectionReset);
    }
    let after = plain.iter().map(|(_, _, ended)| ended.saturating_duration_since(applied));
    let last = after.max().unwrap();
    eprintln!("{OPEN} plaintext connections: the last was reset {last:?} after kubectl returned");
    assert!(last < Duration::from_secs(1), "open plaintext lived on for {last:?}");
    // A byte each 10 ms on each: whatever was lost, late or changed would have ended it.
    let tunnelled = tunnelled.unwrap();
    assert!(tunnelled > 50 * 100, "{tunnelled} bytes in 8 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_flips_under_load_let_no_plaintext_in_and_deny_no_mutual_tls() {
    let manifest = manifest();
    let bench = Bench::start(&[(STREAMS, &["front"]), (&manifest, &["flip", "flop"])]).await;
    for namespace in ["front", "flip", "flop"] {
        bench.enrol(namespace, true).await;
        bench.everyone_knows(namespace, true).await;
    }
    let mut recorders = Vec::new();
    let mut ips = Vec::new();
    for (namespace, app) in PLACES {
        let name = bench.cluster.pod_of(namespace, app).await.unwrap().metadata.name.unwrap();
        let pod = bench.cluster.node_of(namespace, &name).unwrap().pod(namespace, &name);
        recorders.push(Recorder::start(&pod.unwrap()));
        ips.push(bench.ip(namespace, app).await);
    }
    let targets: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, RECORDER)).collect();
    let callers = Callers::start(&bench.cluster.fabric.external, &targets);
    let stop = CancellationToken::new();
    let flips = async {
        let spans = flip(&bench).await;
        stop.cancel();
        spans
    };
    let (spans, tunnelled) = tokio::join!(flips, mutual_tls(&bench, &ips, &stop));
    for (number, recorder) in recorders.iter().enumerate() {
        let Spans { strict, permissive } = &spans[number];
        assert_eq!((strict.len(), permissive.len()), (TURNS / 2, TURNS / 2));
        let (shut, open) = (recorder.within(strict), recorder.within(permissive));
        let met = permissive.iter().filter(|span| recorder.within(&[**span]) > 0).count();
        eprintln!("{:?}: {open} plaintext bytes in {met} PERMISSIVE spans", PLACES[number]);
        assert_eq!(shut, 0, "{:?}: plaintext accepted while STRICT", PLACES[number]);
        // The same eyes do see what is let in, in nearly every span.
        assert!(met > TURNS * 2 / 5, "{:?}: plaintext in {met} spans only", PLACES[number]);
    }
    eprintln!("in the clear: {} served, {} refused", callers.served(), callers.refused());
    eprintln!("mutual TLS: {tunnelled} bytes there and back");
    assert!(callers.refused() > TURNS, "{} were refused", callers.refused());
    assert!(tunnelled > 1000, "{tunnelled} bytes");
}

/// When a place was in which state: from the agent's word until the next change was sent.
#[derive(Debug, Default)]
struct Spans {
    strict: Vec<Span>,
    permissive: Vec<Span>,
}

/// All flips; places take turns, so that at any time half of them are STRICT.
async fn flip(bench: &Bench) -> Vec<Spans> {
    let mut spans: Vec<Spans> = PLACES.iter().map(|_| Spans::default()).collect();
    let started = Instant::now();
    for turn in 0..TURNS {
        let strict = |place: usize| (turn + place).is_multiple_of(2);
        for place in 0..PLACES.len() {
            bench.cluster.api.store().apply(policy(place, strict(place))).unwrap();
        }
        in_force(bench, strict).await;
        let from = SystemTime::now();
        tokio::time::sleep(DWELL).await;
        let to = SystemTime::now();
        for (place, spans) in spans.iter_mut().enumerate() {
            let of = if strict(place) { &mut spans.strict } else { &mut spans.permissive };
            of.push(Span { from, to });
        }
    }
    eprintln!("{} flips in {:?}", TURNS * PLACES.len(), started.elapsed());
    spans
}

/// Waits until the servers' agent judges by the new policies, on all its threads.
async fn in_force(bench: &Bench, strict: impl Fn(usize) -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    for (place, (namespace, app)) in PLACES.iter().enumerate() {
        let question =
            format!("/explain?source={EXTERNAL_IP}&destination={namespace}/{app}&port={RECORDER}");
        while ask(bench, &question).await["judgements"][0]["allowed"] == strict(place) {
            assert!(Instant::now() < until, "no change in time\n{}", bench.cluster.post_mortem());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    // A thread that answers twice has done between the two what the change woke it for: its open
    // connections are judged again.
    for _ in 0..2 {
        ask(bench, "/plaintext?namespace=flip").await;
    }
}

async fn ask(bench: &Bench, question: &str) -> Value {
    let answer = bench.agent(2).process.get(ADMIN, question).await.unwrap();
    assert_eq!(answer.status, 200, "{question}: {}", answer.body);
    serde_json::from_str(&answer.body).context(answer.body).unwrap()
}

/// Old and new connections of an enrolled client to each place, until told to stop; the bytes that
/// came back. The first that is denied, late or wrong ends the test.
async fn mutual_tls(bench: &Bench, ips: &[IpAddr], stop: &CancellationToken) -> u64 {
    let flags = ["--connections=2 --seconds=3", "--fresh --seconds=3"];
    let clients = ips.iter().flat_map(|ip| flags.map(|flags| (*ip, flags)));
    let counts = clients.map(async |(ip, flags)| {
        let mut bytes = 0;
        while !stop.is_cancelled() {
            bytes += bench.pulse(("front", "client"), ip, flags).await.unwrap();
        }
        bytes
    });
    join_all(counts).await.into_iter().sum()
}

/// The PeerAuthentication of a place. Each has another way to say it.
fn policy(place: usize, strict: bool) -> Value {
    let (namespace, app) = PLACES[place];
    let mode = if strict { "STRICT" } else { "PERMISSIVE" };
    let selector = json!({ "matchLabels": { "app": app } });
    let port = json!({ RECORDER.to_string(): { "mode": mode } });
    let spec = match app {
        "a" => json!({ "selector": selector, "mtls": { "mode": mode } }),
        "b" => json!({ "selector": selector, "portLevelMtls": port }),
        // An exception that comes and goes.
        "c" => {
            json!({ "selector": selector, "mtls": { "mode": "STRICT" }, "portLevelMtls": port })
        }
        _ => json!({ "mtls": { "mode": mode } }),
    };
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": app, "namespace": namespace }, "spec": spec,
    })
}

/// Echoes on the second node.
fn manifest() -> String {
    let namespaces = ["flip", "flop"].map(|name| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n---\n")
    });
    let apps = PLACES.map(|(namespace, app)| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\n\
             metadata: {{ name: {app}, namespace: {namespace} }}\n\
             spec:\n  selector: {{ matchLabels: {{ app: {app} }} }}\n  template:\n    \
             metadata: {{ labels: {{ app: {app} }} }}\n    spec:\n      \
             nodeSelector: {{ kubernetes.io/hostname: node2 }}\n      \
             containers: [{{ name: echo, image: istio/tcp-echo-server }}]\n---\n"
        )
    });
    namespaces.concat() + &apps.concat()
}
