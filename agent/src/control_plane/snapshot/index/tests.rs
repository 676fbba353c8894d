use std::net::IpAddr;

use sotto_proto::workload::{
    Address, NetworkMode, Service as WireService, TunnelProtocol, Workload, WorkloadStatus,
    WorkloadType, address::Type,
};

use super::*;
use crate::control_plane::model::{
    Distribution, Endpoint, Families, Labels, Mode, Owner, PeerAuthentication, Rules, ServicePort,
    TargetPort,
};

fn settings() -> Settings {
    Settings {
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn details() -> Pod {
    Pod {
        key: ObjectKey::new("bookinfo", "details-v1-abc-x"),
        uid: "u1".into(),
        addresses: vec![ip("10.244.1.2"), ip("fd00:10:244:1::2")],
        labels: labels(&[("app", "details"), ("version", "v1"), ("pod-template-hash", "abc")]),
        service_account: "bookinfo-details".into(),
        node: "n1".into(),
        host_network: false,
        ready: true,
        leaving: false,
        terminal: false,
        redirected: true,
        owner: Some(Owner { kind: "ReplicaSet".to_owned(), name: "details-v1-abc".to_owned() }),
        ports: BTreeMap::from([("http".to_owned(), 9080)]),
    }
}

fn details_service() -> Service {
    Service {
        key: ObjectKey::new("bookinfo", "details"),
        selector: Some(labels(&[("app", "details")])),
        addresses: vec![ip("10.96.0.7"), ip("fd00:10:96::7")],
        ports: vec![
            ServicePort {
                name: "http".to_owned(),
                port: 80,
                target: TargetPort::Name("http".to_owned()),
            },
            ServicePort { name: "admin".to_owned(), port: 81, target: TargetPort::Number(9081) },
            ServicePort {
                name: "none".to_owned(),
                port: 82,
                target: TargetPort::Name("none".to_owned()),
            },
        ],
        balancers: Vec::new(),
        families: Families::Dual,
        publish_not_ready: false,
        node_local: false,
        distribution: Distribution::Any,
        sticky: false,
    }
}

fn strict(namespace: &str, name: &str) -> PeerAuthentication {
    PeerAuthentication {
        key: ObjectKey::new(namespace, name),
        created: 0,
        selector: Selector::All,
        mode: Mode::Strict,
        ports: BTreeMap::new(),
    }
}

fn index(events: impl IntoIterator<Item = Event>) -> Index {
    let mut index = Index::new(settings());
    for event in events {
        index.apply(event);
    }
    index
}

fn pod(pod: Pod) -> Event {
    Event::Pod(Change::Apply(pod))
}

fn service(service: Service) -> Event {
    Event::Service(Change::Apply(service))
}

fn peer(policy: PeerAuthentication) -> Event {
    Event::PeerAuthentication(Change::Apply(policy))
}

fn decoded(snapshot: &Snapshot, name: &str) -> Type {
    let entry = snapshot.addresses.get(name).unwrap_or_else(|| panic!("{name} is not there"));
    Address::decode(&*entry.body).unwrap().r#type.unwrap()
}

fn workload(snapshot: &Snapshot, name: &str) -> Workload {
    match decoded(snapshot, name) {
        Type::Workload(workload) => workload,
        Type::Service(service) => panic!("{name} is a service: {service:?}"),
    }
}

fn wire_service(snapshot: &Snapshot, name: &str) -> WireService {
    match decoded(snapshot, name) {
        Type::Service(service) => service,
        Type::Workload(workload) => panic!("{name} is a workload: {workload:?}"),
    }
}

fn names(resources: &Resources) -> Vec<&str> {
    resources.keys().map(ArcStr::as_str).collect()
}

const DETAILS: &str = "Kubernetes//Pod/bookinfo/details-v1-abc-x";
const DETAILS_SERVICE: &str = "bookinfo/details.bookinfo.svc.cluster.local";

fn port_pairs(workload: &Workload, service: &str) -> Vec<(u32, u32)> {
    let list = workload.services.get(service).map(|list| list.ports.clone()).unwrap_or_default();
    list.iter().map(|port| (port.service_port, port.target_port)).collect()
}

#[test]
fn a_pod_is_a_workload() {
    let snapshot = index([pod(details()), service(details_service())]).snapshot();
    let mut found = workload(&snapshot, DETAILS);
    assert_eq!(port_pairs(&found, DETAILS_SERVICE), [(80, 9080), (81, 9081)]);
    found.services.clear();
    let expected = Workload {
        uid: DETAILS.to_owned(),
        name: "details-v1-abc-x".to_owned(),
        namespace: "bookinfo".to_owned(),
        addresses: vec![
            vec![10, 244, 1, 2],
            "fd00:10:244:1::2".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec(),
        ],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        service_account: "bookinfo-details".to_owned(),
        node: "n1".to_owned(),
        canonical_name: "details".to_owned(),
        canonical_revision: "v1".to_owned(),
        workload_type: WorkloadType::Deployment.into(),
        workload_name: "details-v1".to_owned(),
        status: WorkloadStatus::Healthy.into(),
        cluster_id: "Kubernetes".to_owned(),
        network_mode: NetworkMode::Standard.into(),
        ..Workload::default()
    };
    assert_eq!(found, expected);
}

#[test]
fn another_trust_domain_is_told() {
    let mut index = Index::new(Settings { trust_domain: "td".into(), ..settings() });
    index.apply(pod(details()));
    assert_eq!(workload(&index.snapshot(), DETAILS).trust_domain, "td");
}

#[test]
fn hbone_is_for_redirected_pods_and_those_that_speak_it() {
    let told = |redirected: bool, pairs: &[(&str, &str)]| {
        let it = Pod { redirected, labels: labels(pairs), ..details() };
        let found = workload(&index([pod(it)]).snapshot(), DETAILS);
        (found.tunnel_protocol(), found.native_tunnel)
    };
    let tunnel = [("networking.istio.io/tunnel", "http")];
    assert_eq!(told(false, &[]), (TunnelProtocol::None, false));
    assert_eq!(told(true, &[]), (TunnelProtocol::Hbone, false));
    assert_eq!(told(false, &tunnel), (TunnelProtocol::Hbone, true));
    assert_eq!(told(false, &[("networking.istio.io/tunnel", "no")]), (TunnelProtocol::None, false));
}

#[test]
fn a_pod_without_address_or_past_its_end_is_not_told() {
    let pending = Pod { addresses: Vec::new(), ..details() };
    let ended = Pod { terminal: true, ..details() };
    for pod_ in [pending, ended] {
        let snapshot = index([pod(pod_)]).snapshot();
        assert!(snapshot.addresses.is_empty());
        assert!(snapshot.runs(&"n1".into(), &"bookinfo".into(), &"bookinfo-details".into()));
    }
}

#[test]
fn health_and_host_network_are_told() {
    let it = Pod { ready: false, host_network: true, ..details() };
    let found = workload(&index([pod(it)]).snapshot(), DETAILS);
    assert_eq!(found.status(), WorkloadStatus::Unhealthy);
    assert_eq!(found.network_mode(), NetworkMode::HostNetwork);
}

#[test]
fn what_made_a_pod_is_named() {
    let named = |kind: &str, name: &str| {
        let owner = Some(Owner { kind: kind.to_owned(), name: name.to_owned() });
        let it = Pod { owner, labels: labels(&[("pod-template-hash", "abc")]), ..details() };
        let found = workload(&index([pod(it)]).snapshot(), DETAILS);
        assert_eq!(found.canonical_name, found.workload_name);
        assert_eq!(found.canonical_revision, "latest");
        (found.workload_type(), found.workload_name)
    };
    let is = |kind, name: &str| (kind, name.to_owned());
    assert_eq!(named("ReplicaSet", "web-abc"), is(WorkloadType::Deployment, "web"));
    assert_eq!(named("ReplicaSet", "web"), is(WorkloadType::Pod, "web"));
    assert_eq!(named("StatefulSet", "db"), is(WorkloadType::Pod, "db"));
    assert_eq!(named("Job", "backup-28712345"), is(WorkloadType::Cronjob, "backup"));
    assert_eq!(named("Job", "once"), is(WorkloadType::Job, "once"));
    let bare = Pod { owner: None, labels: Labels::new(), ..details() };
    let found = workload(&index([pod(bare)]).snapshot(), DETAILS);
    assert_eq!(found.workload_name, "details-v1-abc-x");
}

#[test]
fn a_service_is_told_with_and_without_endpoints() {
    let found = wire_service(&index([service(details_service())]).snapshot(), DETAILS_SERVICE);
    assert_eq!(found.name, "details");
    assert_eq!(found.hostname, "details.bookinfo.svc.cluster.local");
    let addresses: Vec<_> = found.addresses.iter().map(|a| a.address.len()).collect();
    assert_eq!(addresses, [4, 16]);
    let ports: Vec<_> = found.ports.iter().map(|p| (p.service_port, p.target_port)).collect();
    assert_eq!(ports, [(80, 0), (81, 9081), (82, 0)]);
    assert_eq!(found.ip_families(), sotto_proto::workload::IpFamilies::Dual);
    assert!(found.canonical);
    assert_eq!(found.load_balancing, None);
}

#[test]
fn a_headless_service_has_no_address() {
    let headless = Service { addresses: Vec::new(), ..details_service() };
    let snapshot = index([pod(details()), service(headless)]).snapshot();
    assert!(wire_service(&snapshot, DETAILS_SERVICE).addresses.is_empty());
    assert!(workload(&snapshot, DETAILS).services.contains_key(DETAILS_SERVICE));
}

#[test]
fn a_service_s_wishes_for_its_endpoints_are_told() {
    use sotto_proto::workload::load_balancing::{HealthPolicy, Mode, Scope};
    let it = Service { publish_not_ready: true, node_local: true, ..details_service() };
    let found = wire_service(&index([service(it)]).snapshot(), DETAILS_SERVICE);
    let balancing = found.load_balancing.unwrap();
    assert_eq!(balancing.health_policy(), HealthPolicy::AllowAll);
    assert_eq!(balancing.mode(), Mode::Strict);
    assert_eq!(balancing.routing_preference, [i32::from(Scope::Node)]);
}

fn slice(endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        key: ObjectKey::new("bookinfo", "details-manual"),
        service: "details".into(),
        endpoints,
        ports: BTreeMap::from([("http".to_owned(), 7000)]),
        managed: false,
    }
}

fn endpoint(address: &str, pod: Option<&str>) -> Endpoint {
    Endpoint {
        addresses: vec![ip(address)],
        ready: true,
        serving: true,
        leaving: false,
        pod: pod.map(|name| ObjectKey::new("bookinfo", name)),
        node: ArcStr::new(),
    }
}

const OUTSIDE: &str = "Kubernetes/discovery.k8s.io/EndpointSlice/bookinfo/details-manual/192.0.2.1";

#[test]
fn an_endpoint_without_a_pod_is_a_workload_without_identity() {
    let made = slice(vec![endpoint("192.0.2.1", None), endpoint("10.244.1.2", Some("p"))]);
    let mut index = index([service(details_service()), Event::Slice(Change::Apply(made.clone()))]);
    let snapshot = index.snapshot();
    assert_eq!(names(&snapshot.addresses), [OUTSIDE, DETAILS_SERVICE]);
    let found = workload(&snapshot, OUTSIDE);
    assert_eq!(found.network_mode(), NetworkMode::HostNetwork);
    assert_eq!(found.tunnel_protocol(), TunnelProtocol::None);
    assert_eq!(found.service_account, "");
    assert_eq!(port_pairs(&found, DETAILS_SERVICE), [(80, 7000)]);

    index.apply(Event::Slice(Change::Apply(slice(vec![endpoint("192.0.2.2", None)]))));
    let moved = index.snapshot();
    assert!(!moved.addresses.contains_key(OUTSIDE));
    assert_eq!(moved.addresses.len(), 2);
    index.apply(Event::Slice(Change::Delete(made.key)));
    assert_eq!(names(&index.snapshot().addresses), [DETAILS_SERVICE]);
}

#[test]
fn a_service_without_selector_has_the_pods_its_slices_name() {
    let manual = Service { selector: None, ..details_service() };
    let made = slice(vec![endpoint("10.244.1.2", Some("details-v1-abc-x"))]);
    let mut index =
        index([pod(details()), service(manual), Event::Slice(Change::Apply(made.clone()))]);
    let told =
        |index: &mut Index| port_pairs(&workload(&index.snapshot(), DETAILS), DETAILS_SERVICE);
    assert_eq!(told(&mut index), [(80, 7000)]);
    index.apply(Event::Slice(Change::Delete(made.key)));
    assert_eq!(told(&mut index), []);
}

#[test]
fn modes_change_workloads_not_policies() {
    let mut index = index([pod(details())]);
    let before = index.snapshot();
    assert!(before.authorizations.is_empty());
    index.apply(peer(strict("bookinfo", "default")));
    let after = index.snapshot();
    let policy = "istio-system/istio_converted_static_strict";
    assert_eq!(names(&after.authorizations), [policy]);
    assert_eq!(workload(&after, DETAILS).authorization_policies, [policy]);
    index.apply(peer(PeerAuthentication {
        mode: Mode::Permissive,
        ..strict("bookinfo", "default")
    }));
    let permissive = index.snapshot();
    assert_eq!(permissive.authorizations, after.authorizations);
    assert_eq!(permissive.addresses, before.addresses);
}

#[test]
fn what_is_sent_does_not_depend_on_what_was_there_before() {
    let closed = |selector: Selector| AuthorizationPolicy {
        key: ObjectKey::new("bookinfo", "p"),
        selector,
        rules: Some(Rules::closed()),
    };
    let access = |policy| Event::AuthorizationPolicy(Change::Apply(policy));
    let good = AuthorizationPolicy { rules: None, ..closed(Selector::All) };
    let unreadable =
        PeerAuthentication { selector: Selector::Unreadable, ..strict("bookinfo", "default") };
    for selector in
        [Selector::All, Selector::Labels(labels(&[("app", "details")])), Selector::Unreadable]
    {
        let last = [access(closed(selector)), peer(unreadable.clone())];
        let fresh = index([pod(details())].into_iter().chain(last.clone())).snapshot();
        let before = [pod(details()), access(good.clone()), peer(strict("bookinfo", "default"))];
        let mut old = index(before);
        old.snapshot();
        last.into_iter().for_each(|event| old.apply(event));
        let old = old.snapshot();
        assert_eq!(old.addresses, fresh.addresses);
        assert_eq!(old.authorizations, fresh.authorizations);
        assert!(old.authorizations.contains_key("bookinfo/p"));
        assert!(
            workload(&old, DETAILS).authorization_policies.iter().any(|p| p.ends_with("strict"))
        );
    }
}

#[test]
fn selector_policies_are_listed_sorted_then_the_converted_one() {
    let policy = |namespace: &str, name: &str, selector: Option<&str>| {
        let rules = Rules {
            action: sotto_proto::security::Action::Deny,
            groups: Vec::new(),
            dry_run: false,
        };
        Event::AuthorizationPolicy(Change::Apply(AuthorizationPolicy {
            key: ObjectKey::new(namespace, name),
            selector: selector
                .map_or(Selector::All, |app| Selector::Labels(labels(&[("app", app)]))),
            rules: Some(rules),
        }))
    };
    let mut index = index([
        pod(details()),
        peer(strict("bookinfo", "default")),
        policy("istio-system", "root", Some("details")),
        policy("bookinfo", "own", Some("details")),
        policy("bookinfo", "other", Some("reviews")),
        policy("bookinfo", "all", None),
        policy("elsewhere", "own", Some("details")),
    ]);
    let snapshot = index.snapshot();
    assert_eq!(
        workload(&snapshot, DETAILS).authorization_policies,
        ["bookinfo/own", "istio-system/root", "istio-system/istio_converted_static_strict"]
    );
    assert_eq!(snapshot.authorizations.len(), 6);
    index.apply(Event::AuthorizationPolicy(Change::Delete(ObjectKey::new("bookinfo", "own"))));
    let fewer = index.snapshot();
    assert_eq!(workload(&fewer, DETAILS).authorization_policies.len(), 2);
    assert!(!fewer.authorizations.contains_key("bookinfo/own"));
}

#[test]
fn complete_when_every_kind_is_listed() {
    fn none<R>() -> Change<R> {
        Change::Replace(Vec::new())
    }
    let lists = [
        Event::Pod(none()),
        Event::Service(none()),
        Event::Slice(none()),
        Event::Node(none()),
        Event::PeerAuthentication(none()),
        Event::AuthorizationPolicy(none()),
    ];
    let mut index = index([pod(details())]);
    for list in lists {
        assert!(!index.complete());
        index.apply(list);
    }
    assert!(index.complete());
    assert!(index.snapshot().addresses.is_empty(), "the list does not have the pod");
}

#[test]
fn identities_are_counted_by_node() {
    let on = |name: &str, node: &str| {
        pod(Pod { key: ObjectKey::new("bookinfo", name), node: node.into(), ..details() })
    };
    let mut index = index([on("a", "n1"), on("b", "n1")]);
    let runs = |index: &mut Index, node: &str| {
        index.snapshot().runs(&node.into(), &"bookinfo".into(), &"bookinfo-details".into())
    };
    assert!(runs(&mut index, "n1") && !runs(&mut index, "n2"));
    index.apply(Event::Pod(Change::Delete(ObjectKey::new("bookinfo", "a"))));
    assert!(runs(&mut index, "n1"));
    index.apply(on("b", "n2"));
    assert!(!runs(&mut index, "n1") && runs(&mut index, "n2"));
    index.apply(Event::Pod(Change::Delete(ObjectKey::new("bookinfo", "b"))));
    assert!(!runs(&mut index, "n2"));
    assert!(index.snapshot().pods.is_empty());
}

/// Records in any order, some replaced and some deleted, give what a fresh index gives.
#[test]
fn increments_add_up_to_the_whole() {
    let other = Pod {
        key: ObjectKey::new("bookinfo", "reviews-x"),
        labels: labels(&[("app", "reviews")]),
        ..details()
    };
    let manual =
        Service { key: ObjectKey::new("bookinfo", "manual"), selector: None, ..details_service() };
    let made = Slice {
        service: "manual".into(),
        ..slice(vec![endpoint("192.0.2.1", None), endpoint("10.244.1.2", Some("reviews-x"))])
    };
    let moved = Service { selector: Some(labels(&[("app", "reviews")])), ..details_service() };
    let last = [
        peer(strict("bookinfo", "default")),
        Event::Slice(Change::Apply(made.clone())),
        pod(other.clone()),
        service(manual.clone()),
        service(moved.clone()),
        pod(details()),
    ];
    let whole = index(last.clone()).snapshot();
    for seed in 0..last.len() {
        let mut order = last.to_vec();
        order.rotate_left(seed);
        let mut index = index([
            service(details_service()),
            pod(Pod { labels: labels(&[("app", "details")]), ..other.clone() }),
            peer(strict("istio-system", "m")),
        ]);
        for event in order {
            index.apply(event);
            index.snapshot();
        }
        index.apply(Event::PeerAuthentication(Change::Delete(ObjectKey::new("istio-system", "m"))));
        let found = index.snapshot();
        assert_eq!(found.addresses, whole.addresses, "rotated by {seed}");
        assert_eq!(found.authorizations, whole.authorizations, "rotated by {seed}");
    }
}

#[test]
fn an_unchanged_object_changes_no_version() {
    let mut one = index([pod(details()), service(details_service())]);
    let before = one.snapshot();
    one.apply(pod(details()));
    let relisted = Change::Replace(vec![details_service()]);
    one.apply(Event::Service(relisted));
    let after = one.snapshot();
    assert_eq!(before.addresses.diff(&after.addresses).count(), 0);
    let replica = index([service(details_service()), pod(details())]).snapshot();
    assert_eq!(replica.addresses, before.addresses, "versions are the same on every replica");
}

mod levels;
