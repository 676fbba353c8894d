//! Parts of the mesh that are stopped, killed and started again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use kit::cluster::ClusterOptions;
use kit::topology::CONTROL_PLANE_IP;
use kube::ResourceExt;

use super::bench::{Bench, pa};
use super::hbone::{self, Root, Tunnel};

const SLEEP: (&str, &str) = ("legacy", "sleep");
const PAGE: (&str, &str) = ("bookinfo", "productpage-v1");
const DETAILS: &str = "http://details.bookinfo.svc.cluster.local:9080/details/1";
const CLIENT: (&str, &str) = ("front", "client");
const WEB: &str = "http://web.back.svc.cluster.local/get";
/// For so long the control plane goes by what it was told of a token, and a little more.
const REVIEWED: Duration = Duration::from_secs(35);
/// A refusal that takes longer was not at once.
const AT_ONCE: f64 = 0.1;

#[tokio::test(flavor = "multi_thread")]
async fn without_its_control_plane_the_mesh_goes_on_and_catches_up_when_it_is_back() {
    let mut bench = Bench::bookinfo().await;
    let strict = pa("v1", "bookinfo", "default", "{ mtls: { mode: STRICT } }");
    let permissive = pa("v1", "bookinfo", "default", "{ mtls: { mode: PERMISSIVE } }");
    for kill in [false, true] {
        bench.apply(&strict).await;
        bench.shows(SLEEP, DETAILS, "exit 56").await;
        let plane = &mut bench.cluster.control_plane.as_mut().unwrap().process;
        if kill {
            plane.kill().await.unwrap();
        } else {
            let status = plane.terminate(Duration::from_secs(10)).await.unwrap();
            assert_eq!(status.code(), Some(0), "{}", plane.log_tail(20));
        }
        bench.shows(PAGE, DETAILS, "200").await;
        bench.shows(SLEEP, DETAILS, "exit 56").await;
        // Told to the API server while nobody listens.
        bench.apply(&permissive).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.curl(SLEEP, DETAILS).await, "exit 56");
        bench.cluster.control_plane.as_mut().unwrap().process.start().unwrap();
        caught_up(&bench).await;
        bench.shows(SLEEP, DETAILS, "200").await;
        bench.shows(PAGE, DETAILS, "200").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_told_to_end_takes_who_has_not_heard_of_it_yet() {
    let mut bench = Bench::streams().await;
    let netns = bench.cluster.fabric.external.clone();
    let to = SocketAddr::new(CONTROL_PLANE_IP.into(), 15012);
    let plane = &mut bench.cluster.control_plane.as_mut().unwrap().process;
    let ending = plane.terminate(Duration::from_secs(10));
    let asking = async {
        // As long as a node may take to hear of it.
        for _ in 0..4 {
            hbone::dial(&netns, to).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let (status, ()) = tokio::join!(ending, asking);
    assert_eq!(status.unwrap().code(), Some(0));
    assert!(hbone::dial(&netns, to).await.is_err());
}

/// The agents' backoff may be at its longest, 15 s.
async fn caught_up(bench: &Bench) {
    let synced = async || Ok((bench.curl(SLEEP, DETAILS).await == "200").then_some(()));
    bench.cluster.wait_until("the agents know", Duration::from_secs(30), synced).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_agent_a_pod_is_refused_at_once_and_the_next_agent_takes_over() {
    let mut bench = Bench::streams().await;
    let pods = pods(&bench).await;
    bench.shows(CLIENT, WEB, "200").await;
    for number in [0, 1] {
        bench.cluster.agents[number].process.kill().await.unwrap();
        let said = bench
            .kubectl(&format!(
                "exec -n front deploy/client -- curl -sS -o /dev/null -w %{{time_total}} {WEB}"
            ))
            .await;
        // The client's own agent refuses the connection; the server's, the tunnel within it.
        assert_eq!(said.code, [7, 56][number], "{said:?}");
        let seconds: f64 = said.out.trim().parse().unwrap();
        assert!(seconds < AT_ONCE, "told after {seconds} s");
        bench.cluster.agents[number].process.start().unwrap();
        bench.cluster.wait_for_agents().await.unwrap();
        bench.shows(CLIENT, WEB, "200").await;
    }
    assert_eq!(self::pods(&bench).await, pods, "pods were restarted");
    let opened = bench.agent(2).metric("istio_tcp_connections_opened_total", &["mutual_tls"]).await;
    assert!(opened.unwrap() > 0.0, "the pods are no longer captured");
}

/// Nobody who runs the mesh reaches the API server: agents and control plane.
fn take_api_away(bench: &Bench) {
    let agents = bench.cluster.agents.iter().map(|agent| agent.netns().to_owned());
    for netns in agents.chain([bench.cluster.fabric.control_plane.clone()]) {
        let line = format!("-n {netns} route add prohibit {}", kit::topology::FABRIC_IP);
        kit::command::ip(&line).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_start_without_an_api_server_serve_their_pods_as_before() {
    let mut bench = Bench::streams().await;
    bench.shows(CLIENT, WEB, "200").await;
    let pods = pods(&bench).await;
    // The agents have written down which pods they have, and the control plane has to ask about their tokens again.
    tokio::time::sleep(REVIEWED).await;
    take_api_away(&bench);
    for agent in &mut bench.cluster.agents {
        agent.process.kill().await.unwrap();
        agent.process.start().unwrap();
    }
    let served = async || Ok((bench.curl(CLIENT, WEB).await == "200").then_some(()));
    let limit = Duration::from_secs(60);
    bench.cluster.wait_until("the pods are served", limit, served).await.unwrap();
    bench.shows(CLIENT, WEB, "200").await;
    assert_eq!(self::pods(&bench).await, pods, "pods were restarted");
    let opened = bench.agent(2).metric("istio_tcp_connections_opened_total", &["mutual_tls"]).await;
    assert!(opened.unwrap() > 0.0, "not over mutual TLS");
}

/// Pods, their containers' restarts and their processes.
async fn pods(bench: &Bench) -> Vec<(String, i32, u32)> {
    let mut found = Vec::new();
    for namespace in ["front", "back"] {
        for pod in bench.cluster.pods(namespace, "").await.unwrap() {
            let name = pod.name_any();
            let node = bench.cluster.node_of(namespace, &name).unwrap();
            let pid = node.pod(namespace, &name).unwrap().pid;
            let statuses = pod.status.unwrap().container_statuses.unwrap_or_default();
            found.push((name, statuses.iter().map(|status| status.restart_count).sum(), pid));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_told_to_end_serves_until_nothing_is_open_or_says_goaway_before_its_deadline() {
    let mut bench = Bench::streams_with(ClusterOptions {
        agent_flags: vec![String::from("--drain-deadline=8s")],
        ..ClusterOptions::default()
    })
    .await;
    let (netns, pod) = (bench.cluster.fabric.external.clone(), bench.ip("back", "echo").await);
    let root = Root::of_mesh(&bench.cluster).await;
    let config = root.identify("spiffe://cluster.local/ns/good/sa/good");
    let authority = format!("{pod}:7000");
    let tunnel = Tunnel::open(&netns, pod, config.clone()).await;
    let (mut send, mut receive, status) = tunnel.stream(Method::CONNECT, &authority).await;
    assert_eq!(status, 200);
    hbone::echo(&mut send, &mut receive).await;
    let mut agent = bench.cluster.agents.remove(1);
    let ending = agent.process.terminate(Duration::from_secs(15));
    let using = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.shows(CLIENT, WEB, "200").await;
        let next = Tunnel::open(&netns, pod, config).await;
        let (mut send_next, mut receive_next, status) =
            next.stream(Method::CONNECT, &authority).await;
        assert_eq!(status, 200, "nobody follows: it takes what comes");
        hbone::echo(&mut send_next, &mut receive_next).await;
        send_next.send_data(bytes::Bytes::new(), true).unwrap();
        let told = tunnel.goaway().await;
        assert!(told.is_go_away() && told.reason() == Some(h2::Reason::NO_ERROR), "{told}");
        for _ in 0..20 {
            hbone::echo(&mut send, &mut receive).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        send.send_data(bytes::Bytes::new(), true).unwrap();
        Instant::now()
    };
    let (status, finished) = tokio::join!(ending, using);
    assert_eq!(status.unwrap().code(), Some(0), "{}", agent.process.log_tail(20));
    assert!(finished.elapsed() < Duration::from_secs(1), "it waits for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_told_to_end_that_nobody_follows_ends_with_the_last_open_connection() {
    let mut bench = Bench::streams().await;
    let echo = bench.ip("back", "echo").await;
    let flags = "--connections=3 --seconds=4";
    let open = tokio::spawn(bench.pulsing(CLIENT, echo, flags).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut agent = bench.cluster.agents.remove(1);
    let ending = agent.process.terminate(Duration::from_secs(15));
    let using = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.shows(CLIENT, WEB, "200").await;
        assert!(open.await.unwrap().is_ok(), "an open connection was lost");
        Instant::now()
    };
    let (status, finished) = tokio::join!(ending, using);
    assert_eq!(status.unwrap().code(), Some(0), "{}", agent.process.log_tail(20));
    assert!(finished.elapsed() < Duration::from_secs(2), "it waits for nothing");
    assert_ne!(bench.curl(CLIENT, WEB).await, "200");
}
