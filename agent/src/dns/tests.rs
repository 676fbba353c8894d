//! Which names the mesh answers, for whom, and what is on the wire.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::mesh::local::Exclusions;
use crate::mesh::service::{Families, LoadBalancing, Port, Visibility};
use crate::mesh::{
    Account, Mesh, MeshEvent, NetworkAddress, PodUid, Service, ServiceKey, Store, Workload,
};

const DOMAIN: &str = "cluster.local";

/// A pod of the namespace `shop`, of both families.
fn pod() -> LocalPod {
    LocalPod {
        uid: PodUid("uid".into()),
        namespace: "shop".into(),
        name: "web".into(),
        account: Account::new("shop", "web").unwrap(),
        ip4: Some([10, 0, 0, 1].into()),
        ip6: Some("fd00::1".parse().unwrap()),
        exclusions: Exclusions::default(),
    }
}

fn service(namespace: &str, hostname: &str, vips: &[&str]) -> Service {
    let vip = |ip: &&str| NetworkAddress::new("", ip.parse().unwrap());
    Service {
        name: hostname.into(),
        key: ServiceKey { namespace: namespace.into(), hostname: hostname.into() },
        vips: vips.iter().map(vip).collect(),
        cidr_vips: vec![],
        ports: vec![Port { service_port: 80, target_port: None }],
        subject_alt_names: vec![],
        waypoint: None,
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing::default(),
        canonical: false,
        families: Families::Any,
        visibility: Visibility::Public,
    }
}

fn kubernetes(name: &str, namespace: &str, vips: &[&str]) -> Service {
    let hostname = format!("{name}.{namespace}.svc.{DOMAIN}");
    Service { canonical: true, ..service(namespace, &hostname, vips) }
}

fn endpoint(name: &str, of: &Service, addresses: &[&str], healthy: bool) -> Workload {
    let ip = addresses[0].parse().unwrap();
    let mut workload = Workload::pod("c", "shop", name, "sa", ip).unwrap();
    workload.addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    workload.services.insert(of.key.clone(), vec![]);
    workload.healthy = healthy;
    workload
}

fn mesh(services: &[Service], workloads: &[Workload]) -> Arc<Mesh> {
    let (mut store, reader) = Store::new();
    let workloads = workloads.iter().cloned().map(Arc::new).map(MeshEvent::Workload);
    let services = services.iter().cloned().map(Arc::new).map(MeshEvent::Service);
    store.apply(workloads.chain(services));
    reader.load()
}

/// What a pod is answered: the addresses in order, after the alias and `=` if there is one.
fn told(mesh: &Mesh, pod: &LocalPod, name: &str, is_v4: bool) -> Option<String> {
    let network = "".into();
    let client = Client { pod, network: &network, domain: DOMAIN };
    let mut answer = lookup(mesh, &client, name, is_v4, &mut rand::rng())?;
    answer.addresses.sort_unstable();
    let all: Vec<_> = answer.addresses.iter().map(IpAddr::to_string).collect();
    let alias = answer.alias.map(|alias| format!("{alias}=")).unwrap_or_default();
    Some(format!("{alias}{}", all.join(",")))
}

#[track_caller]
fn check(mesh: &Mesh, name: &str, expected: Option<&str>) {
    assert_eq!(told(mesh, &pod(), name, true).as_deref(), expected, "{name}");
}

#[test]
fn a_service_of_kubernetes_is_known_by_all_its_names() {
    let mesh = mesh(&[kubernetes("cart", "shop", &["10.96.0.1"])], &[]);
    for name in ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local"] {
        check(&mesh, name, Some("10.96.0.1"));
    }
    check(
        &mesh,
        "cart.shop.svc.cluster.local.shop.svc.cluster.local",
        Some("cart.shop.svc.cluster.local=10.96.0.1"),
    );
    check(&mesh, "cart.svc.cluster.local", Some("cart=10.96.0.1"));
    check(&mesh, "cart.cluster.local", Some("cart=10.96.0.1"));
    check(&mesh, "cart.other", None);
    check(&mesh, "other", None);
    check(&mesh, "", None);
}

#[test]
fn an_entry_is_known_by_its_name_and_with_a_search_domain() {
    let mesh = mesh(&[service("egress", "api.example.com", &["240.240.0.1", "2001:2::1"])], &[]);
    check(&mesh, "api.example.com", Some("240.240.0.1"));
    let searched = "api.example.com.shop.svc.cluster.local";
    check(&mesh, searched, Some("api.example.com=240.240.0.1"));
    assert_eq!(told(&mesh, &pod(), "api.example.com", false).as_deref(), Some("2001:2::1"));
    check(&mesh, "www.example.com", None);
    check(&mesh, "example.com", None);
}

