//! What someone between the nodes can read.

use std::net::IpAddr;
use std::time::Duration;

use kit::wire::{Kind, Trace};

use super::bench::Bench;

const CLIENT: (&str, &str) = ("front", "client");

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_enrolled_pods_is_readable_between_the_nodes_however_they_are_addressed() {
    let bench = Bench::streams().await;
    nodes_let_no_stand_in_pass(&bench);
    let ips = bench.ips("back", "web").await;
    assert!(ips.iter().any(IpAddr::is_ipv6) && ips.iter().any(IpAddr::is_ipv4), "{ips:?}");
    let mut places = vec![
        String::from("web.back.svc.cluster.local"),
        String::from("headless.back.svc.cluster.local:8000"),
    ];
    places.extend(ips.iter().map(|ip| format!("{}", std::net::SocketAddr::new(*ip, 8000))));
    for place in &places {
        let (trace, marker) = call(&bench, place).await;
        let readable = trace.reads(marker.as_bytes());
        assert!(!readable, "{place}: the marker is readable");
        let plain: Vec<_> = trace
            .flows
            .iter()
            .filter(|flow| matches!(flow.kind(), Kind::Http | Kind::Other))
            .collect();
        assert!(plain.is_empty(), "{place}: {plain:?}");
        let between = trace.to_port(15008).filter(|flow| flow.kind() == Kind::Tls).count();
        assert!(between > 0, "{place}: nothing crossed the wire: {:?}", trace.flows);
    }
    // The same eyes do see what is not enrolled.
    bench.enrol("back", false).await;
    bench.everyone_knows("back", false).await;
    for place in &places {
        let (trace, marker) = call(&bench, place).await;
        assert!(trace.reads(marker.as_bytes()), "{place}: {:?}", trace.flows);
    }
}

/// The nodes' own networks prohibit the ranges, though the agents have networks of their own.
fn nodes_let_no_stand_in_pass(bench: &Bench) {
    for node in &bench.cluster.nodes {
        for (family, ranges) in
            [("-4", &["127.64.0.0/10", "240.64.0.0/10"][..]), ("-6", &["100::/64"])]
        {
            let mut command = std::process::Command::new("ip");
            command.args(["-n", &node.config.netns, family, "route", "show", "type", "prohibit"]);
            let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
            assert!(ranges.iter().all(|range| shown.contains(range)), "{shown}");
        }
    }
}

/// What the wire shows of a call whose marker comes back in the answer.
async fn call(bench: &Bench, place: &str) -> (Trace, String) {
    let marker = format!("marker-{:016x}", rand::random::<u64>());
    let mark = bench.cluster.wire.mark();
    let url = format!("http://{place}/get?{marker}");
    let answer = bench.cluster.curl(CLIENT.0, CLIENT.1, &url).await.unwrap();
    assert_eq!((answer.exit, answer.status), (0, 200), "{place}: {answer:?}");
    assert!(answer.body.contains(&marker), "{place}: {answer:?}");
    // The capture's thread may be a moment behind.
    tokio::time::sleep(Duration::from_millis(200)).await;
    (bench.cluster.wire.since(mark).unwrap(), marker)
}
