//! Whole lines, as they are written.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;

use super::format::LineFormat;
use super::level::Levels;
use super::*;
use crate::mesh::service::{Families, LoadBalancing, Service, ServiceKey, Visibility};
use crate::mesh::workload::Workload;
use crate::mesh::{MatchedRule, PolicyKey};
use crate::observe::access_log;
use crate::observe::connection::{ConnectionInfo, ConnectionRecord, Outcome, Party, Transferred};
use crate::observe::labels::{Reporter, ResponseFlags};
use crate::observe::metrics::Metrics;
use crate::observe::testing::pod;

struct FixedTime;

impl FormatTime for FixedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        writer.write_str("2026-01-02T03:04:05.000006Z")
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// What `f` logs.
fn logged(format: Format, level: &str, f: impl FnOnce()) -> String {
    let lines = Lines::default();
    let layer = fmt::layer()
        .with_ansi(false)
        .event_format(LineFormat::new(format, FixedTime))
        .with_writer(lines.clone())
        .with_filter(Levels::parse(level).expect("a level").targets());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), f);
    let bytes = lines.0.lock().clone();
    String::from_utf8(bytes).expect("text")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn party(name: &str, at: &str) -> Party {
    let workload = Workload::pod("Kubernetes", "bookinfo", name, name, address(at).ip());
    let workload = workload.expect("a workload");
    let identity = Some(workload.identity.clone());
    Party { workload: Some(Arc::new(workload)), identity, ..Party::at(address(at)) }
}

fn outbound() -> ConnectionInfo {
    ConnectionInfo {
        reporter: Reporter::Source,
        source: party("productpage", "10.244.1.7:40000"),
        destination: party("details", "10.244.2.9:15008"),
        service: Some(Arc::new(Service {
            name: "details".into(),
            key: ServiceKey {
                namespace: "bookinfo".into(),
                hostname: "details.bookinfo.svc.cluster.local".into(),
            },
            vips: vec![],
            cidr_vips: vec![],
            ports: vec![],
            subject_alt_names: vec![],
            waypoint: None,
            weighted_waypoints: vec![],
            load_balancing: LoadBalancing::default(),
            canonical: false,
            families: Families::default(),
            visibility: Visibility::default(),
        })),
        hbone_target: Some("10.244.2.9:9080".into()),
        mutual_tls: true,
    }
}

fn plaintext() -> ConnectionInfo {
    ConnectionInfo {
        reporter: Reporter::Destination,
        source: Party::at(address("10.244.1.8:40000")),
        destination: party("details", "10.244.2.9:9080"),
        service: None,
        hbone_target: None,
        mutual_tls: false,
    }
}

/// The line of a connection that took 12 ms and carried 84 and 358 bytes.
fn line(format: Format, info: &ConnectionInfo, outcome: &Outcome) -> String {
    let bytes = Transferred { from_client_bytes: 84, from_server_bytes: 358 };
    logged(format, "info", || {
        access_log::closed(info, bytes, Duration::from_millis(12), outcome);
    })
}

#[test]
fn a_complete_connection_is_one_line() {
    let expected = concat!(
        "2026-01-02T03:04:05.000006Z\tinfo\taccess\tconnection complete\t",
        "src.addr=10.244.1.7:40000 src.workload=\"productpage\" src.namespace=\"bookinfo\" ",
        "src.identity=\"spiffe://cluster.local/ns/bookinfo/sa/productpage\" ",
        "dst.addr=10.244.2.9:15008 dst.hbone_addr=10.244.2.9:9080 ",
        "dst.service=\"details.bookinfo.svc.cluster.local\" ",
        "dst.workload=\"details\" dst.namespace=\"bookinfo\" ",
        "dst.identity=\"spiffe://cluster.local/ns/bookinfo/sa/details\" ",
        "direction=\"outbound\" bytes_sent=84 bytes_recv=358 duration=\"12ms\"\n",
    );
    assert_eq!(line(Format::Text, &outbound(), &Outcome::Complete), expected);
}

#[test]
fn a_denied_plaintext_connection_names_no_identity_but_the_policy() {
    let key = PolicyKey {
        namespace: "istio-system".into(),
        name: "istio_converted_static_strict".into(),
    };
    let outcome = Outcome::denied(
        format!("explicitly denied by: {key}"),
        Some(MatchedRule { policy: key, rule: Some(2) }),
    );
    let expected = concat!(
        "2026-01-02T03:04:05.000006Z\terror\taccess\tconnection complete\t",
        "src.addr=10.244.1.8:40000 dst.addr=10.244.2.9:9080 ",
        "dst.workload=\"details\" dst.namespace=\"bookinfo\" ",
        "direction=\"inbound\" bytes_sent=358 bytes_recv=84 duration=\"12ms\" ",
        "error=\"connection closed due to policy rejection: explicitly denied by: ",
        "istio-system/istio_converted_static_strict\" ",
        "policy=\"istio-system/istio_converted_static_strict\" rule=2\n",
    );
    assert_eq!(line(Format::Text, &plaintext(), &outcome), expected);
}

