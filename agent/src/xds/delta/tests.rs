//! The protocol against a server that holds a set of resources.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;
use prost_types::Any;
use sotto_proto::ads::Resource;
use sotto_proto::{security, workload as proto};

use super::*;
use crate::mesh::policy::PolicyScope;

const ROOT: &str = "istio-system";

fn any(kind: ResourceKind, message: &impl Message) -> Any {
    Any { type_url: type_url(kind).to_owned(), value: message.encode_to_vec() }
}

/// What the server may hold under a name: a workload, a service or a policy, told apart by it.
fn resource(name: &str, version: u32) -> Resource {
    let (kind, message) = if let Some(uid) = name.strip_prefix("uid:") {
        let workload = proto::Workload {
            uid: format!("uid:{uid}"),
            namespace: "ns".into(),
            // The version shows in the content.
            node: version.to_string(),
            ..Default::default()
        };
        let address = proto::Address { r#type: Some(proto::address::Type::Workload(workload)) };
        (ResourceKind::Address, any(ResourceKind::Address, &address))
    } else {
        let (namespace, hostname) = name.split_once('/').unwrap();
        let service = proto::Service {
            name: version.to_string(),
            namespace: namespace.into(),
            hostname: hostname.into(),
            ..Default::default()
        };
        let address = proto::Address { r#type: Some(proto::address::Type::Service(service)) };
        (ResourceKind::Address, any(ResourceKind::Address, &address))
    };
    assert_eq!(kind, ResourceKind::Address);
    Resource {
        name: name.into(),
        version: version.to_string(),
        resource: Some(message),
        aliases: vec![],
    }
}

/// A resource under `name` that no client can take.
fn bad(name: &str, version: u32) -> Resource {
    let mut resource = resource(name, version);
    resource.resource = Some(Any { type_url: ADDRESS_TYPE.into(), value: vec![0xff] });
    resource
}

fn policy(name: &str, action: i32) -> Resource {
    let (namespace, plain) = name.split_once('/').unwrap();
    let policy = security::Authorization {
        name: plain.into(),
        namespace: namespace.into(),
        action,
        ..Default::default()
    };
    let resource = Some(any(ResourceKind::Authorization, &policy));
    Resource { name: name.into(), resource, ..Default::default() }
}

fn response(resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ADDRESS_TYPE.into(),
        nonce: "n1".into(),
        resources: resources.iter().map(Resource::encoded).collect(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// What a client that only follows events holds, by name, as the version in the content.
#[derive(Debug, Default, PartialEq)]
struct Follower(BTreeMap<String, String>);

impl Follower {
    fn follow(&mut self, events: Vec<MeshEvent>) {
        for event in events {
            match event {
                MeshEvent::Workload(w) => {
                    drop(self.0.insert(w.uid.to_string(), w.node.to_string()))
                }
                MeshEvent::Service(s) => drop(self.0.insert(s.key.to_string(), s.name.to_string())),
                MeshEvent::Policy(p) => drop(self.0.insert(p.key.to_string(), String::new())),
                MeshEvent::RemoveWorkload(uid) => drop(self.0.remove(&uid.to_string())),
                MeshEvent::RemoveService(key) => drop(self.0.remove(&key.to_string())),
                MeshEvent::UnreadablePolicy(key, _) => panic!("{key}"),
                MeshEvent::UnreadableAddress(name, _) => panic!("{name}"),
                MeshEvent::RemoveUnreadableAddress(name) => panic!("{name}"),
                MeshEvent::RemovePolicy(key) => drop(self.0.remove(&key.to_string())),
            }
        }
    }
}

#[test]
fn the_first_request_subscribes_to_everything_and_says_who_asks() {
    let state = DeltaState::new(ResourceKind::Authorization, ROOT);
    let node =
        Node { id: "ztunnel~1.2.3.4~p.ns~ns.svc.cluster.local".into(), ..Default::default() };
    let expected = DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: AUTHORIZATION_TYPE.into(),
        ..Default::default()
    };
    assert_eq!(state.initial_request(&node), expected);
}

#[test]
fn a_good_response_is_acknowledged_by_its_nonce() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let handled = state.on_response(&response(vec![resource("uid:a", 1)], &[]));
    let expected = DeltaDiscoveryRequest {
        type_url: ADDRESS_TYPE.into(),
        response_nonce: "n1".into(),
        ..Default::default()
    };
    assert_eq!(handled.reply, Ok(expected));
    assert_eq!((handled.events.len(), handled.held, handled.rejected.len()), (1, 1, 0));
}

#[test]
fn a_bad_resource_is_named_and_the_others_are_taken() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let all = vec![resource("uid:a", 1), bad("uid:b", 1), resource("ns/host", 1)];
    let handled = state.on_response(&response(all, &[]));
    assert!(handled.settled.is_empty(), "nothing was rejected before");
    let detail = handled.reply.clone().unwrap().error_detail.unwrap();
    assert_eq!(detail.code, INVALID_ARGUMENT);
    assert!(detail.message.starts_with("uid:b: malformed message: "), "{}", detail.message);
    let held = state.initial_request(&Node::default()).initial_resource_versions;
    assert!(held.contains_key("uid:a") && !held.contains_key("uid:b"));
}

#[test]
fn a_rejected_version_of_an_address_leaves_the_last_good_one() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    state.on_response(&response(vec![resource("uid:a", 1)], &[]));
    let handled = state.on_response(&response(vec![bad("uid:a", 2)], &[]));
    assert_eq!((handled.events.len(), handled.held), (0, 1));
    assert_eq!(handled.rejected[0].instead, Instead::LastGood);
    // Still held, so its removal is still learnt.
    let handled = state.on_response(&response(vec![], &["uid:a"]));
    assert_eq!(handled.held, 0);
    assert!(matches!(handled.events[..], [MeshEvent::RemoveWorkload(_)]));
}

