//! Peers at a pod's port 15008 that are hostile, broken, or not allowed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use http::{Method, StatusCode};
use kit::cluster::Usage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bench::{Bench, LEGACY};
use super::hbone::{self, HBONE, Root, Tunnel};

const GOOD: &str = "spiffe://cluster.local/ns/good/sa/good";
const EVIL: &str = "spiffe://cluster.local/ns/evil/sa/evil";
const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: { name: no-evil, namespace: back }\n\
    spec: { action: DENY, rules: [{ from: [{ source: { namespaces: [evil] } }] }] }\n";
/// A peer may take this long to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Broken peers of each kind.
const CROWD: usize = 40;
/// What an agent may grow by over a crowd.
const GROWTH_BYTES: u64 = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_request_in_a_tunnel_is_answered_with_its_documented_status() {
    let bench = Bench::streams().await;
    let (netns, pod) = (bench.cluster.fabric.external.as_str(), bench.ip("back", "echo").await);
    let root = Root::of_mesh(&bench.cluster).await;
    let tunnel = Tunnel::open(netns, pod, root.identify(GOOD)).await;
    let at = |port: u16| SocketAddr::new(pod, port).to_string();
    assert_eq!(tunnel.connect(&at(7000)).await, StatusCode::OK);
    assert_eq!(tunnel.connect("echo.back.svc.cluster.local:7000").await, StatusCode::OK);
    let elsewhere = format!("{}:8000", bench.ip("back", "web").await);
    assert_eq!(tunnel.connect(&elsewhere).await, StatusCode::BAD_REQUEST, "another pod");
    assert_eq!(tunnel.connect("127.0.0.1:15000").await, StatusCode::BAD_REQUEST, "loopback");
    assert_eq!(tunnel.connect("nonsense").await, StatusCode::BAD_REQUEST, "no port");
    assert_eq!(tunnel.status(Method::GET, "https://x/").await, StatusCode::BAD_REQUEST, "a GET");
    assert_eq!(tunnel.connect(&at(9999)).await, StatusCode::SERVICE_UNAVAILABLE, "a closed port");
    let loops = tunnel.connect(&at(HBONE)).await;
    assert_eq!(loops, StatusCode::SERVICE_UNAVAILABLE, "the tunnels' own port");
    let unknown = tunnel.connect("no.such.svc.cluster.local:80").await;
    assert_eq!(unknown, StatusCode::SERVICE_UNAVAILABLE, "a service that is not the pod's");
    bench.apply(DENY).await;
    let denied = async || {
        let tunnel = Tunnel::open(netns, pod, root.identify(EVIL)).await;
        Ok((tunnel.connect(&at(7000)).await == StatusCode::UNAUTHORIZED).then_some(()))
    };
    bench.cluster.wait_until("evil is denied", Duration::from_secs(5), denied).await.unwrap();
    assert_eq!(tunnel.connect(&at(7000)).await, StatusCode::OK, "not denied");
    bench.logged(2, "explicitly denied by: back/no-evil").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_no_peers_are_told_off_and_leave_nothing_behind() {
    let bench = Bench::streams().await;
    bench.cluster.apply(LEGACY).await.unwrap();
    bench.cluster.wait_ready(&["legacy"], super::bench::READY).await.unwrap();
    let (netns, pod) = (bench.cluster.fabric.external.as_str(), bench.ip("back", "echo").await);
    let root = Root::of_mesh(&bench.cluster).await;
    tls_without_the_right_certificate_gets_an_alert(netns, pod, &root).await;
    curl_in_a_pod_outside_the_mesh_hears_why(&bench, pod).await;
    // Once to warm up, so that what is kept for good is not taken for a leak.
    crowd(netns, pod, &root).await;
    let (files, before) = (open_files(&bench), usage(&bench));
    crowd(netns, pod, &root).await;
    slow_handshakes_time_out(netns, pod).await;
    let settled = async || Ok((open_files(&bench) <= files).then_some(()));
    let what = format!("the agent is back at {files} open files");
    bench.cluster.wait_until(&what, Duration::from_secs(5), settled).await.unwrap();
    let grown = usage(&bench).rss_bytes.saturating_sub(before.rss_bytes);
    assert!(grown < GROWTH_BYTES, "the agent grew by {} MiB", grown >> 20);
    // And it serves as before.
    let tunnel = Tunnel::open(netns, pod, root.identify(GOOD)).await;
    assert_eq!(tunnel.connect(&format!("{pod}:7000")).await, StatusCode::OK);
    assert!(!bench.agent(2).process.log().contains("panic"), "{}", bench.cluster.post_mortem());
}

async fn tls_without_the_right_certificate_gets_an_alert(netns: &str, pod: IpAddr, root: &Root) {
    let other_domain = "spiffe://other.domain/ns/good/sa/good";
    for (config, alerts) in [
        (hbone::anonymous(), &["CertificateRequired"][..]),
        (Root::unknown().identify(GOOD), &["UnknownCA", "DecryptError", "BadCertificate"]),
        (root.identify(other_domain), &["CertificateUnknown", "BadCertificate", "AccessDenied"]),
        (root.identify("https://not.spiffe/"), &["CertificateUnknown", "BadCertificate"]),
    ] {
        // The client's part of a TLS 1.3 handshake is done before the server judges it.
        let told = async {
            let mut tls = hbone::secure(netns, pod, config).await?;
            tls.read_u8().await
        };
        let error = tokio::time::timeout(Duration::from_secs(5), told).await.unwrap().unwrap_err();
        let text = error.to_string();
        assert!(alerts.iter().any(|alert| text.contains(alert)), "{alerts:?}: {text}");
    }
}

/// What the tutorial shows at the sidecar's port: `alert certificate required`.
async fn curl_in_a_pod_outside_the_mesh_hears_why(bench: &Bench, pod: IpAddr) {
    let https = format!("exec -n legacy deploy/sleep -- curl -sSk https://{pod}:{HBONE}/");
    let said = bench.kubectl(&https).await;
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.err.contains("certificate required"), "{said:?}");
    let http = format!("http://{pod}:{HBONE}/");
    let started = Instant::now();
    let said = bench.curl(("legacy", "sleep"), &http).await;
    assert!(said.starts_with("exit "), "{said}");
    assert!(started.elapsed() < Duration::from_secs(5), "plain HTTP was kept waiting");
}

