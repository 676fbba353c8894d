use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::*;
use crate::mesh::service::{Families, LoadBalancing, Service, ServiceKey, Visibility};
use crate::mesh::workload::Workload;
use crate::mesh::{Account, LocalPod, MatchedRule, PodUid, PolicyKey};
use crate::observe::connection::{ConnectionInfo, ConnectionRecord, Outcome, Party, Transferred};
use crate::observe::log::LostLines;
use crate::observe::node::{
    CertificateStats, LimitStats, Limited, NodeStats, RevocationStats, XdsStats,
};
use crate::observe::roots::RootStats;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn party(name: &str, at: &str, mutual_tls: bool) -> Party {
    let mut workload =
        Workload::pod("Kubernetes", "bookinfo", name, name, address(at).ip()).expect("a workload");
    workload.workload_name = arcstr::format!("{name}-v1");
    workload.canonical_revision = "v1".into();
    workload.locality.region = "eu".into();
    let identity = mutual_tls.then(|| workload.identity.clone());
    Party { workload: Some(Arc::new(workload)), identity, ..Party::at(address(at)) }
}

fn details() -> Arc<Service> {
    Arc::new(Service {
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
    })
}

fn inbound(mutual_tls: bool) -> ConnectionInfo {
    ConnectionInfo {
        reporter: Reporter::Destination,
        source: party("productpage", "10.244.1.7:40000", mutual_tls),
        destination: party("details", "10.244.2.9:15008", mutual_tls),
        service: Some(details()),
        hbone_target: Some("10.244.2.9:9080".into()),
        mutual_tls,
    }
}

/// The one line of a metric, as name and labels, and its value.
fn lines(metrics: &Metrics, name: &str) -> Vec<(String, String)> {
    let text = metrics.encode().expect("text");
    assert!(text.ends_with("# EOF\n"));
    let of_metric = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let split = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        (series.to_owned(), value.to_owned())
    };
    text.lines().filter(of_metric).map(split).collect()
}

#[track_caller]
fn check(metrics: &Metrics, name: &str, expected: &[(&str, &str)]) {
    let got = lines(metrics, name);
    let expected: Vec<_> = expected
        .iter()
        .map(|(labels, value)| (format!("{name}{labels}"), (*value).to_owned()))
        .collect();
    assert_eq!(got, expected);
}

#[track_caller]
fn check_value(metrics: &Metrics, name: &str, expected: &str) {
    let values: Vec<_> = lines(metrics, name).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [expected], "{name}");
}

const INBOUND: &str = concat!(
    "{reporter=\"destination\"",
    ",source_workload=\"productpage-v1\"",
    ",source_canonical_service=\"productpage\"",
    ",source_canonical_revision=\"v1\"",
    ",source_workload_namespace=\"bookinfo\"",
    ",source_principal=\"spiffe://cluster.local/ns/bookinfo/sa/productpage\"",
    ",source_app=\"productpage\"",
    ",source_version=\"v1\"",
    ",source_cluster=\"Kubernetes\"",
    ",destination_service=\"details.bookinfo.svc.cluster.local\"",
    ",destination_service_namespace=\"bookinfo\"",
    ",destination_service_name=\"details\"",
    ",destination_workload=\"details-v1\"",
    ",destination_canonical_service=\"details\"",
    ",destination_canonical_revision=\"v1\"",
    ",destination_workload_namespace=\"bookinfo\"",
    ",destination_principal=\"spiffe://cluster.local/ns/bookinfo/sa/details\"",
    ",destination_app=\"details\"",
    ",destination_version=\"v1\"",
    ",destination_cluster=\"Kubernetes\"",
    ",request_protocol=\"tcp\"",
    ",response_flags=\"-\"",
    ",connection_security_policy=\"mutual_tls\"",
    ",source_region=\"eu\"",
    ",source_zone=\"unknown\"",
    ",destination_region=\"eu\"",
    ",destination_zone=\"unknown\"}",
);

#[test]
fn every_label_of_istio_is_there_with_its_value() {
    let metrics = Metrics::new();
    let _open = ConnectionRecord::open(&metrics.thread(), inbound(true));
    check(&metrics, "istio_tcp_connections_opened_total", &[(INBOUND, "1")]);
    check(&metrics, "istio_tcp_connections_closed_total", &[(INBOUND, "0")]);
    check(&metrics, "istio_tcp_received_bytes_total", &[(INBOUND, "0")]);
    check(&metrics, "istio_tcp_sent_bytes_total", &[(INBOUND, "0")]);
}