#[test]
fn what_is_no_resource_is_not_acknowledged_and_what_was_before_it_is_held_as_it_was_taken() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    state.remember(&response(vec![resource("uid:old", 1)], &[])).unwrap();
    let mut broken = response(vec![resource("uid:a", 1), resource("uid:b", 1)], &[]);
    broken.resources.insert(1, bytes::Bytes::from_static(&[0xff]));
    let handled = state.on_response(&broken);
    assert!(handled.reply.is_err());
    let [MeshEvent::Workload(a)] = &handled.events[..] else { panic!("{:?}", handled.events) };
    assert_eq!((a.uid.to_string(), handled.held), ("uid:a".to_owned(), 1));
    let held = state.initial_request(&Node::default()).initial_resource_versions;
    assert_eq!(held.into_keys().collect::<Vec<_>>(), ["uid:a"]);
    // What was remembered is still in doubt.
    let events = state.on_response(&response(vec![], &[])).events;
    assert!(events.contains(&MeshEvent::RemoveWorkload(WorkloadUid("uid:old".into()))));
}

/// A workload or a service with an address, under a name; `port` is one of a service's.
fn addressed(name: &str, address: [u8; 4], port: u32) -> Resource {
    let (namespace, hostname) = name.split_once('/').unwrap();
    let service = proto::Service {
        name: hostname.into(),
        namespace: namespace.into(),
        hostname: hostname.into(),
        addresses: vec![proto::NetworkAddress { address: address.to_vec(), ..Default::default() }],
        ports: vec![proto::Port { service_port: port, ..Default::default() }],
        ..Default::default()
    };
    let address = proto::Address { r#type: Some(proto::address::Type::Service(service)) };
    let resource = Some(any(ResourceKind::Address, &address));
    Resource { name: name.into(), resource, ..Default::default() }
}

fn told(name: &str, range: &str) -> MeshEvent {
    MeshEvent::UnreadableAddress(name.into(), [("".into(), range.parse().unwrap())].into())
}

#[test]
fn the_addresses_of_what_cannot_be_read_are_told_until_it_can_or_goes() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let forgotten = MeshEvent::RemoveUnreadableAddress("ns/host".into());
    let broken = || addressed("ns/host", [10, 0, 0, 1], 70_000);
    let handled = state.on_response(&response(vec![broken()], &[]));
    assert_eq!(handled.events, [told("ns/host", "10.0.0.1/32")]);
    assert_eq!((handled.rejected[0].instead, handled.held), (Instead::Refused, 0));
    // Asked for again, whatever its version is.
    let asked = state.initial_request(&Node::default()).initial_resource_versions;
    assert_eq!(asked.get("ns/host"), Some(&String::new()));

    let handled = state.on_response(&response(vec![addressed("ns/host", [10, 0, 0, 1], 80)], &[]));
    let MeshEvent::Service(_) = &handled.events[1] else { panic!("{:?}", handled.events) };
    assert_eq!((&handled.events[0], handled.events.len()), (&forgotten, 2));

    // An earlier version serves, and a new address of it is not unknown.
    let moved = addressed("ns/host", [10, 0, 0, 2], 70_000);
    let handled = state.on_response(&response(vec![moved], &[]));
    assert_eq!(handled.events, [told("ns/host", "10.0.0.2/32")]);
    assert_eq!((handled.rejected[0].instead, handled.held), (Instead::LastGood, 1));
    let handled = state.on_response(&response(vec![], &["ns/host"]));
    assert!(matches!(handled.events[..], [MeshEvent::RemoveService(_), _]));
    assert_eq!(handled.events[1], forgotten);
}