#[test]
fn the_narrowest_wildcard_is_meant_and_needs_no_alias() {
    let entries = [
        service("egress", "*.example.com", &["240.240.0.1"]),
        service("egress", "*.eu.example.com", &["240.240.0.2"]),
        service("egress", "api.eu.example.com", &["240.240.0.3"]),
    ];
    let mesh = mesh(&entries, &[]);
    check(&mesh, "www.example.com", Some("240.240.0.1"));
    check(&mesh, "a.b.example.com", Some("240.240.0.1"));
    check(&mesh, "www.eu.example.com", Some("240.240.0.2"));
    check(&mesh, "api.eu.example.com", Some("240.240.0.3"));
    check(&mesh, "example.com", None);
    check(&mesh, "www.example.com.svc.cluster.local", Some("240.240.0.1"));
}

#[test]
fn of_entries_of_one_name_the_pods_own_namespace_counts_then_the_canonical_one() {
    let name = "api.example.com";
    let mut all = vec![service("a", name, &["240.240.0.1"]), service("b", name, &["240.240.0.2"])];
    check(&mesh(&all, &[]), name, Some("240.240.0.1"));
    all[1].canonical = true;
    check(&mesh(&all, &[]), name, Some("240.240.0.2"));
    all.push(service("shop", name, &["240.240.0.3"]));
    check(&mesh(&all, &[]), name, Some("240.240.0.3"));
}

#[test]
fn what_is_for_its_own_namespace_is_unknown_elsewhere() {
    let name = "api.example.com";
    let hidden = |namespace| Service {
        visibility: Visibility::Namespace,
        ..service(namespace, name, &["240.240.0.1"])
    };
    check(&mesh(&[hidden("egress")], &[]), name, None);
    check(&mesh(&[hidden("shop")], &[]), name, Some("240.240.0.1"));
    let other = service("other", name, &["240.240.0.2"]);
    check(&mesh(&[hidden("egress"), other], &[]), name, Some("240.240.0.2"));
}

#[test]
fn an_entry_without_an_address_of_its_own_is_its_resolvers_to_answer() {
    check(&mesh(&[service("egress", "api.example.com", &[])], &[]), "api.example.com", None);
}

#[test]
fn a_headless_service_has_the_addresses_of_those_that_are_ready() {
    let mut headless = kubernetes("db", "shop", &[]);
    let endpoints = |of: &Service| {
        [
            endpoint("db-0", of, &["10.0.1.1", "fd00::11"], true),
            endpoint("db-1", of, &["10.0.1.2", "fd00::12"], true),
            endpoint("db-2", of, &["10.0.1.3", "fd00::13"], false),
        ]
    };
    let both = mesh(&[headless.clone()], &endpoints(&headless));
    check(&both, "db.shop", Some("10.0.1.1,10.0.1.2"));
    assert_eq!(told(&both, &pod(), "db.shop", false).as_deref(), Some("fd00::11,fd00::12"));
    headless.load_balancing.allow_unhealthy = true;
    headless.families = Families::Ip4;
    let ip4 = mesh(&[headless.clone()], &endpoints(&headless));
    check(&ip4, "db.shop", Some("10.0.1.1,10.0.1.2,10.0.1.3"));
    assert_eq!(told(&ip4, &pod(), "db.shop", false).as_deref(), Some(""));
    // Nobody is there, or it stands for something that is none of the mesh's.
    check(&mesh(&[headless], &[]), "db.shop", None);
}

#[test]
fn addresses_are_of_the_pods_network_and_families() {
    let mut both = kubernetes("cart", "shop", &["10.96.0.1", "fd96::1"]);
    both.vips.push(NetworkAddress::new("elsewhere", [10, 96, 0, 9].into()));
    let mesh = mesh(&[both], &[]);
    check(&mesh, "cart", Some("10.96.0.1"));
    let only4 = LocalPod { ip6: None, ..pod() };
    assert_eq!(told(&mesh, &only4, "cart", false).as_deref(), Some(""));
    assert_eq!(told(&mesh, &only4, "cart", true).as_deref(), Some("10.96.0.1"));
    let only6 = LocalPod { ip4: None, ..pod() };
    assert_eq!(told(&mesh, &only6, "cart", true).as_deref(), Some(""));
}

// === the wire ===

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn parse(message: &Message) -> Option<Question> {
    Question::parse(&message.to_vec().unwrap())
}