#[test]
fn json_has_the_same_keys() {
    let outcome = Outcome::failed(ResponseFlags::Connect, "deadline has elapsed");
    let text = line(Format::Json, &outbound(), &outcome);
    assert_eq!(text.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let expected = serde_json::json!({
        "level": "error",
        "time": "2026-01-02T03:04:05.000006Z",
        "scope": "access",
        "message": "connection complete",
        "src.addr": "10.244.1.7:40000",
        "src.workload": "productpage",
        "src.namespace": "bookinfo",
        "src.identity": "spiffe://cluster.local/ns/bookinfo/sa/productpage",
        "dst.addr": "10.244.2.9:15008",
        "dst.hbone_addr": "10.244.2.9:9080",
        "dst.service": "details.bookinfo.svc.cluster.local",
        "dst.workload": "details",
        "dst.namespace": "bookinfo",
        "dst.identity": "spiffe://cluster.local/ns/bookinfo/sa/details",
        "direction": "outbound",
        "bytes_sent": 84,
        "bytes_recv": 358,
        "duration": "12ms",
        "error": "deadline has elapsed",
    });
    assert_eq!(value, expected);
    assert!(text.starts_with(r#"{"level":"error","time":""#), "{text}");
}

#[test]
fn an_early_failure_is_a_warning() {
    let text = logged(Format::Text, "info", || {
        let (from, to) = (address("10.0.0.1:1"), address("10.0.0.2:2"));
        access_log::connection_failed(
            Reporter::Destination,
            &pod("p"),
            (from, to),
            "no certificate",
        );
    });
    let expected = concat!(
        "2026-01-02T03:04:05.000006Z\twarn\taccess\tconnection failed\t",
        "src.addr=10.0.0.1:1 dst.addr=10.0.0.2:2 direction=\"inbound\" error=\"no certificate\"\n",
    );
    assert_eq!(text, expected);
}

#[test]
fn a_connection_is_logged_once_and_its_opening_only_at_debug() {
    let run = || {
        let metrics = Metrics::new();
        let open = ConnectionRecord::open(&metrics.thread(), outbound());
        open.close(Transferred::default(), &Outcome::Complete);
    };
    let text = logged(Format::Text, "info", run);
    assert_eq!(text.matches("connection complete").count(), 1);
    assert_eq!(text.lines().count(), 1, "{text}");
    let text = logged(Format::Text, "debug", run);
    let opened = text.lines().next().expect("a line");
    assert!(
        opened.contains("\tdebug\taccess\tconnection opened\tsrc.addr=10.244.1.7:40000 "),
        "{opened}"
    );
    assert_eq!(logged(Format::Text, "info,access=off", run), "");
    assert_eq!(logged(Format::Text, "info,access=error", run), "");
}

#[test]
fn other_lines_have_scope_spans_and_fields() {
    let text = logged(Format::Text, "debug", || {
        let span = tracing::info_span!(target: "sotto::connection", "inbound", id = 7);
        let _inside = span.enter();
        tracing::info!(target: "sotto::tunnel", peer = %"10.0.0.1", streams = 3, ok = true, name = "a b", "accepted");
    });
    let expected = concat!(
        "2026-01-02T03:04:05.000006Z\tinfo\ttunnel:inbound{id=7}\taccepted\t",
        "peer=10.0.0.1 streams=3 ok=true name=\"a b\"\n",
    );
    assert_eq!(text, expected);
}

#[test]
fn a_peer_cannot_break_a_line() {
    let text = logged(Format::Text, "info", || {
        tracing::info!(header = %"a\nb\tc\u{1b}[0m", quoted = "d\ne", "x\ny");
    });
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(text.contains(r"x\ny"), "{text}");
    assert!(text.contains(r"header=a\nb\tc\u{1b}[0m"), "{text}");
    assert!(text.contains(r#"quoted="d\ne""#), "{text}");
}

#[test]
fn an_errors_causes_are_told() {
    #[derive(Debug, thiserror::Error)]
    #[error("failed to dial")]
    struct Outer(#[source] io::Error);
    let text = logged(Format::Text, "info", || {
        let error = Outer(io::Error::other("refused"));
        tracing::warn!(error = &error as &(dyn std::error::Error + 'static), "again");
    });
    assert!(text.contains(r#"error="failed to dial: refused""#), "{text}");
}