#[test]
fn a_pod_that_shares_its_nodes_address_closes_nothing_when_it_cannot_be_read() {
    let workload = |network_mode: proto::NetworkMode| {
        let workload = proto::Workload {
            uid: "uid:a".into(),
            addresses: vec![vec![10, 0, 0, 1], vec![1]],
            network_mode: network_mode.into(),
            ..Default::default()
        };
        let address = proto::Address { r#type: Some(proto::address::Type::Workload(workload)) };
        let resource = Some(any(ResourceKind::Address, &address));
        Resource { name: "uid:a".into(), resource, ..Default::default() }
    };
    let check = |mode, expected: &[MeshEvent], instead| {
        let mut state = DeltaState::new(ResourceKind::Address, ROOT);
        let handled = state.on_response(&response(vec![workload(mode)], &[]));
        assert_eq!((handled.events.as_slice(), handled.rejected[0].instead), (expected, instead));
    };
    check(proto::NetworkMode::HostNetwork, &[], Instead::Nothing);
    check(proto::NetworkMode::Standard, &[told("uid:a", "10.0.0.1/32")], Instead::Refused);
}

/// An agent that has been restarted since has no earlier version: the nodes would differ, and one that holds the earlier
/// version would let in whom the edit was to keep out.
#[test]
fn a_policy_edited_into_one_that_cannot_be_read_closes_as_if_it_were_new() {
    let mut state = DeltaState::new(ResourceKind::Authorization, ROOT);
    state.on_response(&response(vec![policy("ns/p", 1)], &[]));
    let handled = state.on_response(&response(vec![policy("ns/p", 7)], &[]));
    let closed = MeshEvent::UnreadablePolicy(key("ns", "p"), PolicyScope::Global);
    assert_eq!(handled.events, [MeshEvent::RemovePolicy(key("ns", "p")), closed]);
    assert_eq!((handled.held, handled.rejected[0].instead), (0, Instead::DenyAll));
    assert_eq!(
        handled.reply.clone().unwrap().error_detail.unwrap().message,
        "ns/p: action 7 is not supported"
    );
    let handled = state.on_response(&response(vec![], &["ns/p"]));
    assert_eq!(handled.events, [MeshEvent::RemovePolicy(key("ns", "p"))]);
}

fn unreadable(name: &str) -> Resource {
    let resource = Some(Any { type_url: AUTHORIZATION_TYPE.into(), value: vec![0xff] });
    Resource { name: name.into(), resource, ..Default::default() }
}

fn key(namespace: &str, name: &str) -> PolicyKey {
    PolicyKey { namespace: namespace.into(), name: name.into() }
}

/// What a policy that never could be read comes to.
fn check_unreadable(resource: Resource, expected: &[MeshEvent], instead: Instead) {
    let mut state = DeltaState::new(ResourceKind::Authorization, ROOT);
    let handled = state.on_response(&response(vec![resource], &[]));
    assert_eq!((handled.events.as_slice(), handled.held), (expected, 0));
    assert_eq!(handled.rejected[0].instead, instead);
    assert!(handled.reply.clone().unwrap().error_detail.is_some());
}

#[test]
fn a_policy_that_cannot_be_read_is_told_in_its_scope_or_that_of_its_namespace() {
    let check = |resource: Resource, namespace: &str, name: &str, scope| {
        let told = MeshEvent::UnreadablePolicy(key(namespace, name), scope);
        check_unreadable(resource, &[told], Instead::DenyAll);
    };
    let scoped = |name: &str, scope: security::Scope, action| {
        let (namespace, plain) = name.split_once('/').unwrap();
        let policy = security::Authorization {
            name: plain.into(),
            namespace: namespace.into(),
            scope: scope.into(),
            action,
            ..Default::default()
        };
        let resource = Some(any(ResourceKind::Authorization, &policy));
        Resource { name: name.into(), resource, ..Default::default() }
    };
    check(scoped("ns/p", security::Scope::Namespace, 7), "ns", "p", PolicyScope::Namespace);
    check(scoped("ns/p", security::Scope::Global, 7), "ns", "p", PolicyScope::Global);
    let selector = security::Scope::WorkloadSelector;
    check(scoped("ns/p", selector, 7), "ns", "p", PolicyScope::WorkloadSelector);
    // Bytes that say nothing.
    check(unreadable("ns/p"), "ns", "p", PolicyScope::Namespace);
    check(unreadable("istio-system/p"), "istio-system", "p", PolicyScope::Global);
    check(unreadable("p"), "", "p", PolicyScope::Global);
    // Content that is another policy's says nothing of this one.
    let other = Resource { name: "ns/p".into(), ..scoped("a/b", selector, 0) };
    check(other, "ns", "p", PolicyScope::Namespace);
    let foreign = Any { type_url: ADDRESS_TYPE.into(), value: vec![] };
    let foreign = Resource { resource: Some(foreign), ..unreadable("ns/p") };
    check(foreign, "ns", "p", PolicyScope::Namespace);
    check(Resource { resource: None, ..unreadable("ns/p") }, "ns", "p", PolicyScope::Namespace);
}

#[test]
fn a_dry_run_that_cannot_be_read_denies_nothing() {
    let dry = security::Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        action: 7,
        dry_run: true,
        ..Default::default()
    };
    let resource = Some(any(ResourceKind::Authorization, &dry));
    let resource = Resource { resource, ..unreadable("ns/p") };
    check_unreadable(resource.clone(), &[], Instead::Nothing);
    // An enforced one that becomes such is enforced no more.
    let mut state = DeltaState::new(ResourceKind::Authorization, ROOT);
    state.on_response(&response(vec![policy("ns/p", 1)], &[]));
    let handled = state.on_response(&response(vec![resource], &[]));
    assert_eq!(handled.events, [MeshEvent::RemovePolicy(key("ns", "p"))]);
    assert_eq!((handled.held, handled.rejected[0].instead), (0, Instead::Nothing));
}