fn addresses(count: u16) -> Answer {
    let ip = |n: u16| IpAddr::from([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
    Answer { alias: None, addresses: (0..count).map(ip).collect() }
}

#[test]
fn questions_for_addresses_alone_are_the_meshs() {
    assert_eq!(parse(&query("Api.Example.COM.", RecordType::A)).unwrap().name(), "api.example.com");
    assert!(!parse(&query("a.", RecordType::AAAA)).unwrap().is_v4());
    for kind in [RecordType::TXT, RecordType::SRV, RecordType::HTTPS, RecordType::ANY] {
        assert!(parse(&query("a.", kind)).is_none(), "{kind}");
    }
    let mut other = query("a.", RecordType::A);
    other.metadata.op_code = OpCode::Update;
    assert!(parse(&other).is_none());
    let mut other = query("a.", RecordType::A);
    other.metadata.message_type = MessageType::Response;
    assert!(parse(&other).is_none());
    let mut other = query("a.", RecordType::A);
    other.add_query(Query::query(Name::from_ascii("b.").unwrap(), RecordType::A));
    assert!(parse(&other).is_none());
    let mut other = query("a.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    other.set_edns(edns);
    assert!(parse(&other).is_none());
}

#[test]
fn an_answer_repeats_the_question_and_names_what_was_meant() {
    let question = parse(&query("Api.Shop.", RecordType::A)).unwrap();
    let answer = Answer { alias: Some("api".into()), ..addresses(1) };
    let bytes = question.answer(&answer, Transport::Datagram).unwrap();
    let message = Message::from_vec(&bytes).unwrap();
    let metadata = message.metadata;
    assert_eq!((metadata.id, metadata.response_code), (77, ResponseCode::NoError));
    assert!(metadata.authoritative && metadata.recursion_available && metadata.recursion_desired);
    assert!(!metadata.truncation);
    assert_eq!(message.queries[0].name().to_ascii(), "Api.Shop.");
    let answers: Vec<_> = message.answers.iter().map(ToString::to_string).collect();
    assert_eq!(answers, ["Api.Shop. 30 IN CNAME api.", "api. 30 IN A 10.0.0.0"]);
    assert!(message.edns.is_none());
    let nothing = question.answer(&addresses(0), Transport::Datagram).unwrap();
    assert!(Message::from_vec(&nothing).unwrap().answers.is_empty());
}

#[test]
fn an_answer_is_as_long_as_may_be_and_says_if_that_is_not_all() {
    let check = |room: Option<u16>, transport, expected: (usize, bool)| {
        let mut asked = query("db.shop.svc.cluster.local.", RecordType::A);
        if let Some(room) = room {
            let mut edns = Edns::new();
            edns.set_max_payload(room);
            asked.set_edns(edns);
        }
        let bytes = parse(&asked).unwrap().answer(&addresses(300), transport).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        let most =
            if transport == Transport::Stream { 65_535 } else { room.unwrap_or(512).max(512) };
        assert!(bytes.len() <= usize::from(most), "{room:?}: {}", bytes.len());
        assert_eq!((message.answers.len(), message.metadata.truncation), expected, "{room:?}");
        assert_eq!(message.edns.is_some(), room.is_some());
    };
    check(None, Transport::Datagram, (29, true));
    check(Some(100), Transport::Datagram, (28, true));
    check(Some(1232), Transport::Datagram, (73, true));
    // Not all names are written short.
    check(Some(65_000), Transport::Datagram, (171, true));
    check(None, Transport::Stream, (300, false));
}

#[test]
fn a_failure_is_told_of_questions_alone() {
    let asked = query("a.", RecordType::TXT);
    let told = Message::from_vec(&failure(&asked.to_vec().unwrap()).unwrap()).unwrap();
    assert_eq!((told.metadata.id, told.metadata.response_code), (77, ResponseCode::ServFail));
    assert_eq!(told.queries, asked.queries);
    assert_eq!(failure(&told.to_vec().unwrap()), None);
    assert_eq!(failure(b"nonsense"), None);
}

#[test]
fn an_answer_is_a_response_of_the_same_number() {
    let (asked, told) =
        (query("a.", RecordType::A), failure(&query("a.", RecordType::A).to_vec().unwrap()));
    let (asked, told) = (asked.to_vec().unwrap(), told.unwrap());
    assert!(is_answer(&asked, &told));
    assert!(!is_answer(&asked, &asked));
    assert!(!is_answer(&asked, &told[..11]));
    assert!(!is_answer(&[1, 2], &told));
}

proptest! {
    #[test]
    fn no_bytes_do_any_harm(bytes in vec(any::<u8>(), 0..600)) {
        let question = Question::parse(&bytes);
        if let Some(question) = question {
            prop_assert!(question.answer(&addresses(3), Transport::Datagram).is_some());
        }
        failure(&bytes);
        is_answer(&bytes, &bytes);
    }

    /// Questions that mostly make sense, with some bytes changed.
    #[test]
    fn a_question_that_is_read_is_answered_within_its_room(
        labels in vec("[a-zA-Z0-9_]{1,20}", 1..6),
        room in proptest::option::of(any::<u16>()),
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3),
        count in 0..400_u16,
    ) {
        let mut asked = query(&format!("{}.", labels.join(".")), RecordType::A);
        if let Some(room) = room {
            let mut edns = Edns::new();
            edns.set_max_payload(room);
            asked.set_edns(edns);
        }
        let mut bytes = asked.to_vec().unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(question) = Question::parse(&bytes) {
            let answer = question.answer(&addresses(count), Transport::Datagram).unwrap();
            let message = Message::from_vec(&answer).unwrap();
            prop_assert!(answer.len() <= 4096);
            prop_assert_eq!(&bytes[..2], &answer[..2]);
            prop_assert!(message.metadata.truncation || message.answers.len() == usize::from(count));
            let mut all = message.answers.iter();
            let is_address = all.all(|record| matches!(record.data, RData::A(_)));
            prop_assert!(is_address);
        }
    }
}