/// Many broken peers at once; each is closed soon.
async fn crowd(netns: &str, pod: IpAddr, root: &Root) {
    let at = SocketAddr::new(pod, HBONE);
    let garbage: Vec<u8> =
        (0..4096_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let starts: [&[u8]; 5] = [
        &garbage,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[22, 3, 1, 0xff, 0xff],
        &[0; 64],
    ];
    let broken = starts.iter().flat_map(|start| std::iter::repeat_n(*start, CROWD / 5));
    let broken = broken.map(async |start| {
        let mut tcp = hbone::dial(netns, at).await.unwrap();
        drop(tcp.write_all(start).await);
        drop(tcp.shutdown().await);
        let closed = async { while tcp.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
    });
    let nameless = (0..CROWD).map(async |_| {
        let mut tls = hbone::secure(netns, pod, hbone::anonymous()).await.unwrap();
        assert!(tls.read_u8().await.is_err());
    });
    // Good tunnels, left open by peers that vanish.
    let vanishing = (0..CROWD).map(async |_| {
        let tunnel = Tunnel::open(netns, pod, root.identify(GOOD)).await;
        assert_eq!(tunnel.connect(&format!("{pod}:7000")).await, StatusCode::OK);
    });
    tokio::join!(join_all(broken), join_all(nameless), join_all(vanishing));
}

/// Peers that say nothing, or the first byte of a handshake alone.
async fn slow_handshakes_time_out(netns: &str, pod: IpAddr) {
    let slow = (0..20_u8).map(async |peer| {
        let mut tcp = hbone::dial(netns, SocketAddr::new(pod, HBONE)).await.unwrap();
        let started = Instant::now();
        if peer % 2 == 0 {
            tcp.write_all(&[22]).await.unwrap();
        }
        let closed = async { while tcp.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {} };
        let closed = tokio::time::timeout(HANDSHAKE * 2, closed).await;
        assert!(closed.is_ok(), "a silent peer is kept for ever");
        assert!(started.elapsed() > HANDSHAKE / 2, "{:?} are too few", started.elapsed());
    });
    join_all(slow).await;
}

fn usage(bench: &Bench) -> Usage {
    bench.agent(2).process.usage().unwrap()
}

fn open_files(bench: &Bench) -> usize {
    let pid = bench.agent(2).process.pid().unwrap();
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