#[test]
fn an_address_that_cannot_be_read_is_left_out() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let handled = state.on_response(&response(vec![bad("uid:a", 1)], &[]));
    assert_eq!((handled.events, handled.rejected[0].instead), (vec![], Instead::Nothing));
}

#[test]
fn a_policy_that_could_not_be_read_ends_when_it_is_mended_or_removed() {
    let mut state = DeltaState::new(ResourceKind::Authorization, ROOT);
    let names =
        |state: &DeltaState| state.initial_request(&Node::default()).initial_resource_versions;
    state.on_response(&response(vec![unreadable("ns/p")], &[]));
    // A new stream names it, so that a removal meanwhile is learnt.
    assert_eq!(names(&state), [("ns/p".to_owned(), String::new())].into());
    let removed = state.on_response(&response(vec![], &["ns/p"]));
    assert_eq!(removed.events, [MeshEvent::RemovePolicy(key("ns", "p"))]);
    assert_eq!(names(&state).len(), 0);
    state.on_response(&response(vec![unreadable("ns/p")], &[]));
    let mended = state.on_response(&response(vec![policy("ns/p", 1)], &[]));
    let [MeshEvent::RemovePolicy(gone), MeshEvent::Policy(came)] = &mended.events[..] else {
        panic!("{:?}", mended.events);
    };
    assert_eq!((gone, &came.key), (&key("ns", "p"), &key("ns", "p")));
}