#[test]
fn a_plaintext_clients_principal_is_unknown_the_servers_is_known() {
    let metrics = Metrics::new();
    let _open = ConnectionRecord::open(&metrics.thread(), inbound(false));
    let (series, _) = lines(&metrics, "istio_tcp_connections_opened_total").remove(0);
    assert!(series.contains(r#"source_principal="unknown""#), "{series}");
    assert!(series.contains(r#"connection_security_policy="unknown""#), "{series}");
    assert!(
        series.contains(r#"destination_principal="spiffe://cluster.local/ns/bookinfo/sa/details""#)
    );
}

#[test]
fn what_nobody_knows_is_unknown_and_never_missing() {
    let metrics = Metrics::new();
    let info = ConnectionInfo {
        reporter: Reporter::Source,
        source: Party::at(address("10.0.0.1:1")),
        destination: Party::at(address("192.0.2.1:443")),
        service: None,
        hbone_target: None,
        mutual_tls: false,
    };
    let _open = ConnectionRecord::open(&metrics.thread(), info);
    let (series, _) = lines(&metrics, "istio_tcp_sent_bytes_total").remove(0);
    assert_eq!(series.matches("=\"unknown\"").count(), 24, "{series}");
    assert_eq!(series.matches("=\"").count(), 27, "{series}");
}

#[test]
fn a_pod_the_mesh_does_not_know_yet_is_told_by_the_node() {
    let metrics = Metrics::new();
    let mut info = inbound(true);
    info.destination.workload = None;
    info.destination.local = Some(Arc::new(LocalPod {
        uid: PodUid("u".into()),
        namespace: "bookinfo".into(),
        name: "details-abc".into(),
        account: Account::new("bookinfo", "details").expect("an account"),
        ip4: None,
        ip6: None,
        exclusions: Default::default(),
    }));
    let _open = ConnectionRecord::open(&metrics.thread(), info);
    let (series, _) = lines(&metrics, "istio_tcp_connections_opened_total").remove(0);
    assert!(series.contains(r#"destination_workload="details-abc""#), "{series}");
    assert!(series.contains(r#"destination_workload_namespace="bookinfo""#), "{series}");
}

#[test]
fn bytes_are_counted_while_the_connection_is_open() {
    let metrics = Metrics::new();
    let mut open = ConnectionRecord::open(&metrics.thread(), inbound(true));
    open.transferred(Transferred { from_client_bytes: 100, from_server_bytes: 1000 });
    check_value(&metrics, "istio_tcp_received_bytes_total", "100");
    check_value(&metrics, "istio_tcp_sent_bytes_total", "1000");
    open.transferred(Transferred { from_client_bytes: 150, from_server_bytes: 900 });
    check_value(&metrics, "istio_tcp_received_bytes_total", "150");
    check_value(&metrics, "istio_tcp_sent_bytes_total", "1000");
    let total = Transferred { from_client_bytes: 160, from_server_bytes: 1001 };
    open.close(total, &Outcome::Complete);
    check_value(&metrics, "istio_tcp_received_bytes_total", "160");
    check_value(&metrics, "istio_tcp_sent_bytes_total", "1001");
    check_value(&metrics, "istio_tcp_connections_closed_total", "1");
}

#[test]
fn the_request_is_received_and_the_response_sent_on_the_source_side_too() {
    let metrics = Metrics::new();
    let info = ConnectionInfo { reporter: Reporter::Source, ..inbound(true) };
    let open = ConnectionRecord::open(&metrics.thread(), info);
    let total = Transferred { from_client_bytes: 1, from_server_bytes: 2 };
    open.close(total, &Outcome::Complete);
    check_value(&metrics, "istio_tcp_received_bytes_total", "1");
    check_value(&metrics, "istio_tcp_sent_bytes_total", "2");
}

#[test]
fn failures_are_counted_by_their_flags() {
    let metrics = Metrics::new();
    let thread = metrics.thread();
    for flags in [ResponseFlags::Connect, ResponseFlags::Connect, ResponseFlags::TlsFailure] {
        let outcome = Outcome::failed(flags, "why");
        ConnectionRecord::open(&thread, inbound(true)).close(Transferred::default(), &outcome);
    }
    let denied = Outcome::denied("explicitly denied by: a/b", None);
    ConnectionRecord::open(&thread, inbound(true)).close(Transferred::default(), &denied);
    let with = |flags: &str| INBOUND.replace("\"-\"", &format!("\"{flags}\""));
    check(
        &metrics,
        "istio_tcp_connections_failed_total",
        &[(&with("DENY"), "1"), (&with("CONNECT"), "2"), (&with("TLS_FAILURE"), "1")],
    );
    check_value(&metrics, "istio_tcp_connections_opened_total", "4");
    check_value(&metrics, "istio_tcp_connections_closed_total", "4");
}

#[test]
fn denials_name_the_policy_and_its_rule_and_stay_few() {
    let metrics = Metrics::new();
    let thread = metrics.thread();
    let deny = |name: &str, rule: Option<usize>| {
        let policy = PolicyKey { namespace: "a".into(), name: name.into() };
        let denied = Outcome::denied("no", Some(MatchedRule { policy, rule }));
        ConnectionRecord::open(&thread, inbound(true)).close(Transferred::default(), &denied);
    };
    deny("b", Some(2));
    deny("b", Some(2));
    deny("b", None);
    let name = "istio_tcp_connections_failed_total";
    let bare = INBOUND.replace("\"-\"", "\"DENY\"");
    let by = |more: &str| bare.replace("}", &format!(",{more}}}"));
    let (known, unknown) = (by("policy=\"a/b\",rule=\"2\""), by("policy=\"a/b\""));
    check(&metrics, name, &[(&unknown, "1"), (&known, "2")]);
    (0..40).for_each(|rule| deny("many", Some(rule)));
    let rest = lines(&metrics, name);
    assert_eq!(rest.len(), 17);
    let total: u64 = rest.iter().map(|(_, value)| value.parse::<u64>().expect("a count")).sum();
    assert_eq!(total, 43);
}

#[test]
fn every_flag_has_istios_name() {
    let names = ResponseFlags::ALL.map(ResponseFlags::as_str);
    let expected = [
        "-",
        "DENY",
        "CONNECT",
        "TLS_FAILURE",
        "H2_HANDSHAKE_FAILURE",
        "NETWORK_POLICY",
        "IDENTITY_ERROR",
    ];
    assert_eq!(names, expected);
    assert!(ResponseFlags::ALL.iter().enumerate().all(|(i, flags)| flags.index() == i));
}

#[test]
fn open_sockets_are_told_by_reporter() {
    let metrics = Metrics::new();
    let (one, two) = (metrics.thread(), metrics.thread());
    let first = ConnectionRecord::open(&one, inbound(true));
    let _second = ConnectionRecord::open(&two, inbound(true));
    let name = "istio_tcp_sockets_open";
    check(&metrics, name, &[("{reporter=\"source\"}", "0"), ("{reporter=\"destination\"}", "2")]);
    first.close(Transferred::default(), &Outcome::Complete);
    check(&metrics, name, &[("{reporter=\"source\"}", "0"), ("{reporter=\"destination\"}", "1")]);
}

#[test]
fn threads_count_into_one_series() {
    let metrics = Metrics::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let thread = metrics.thread();
                for _ in 0..100 {
                    let open = ConnectionRecord::open(&thread, inbound(true));
                    open.close(Transferred::default(), &Outcome::Complete);
                }
            });
        }
    });
    check(&metrics, "istio_tcp_connections_opened_total", &[(INBOUND, "400")]);
    check(&metrics, "istio_tcp_connections_closed_total", &[(INBOUND, "400")]);
}

#[test]
fn a_connection_that_is_let_go_of_is_closed_all_the_same() {
    let metrics = Metrics::new();
    drop(ConnectionRecord::open(&metrics.thread(), inbound(true)));
    check_value(&metrics, "istio_tcp_connections_closed_total", "1");
    check_value(&metrics, "istio_tcp_connections_failed_total", "1");
}

#[test]
fn the_nodes_state_is_asked_for_at_each_scrape() {
    let metrics = Metrics::new();
    check(&metrics, "sotto_xds_connected", &[]);
    metrics.thread().tunnels_of_old_root(2);
    metrics.thread().tunnels_of_old_root(1);
    check(&metrics, "sotto_tunnels_of_old_root", &[("", "3")]);
    metrics.set_node_source(|| NodeStats {
        proxies: (5, 2),
        kernel_connections: vec![("direct", 7), ("refused", 1)],
        certificates: vec![
            CertificateStats {
                identity: "spiffe://a/ns/b/sa/c".to_owned(),
                not_after: SystemTime::now()
                    + Duration::from_secs(3600)
                    + Duration::from_millis(900),
            },
            CertificateStats {
                identity: "spiffe://a/ns/b/sa/old".to_owned(),
                not_after: SystemTime::UNIX_EPOCH,
            },
        ],
        roots: vec![RootStats {
            fingerprint: "ab".to_owned(),
            trusting: 3,
            signed: 2,
            not_after: SystemTime::UNIX_EPOCH,
        }],
        pods: vec![("captured", 3), ("pending", 1)],
        kubelet: vec![("exempt", 0), ("absent", 1)],
        xds: XdsStats {
            connected: true,
            messages: vec![("type/Address".to_owned(), 12)],
            bytes: vec![("type/Address".to_owned(), 345)],
            terminations: vec![("error", 2)],
            rejections: vec![("type/Authorization".to_owned(), 1)],
        },
        tunnels: vec![("outbound", 4)],
        limits: LimitStats {
            connections: Limited { now: 3, most: 9, refused: 1 },
            waiting_bytes: Limited { now: 4, most: 8, refused: 2 },
            descriptors: 77,
            open_descriptors: 7,
        },
        revocations: RevocationStats {
            lists: 6,
            failing: true,
            servers_rejected: 7,
            clients_rejected: 8,
        },
        log_lines: LostLines { dropped: 5, suppressed: 6 },
    });
    check(&metrics, "sotto_connections_direct_total", &[("", "7")]);
    check(&metrics, "sotto_connections_refused_total", &[("", "1")]);
    check(&metrics, "sotto_pods", &[("{state=\"captured\"}", "3"), ("{state=\"pending\"}", "1")]);
    check(&metrics, "workload_manager_active_proxy_count", &[("", "3")]);
    check(&metrics, "workload_manager_pending_proxy_count", &[("", "1")]);
    check(&metrics, "workload_manager_proxies_started_total", &[("", "5")]);
    check(&metrics, "workload_manager_proxies_stopped_total", &[("", "2")]);
    check(&metrics, "istio_xds_message_bytes_total", &[("{url=\"type/Address\"}", "345")]);
    let kubelet = [("{state=\"exempt\"}", "0"), ("{state=\"absent\"}", "1")];
    check(&metrics, "sotto_kubelet", &kubelet);
    check(&metrics, "sotto_root_trusting", &[("{root=\"ab\"}", "3")]);
    check(&metrics, "sotto_root_signed", &[("{root=\"ab\"}", "2")]);
    check(&metrics, "sotto_revocation_lists", &[("", "6")]);
    check(&metrics, "sotto_revocation_failing", &[("", "1")]);
    let rejected = [("{reporter=\"source\"}", "7"), ("{reporter=\"destination\"}", "8")];
    check(&metrics, "istio_crl_policy_rejections_total", &rejected);
    let both = ["{what=\"connections\"}", "{what=\"waiting_bytes\"}"];
    check(&metrics, "sotto_limited", &[(both[0], "3"), (both[1], "4")]);
    check(&metrics, "process_open_fds", &[("", "7")]);
    check(&metrics, "process_max_fds", &[("", "77")]);
    let descriptors = "{what=\"descriptors\"}";
    check(&metrics, "sotto_limits", &[(both[0], "9"), (both[1], "8"), (descriptors, "77")]);
    check(&metrics, "sotto_over_limit_total", &[(both[0], "1"), (both[1], "2")]);
    check(&metrics, "sotto_xds_connected", &[("", "1")]);
    check(&metrics, "istio_xds_message_total", &[("{url=\"type/Address\"}", "12")]);
    check(&metrics, "sotto_xds_rejections_total", &[("{url=\"type/Authorization\"}", "1")]);
    check(&metrics, "istio_xds_connection_terminations_total", &[("{reason=\"error\"}", "2")]);
    check(&metrics, "sotto_tunnels_open", &[("{direction=\"outbound\"}", "4")]);
    check(&metrics, "sotto_log_lines_dropped_total", &[("", "5")]);
    check(&metrics, "sotto_log_lines_suppressed_total", &[("", "6")]);
    let expiry = lines(&metrics, "istio_cert_expiry_seconds");
    assert_eq!(
        expiry[0],
        (
            "istio_cert_expiry_seconds{identity=\"spiffe://a/ns/b/sa/c\"}".to_owned(),
            "3600.0".to_owned()
        )
    );
    assert!(expiry[1].1.starts_with('-'), "{expiry:?}");
}

#[test]
fn what_was_built_is_told() {
    let metrics = Metrics::new();
    let labels = format!("{{component=\"ztunnel\",tag=\"sotto-{}\"}}", env!("CARGO_PKG_VERSION"));
    check(&metrics, "istio_build", &[(&labels, "1")]);
    check(&metrics, "sotto_metric_sets_dropped_total", &[("", "0")]);
}