#[test]
fn a_name_that_is_not_the_contents_is_rejected() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let mut wrong = resource("uid:a", 1);
    wrong.name = "uid:b".into();
    let handled = state.on_response(&response(vec![wrong], &[]));
    assert_eq!(
        handled.reply.clone().unwrap().error_detail.unwrap().message,
        "uid:b: content is \"uid:a\""
    );
    assert_eq!(handled.events, []);
}

#[test]
fn the_removal_of_an_unknown_name_is_legal() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let handled = state.on_response(&response(vec![], &["uid:never"]));
    assert_eq!((handled.events, handled.reply.clone().unwrap().error_detail), (vec![], None));
}

#[test]
fn a_long_list_of_rejections_is_cut_short() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let all = (0..100).map(|n| bad(&format!("uid:{n}"), 1)).collect();
    let message =
        state.on_response(&response(all, &[])).reply.clone().unwrap().error_detail.unwrap().message;
    assert!(message.ends_with("; and 80 more"), "{message}");
}

const NAMES: [&str; 5] = ["uid:a", "uid:b", "uid:c", "ns/host", "other/host"];

/// What happens at the server.
#[derive(Debug, Clone)]
enum Step {
    Set(&'static str, u32),
    /// A version that the client will reject; the server keeps its good one.
    Spoil(&'static str),
    Remove(&'static str),
    /// What changed is pushed, so many resources at a time.
    Push(usize),
    /// The stream breaks; what was not pushed is told on the next one.
    Reconnect,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (select(&NAMES[..]), 0..50_u32).prop_map(|(name, version)| Step::Set(name, version)),
        1 => select(&NAMES[..]).prop_map(Step::Spoil),
        3 => select(&NAMES[..]).prop_map(Step::Remove),
        3 => (1..4_usize).prop_map(Step::Push),
        1 => Just(Step::Reconnect),
    ]
}

/// A server that pushes differences between what it holds and what it believes the client holds.
#[derive(Default)]
struct Server {
    holds: BTreeMap<&'static str, u32>,
    told: BTreeMap<String, String>,
    spoilt: Vec<&'static str>,
}

impl Server {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Set(name, version) => drop(self.holds.insert(name, *version)),
            Step::Remove(name) => drop(self.holds.remove(name)),
            Step::Spoil(name) => self.spoilt.push(name),
            Step::Push(_) | Step::Reconnect => {}
        }
    }

    /// At most `size` resources; nothing when all is told.
    fn push(&mut self, size: usize) -> Option<DeltaDiscoveryResponse> {
        let changed = self.holds.iter().filter(|(name, version)| {
            self.told.get(**name).is_none_or(|told| *told != version.to_string())
        });
        let changed: Vec<_> = changed.take(size).map(|(name, v)| (*name, *v)).collect();
        let gone = self.told.keys().filter(|name| !self.holds.contains_key(name.as_str()));
        let gone: Vec<_> = gone.take(size).cloned().collect();
        let spoilt: Vec<_> = self.spoilt.drain(..).map(|name| bad(name, 99)).collect();
        if changed.is_empty() && gone.is_empty() && spoilt.is_empty() {
            return None;
        }
        gone.iter().for_each(|name| drop(self.told.remove(name)));
        let good = changed.into_iter().map(|(name, version)| {
            self.told.insert(name.to_owned(), version.to_string());
            resource(name, version)
        });
        let resources = spoilt.into_iter().chain(good).collect();
        let gone: Vec<_> = gone.iter().map(String::as_str).collect();
        Some(response(resources, &gone))
    }
}

proptest! {
    #[test]
    fn what_is_held_is_what_the_server_holds(steps in vec(any_step(), 0..60)) {
        let mut server = Server::default();
        let mut state = DeltaState::new(ResourceKind::Address, ROOT);
        let mut follower = Follower::default();
        for step in steps.iter().chain([&Step::Push(2)]) {
            server.step(step);
            match step {
                Step::Push(size) => {
                    while let Some(response) = server.push(*size) {
                        follower.follow(state.on_response(&response).events);
                    }
                    let held = server.holds.iter();
                    let held = held.map(|(name, v)| ((*name).to_owned(), v.to_string())).collect();
                    prop_assert_eq!(&follower, &Follower(held));
                }
                Step::Reconnect => {
                    let versions = state.initial_request(&Node::default());
                    server.told = versions.initial_resource_versions.into_iter().collect();
                    prop_assert_eq!(&server.told, &follower.0);
                }
                Step::Set(..) | Step::Spoil(_) | Step::Remove(_) => {}
            }
        }
    }
}

#[test]
fn what_is_remembered_goes_with_the_first_response_that_lacks_it() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let response = |resources: Vec<Resource>| DeltaDiscoveryResponse {
        type_url: ADDRESS_TYPE.into(),
        resources: resources.iter().map(Resource::encoded).collect(),
        ..Default::default()
    };
    let before = vec![resource("uid:a", 1), resource("uid:b", 1), resource("uid:c", 1)];
    assert_eq!(state.remember(&response(before)).unwrap().len(), 3);
    let asked = state.initial_request(&Node::default());
    assert!(asked.initial_resource_versions.is_empty(), "all of it is to be told anew");
    // One that cannot be taken is not held, and its removal would never be told.
    let handled = state.on_response(&response(vec![resource("uid:a", 2), bad("uid:b", 2)]));
    let mut gone: Vec<_> = handled
        .events
        .into_iter()
        .filter_map(|event| match event {
            MeshEvent::RemoveWorkload(uid) => Some(uid.to_string()),
            _ => None,
        })
        .collect();
    gone.sort();
    assert_eq!(gone, ["uid:b", "uid:c"]);
    assert!(state.on_response(&response(vec![])).events.is_empty(), "once");
}

#[test]
fn what_could_not_be_read_before_is_forgotten_once_it_can_be() {
    let mut state = DeltaState::new(ResourceKind::Address, ROOT);
    let before = vec![addressed("ns/a", [10, 0, 0, 1], 0), addressed("ns/b", [10, 0, 0, 2], 0)];
    let known = [told("ns/a", "10.0.0.1/32"), told("ns/b", "10.0.0.2/32")];
    assert_eq!(state.remember(&response(before, &[])).unwrap(), known);
    let now = vec![addressed("ns/a", [10, 0, 0, 1], 80), addressed("ns/b", [10, 0, 0, 2], 0)];
    let mut events = state.on_response(&response(now, &[])).events;
    assert_eq!(events.pop(), Some(MeshEvent::RemoveUnreadableAddress("ns/a".into())));
    assert!(matches!(&events[0], MeshEvent::Service(_)));
    assert_eq!(events[1..], [told("ns/b", "10.0.0.2/32")]);
}
