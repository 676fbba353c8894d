use std::collections::HashMap;

use sotto_proto::ads::Status;

use super::*;

/// A resource set: name and version.
fn resources(pairs: &[(&str, &str)]) -> Resources {
    let entry = |version: &str| Entry { version: version.into(), body: Arc::from(*b"body") };
    pairs.iter().map(|(name, version)| (ArcStr::from(*name), entry(version))).collect()
}

fn snapshot(addresses: &[(&str, &str)], policies: &[(&str, &str)]) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        addresses: resources(addresses),
        authorizations: resources(policies),
        ..Snapshot::default()
    })
}

fn subscription(kind: Kind, held: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let held = held.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        initial_resource_versions: held.collect::<HashMap<_, _>>(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A node that follows; what it is told, as `Address +a=1 -b`.
#[derive(Default)]
struct Node {
    session: Session,
    unanswered: Vec<DeltaDiscoveryResponse>,
}

impl Node {
    fn subscribed(kinds: &[Kind]) -> Self {
        let mut node = Self::default();
        for kind in kinds {
            node.session.heard(subscription(*kind, &[])).unwrap();
        }
        node
    }

    fn told(&mut self, snapshot: &Arc<Snapshot>) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(push) = self.session.next(snapshot) {
            let mut text = push.kind.name().to_owned();
            let response = push.response();
            for resource in &response.decoded().unwrap() {
                text += &format!(" +{}={}", resource.name, resource.version);
            }
            for name in &response.removed_resources {
                text += &format!(" -{name}");
            }
            told.push(text);
            self.unanswered.push(response);
        }
        told
    }

    fn answer(&mut self) {
        for response in std::mem::take(&mut self.unanswered) {
            assert!(matches!(self.session.heard(answer(&response)), Ok(Heard::Ack(_))));
        }
    }

    /// Everything it is told of a snapshot, answering each time.
    fn follows(&mut self, snapshot: &Arc<Snapshot>) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let told = self.told(snapshot);
            if told.is_empty() && self.unanswered.is_empty() {
                return all;
            }
            all.extend(told);
            self.answer();
        }
    }
}

const BOTH: [Kind; 2] = [Kind::Address, Kind::Authorization];

#[test]
fn first_response_comes_even_if_it_is_empty() {
    let mut node = Node::subscribed(&BOTH);
    assert_eq!(node.follows(&snapshot(&[], &[])), ["Authorization", "Address"]);
    assert_eq!(node.follows(&snapshot(&[], &[])), Vec::<String>::new());
}

#[test]
fn a_resource_carries_its_type_and_bytes() {
    let mut node = Node::subscribed(&[Kind::Address]);
    node.told(&snapshot(&[("a", "1")], &[]));
    let response = &node.unanswered[0];
    assert_eq!(response.type_url, ADDRESS_TYPE);
    let [resource] = &response.decoded().unwrap()[..] else { panic!("one") };
    let resource = resource.resource.as_ref().unwrap();
    assert_eq!(
        (resource.type_url.as_str(), resource.value.as_slice()),
        (ADDRESS_TYPE, &b"body"[..])
    );
}

#[test]
fn what_nodes_hold_is_shared_with_the_snapshot() {
    let policies = [("deny", "1"), ("other", "1")];
    let first = snapshot(&[("a", "1"), ("b", "1")], &policies);
    let mut fresh = Node::subscribed(&BOTH);
    fresh.follows(&first);
    let mut again = Node::default();
    again.session.heard(subscription(Kind::Address, &[("a", "1"), ("gone", "1")])).unwrap();
    again.session.heard(subscription(Kind::Authorization, &[("deny", "0")])).unwrap();
    again.follows(&first);
    let mut next = Snapshot::clone(&first);
    next.addresses.insert("c".into(), resources(&[("c", "1")])["c"].clone());
    next.authorizations.remove("other");
    let next = Arc::new(next);
    for (node, told) in [(&fresh, &first), (&again, &first)] {
        let held = [&node.session.addresses, &node.session.authorizations];
        let held = held.map(|subscription| &subscription.as_ref().unwrap().held);
        assert!(held[0].ptr_eq(&told.addresses) && held[1].ptr_eq(&told.authorizations));
    }
    fresh.follows(&next);
    let held = &fresh.session.addresses.as_ref().unwrap().held;
    assert!(held.ptr_eq(&next.addresses));
}

#[test]
fn a_response_is_about_as_long_as_it_is_said_to_be() {
    let many: Vec<_> = (0..1000).map(|number| format!("Kubernetes//Pod/ns/pod-{number}")).collect();
    let many: Vec<_> =
        many.iter().map(|name| (name.as_str(), "0123456789abcdef0123456789abcdef")).collect();
    let mut session = Session::default();
    session.heard(subscription(Kind::Address, &[("gone", "1")])).unwrap();
    let push = session.next(&snapshot(&many, &[])).unwrap();
    let said = push.bytes();
    let bytes = prost::Message::encoded_len(&push.response());
    assert!(said >= bytes && said < bytes * 2, "{bytes} bytes are said to be {said}");
}

#[test]
fn only_what_changes_is_told() {
    let mut node = Node::subscribed(&[Kind::Address]);
    node.follows(&snapshot(&[("a", "1"), ("b", "1"), ("c", "1")], &[]));
    let next = snapshot(&[("a", "1"), ("b", "2"), ("d", "1")], &[]);
    assert_eq!(node.follows(&next), ["Address +d=1 +b=2 -c"]);
    assert_eq!(node.follows(&next), Vec::<String>::new());
}

#[test]
fn a_reconnecting_node_is_told_the_difference_to_what_it_holds() {
    let mut node = Node::default();
    let held = [("a", "1"), ("b", "1"), ("gone", "1")];
    node.session.heard(subscription(Kind::Address, &held)).unwrap();
    let now = snapshot(&[("a", "1"), ("b", "2"), ("c", "1")], &[]);
    assert_eq!(node.follows(&now), ["Address +c=1 +b=2 -gone"]);
}

#[test]
fn a_slow_node_gets_the_newest_state_not_a_queue() {
    let mut node = Node::subscribed(&[Kind::Address]);
    assert_eq!(node.told(&snapshot(&[("a", "1")], &[])), ["Address +a=1"]);
    for version in ["2", "3", "4"] {
        assert_eq!(node.told(&snapshot(&[("a", version)], &[])), Vec::<String>::new());
    }
    node.answer();
    assert_eq!(node.told(&snapshot(&[("a", "5"), ("b", "1")], &[])), ["Address +b=1 +a=5"]);
}

#[test]
fn new_policies_first_then_workloads_then_changed_and_gone_policies() {
    let mut node = Node::subscribed(&BOTH);
    node.follows(&snapshot(&[("w", "1")], &[("changes", "1"), ("goes", "1")]));
    let next = snapshot(&[("w", "2")], &[("changes", "2"), ("comes", "1")]);
    assert_eq!(node.told(&next), ["Authorization +comes=1"]);
    node.answer();
    assert_eq!(node.told(&next), ["Address +w=2"]);
    node.answer();
    assert_eq!(node.told(&next), ["Authorization +changes=2 -goes"]);
    node.answer();
    assert_eq!(node.told(&next), Vec::<String>::new());
}

#[test]
fn a_snapshot_is_told_completely_before_the_next() {
    let mut node = Node::subscribed(&BOTH);
    node.follows(&snapshot(&[("w", "1")], &[("p", "1")]));
    assert_eq!(node.told(&snapshot(&[("w", "2")], &[("p", "2")])), ["Address +w=2"]);
    node.answer();
    let busy = snapshot(&[("w", "3")], &[("p", "3")]);
    assert_eq!(node.told(&busy), ["Authorization +p=2"], "workloads do not starve policies");
    node.answer();
    assert_eq!(node.follows(&busy), ["Address +w=3", "Authorization +p=3"]);
}

#[test]
fn policies_alone_need_no_order() {
    let mut node = Node::subscribed(&[Kind::Authorization]);
    node.follows(&snapshot(&[], &[("p", "1"), ("q", "1")]));
    let next = snapshot(&[], &[("p", "2"), ("r", "1")]);
    assert_eq!(node.follows(&next), ["Authorization +r=1 +p=2 -q"]);
}

#[test]
fn a_rejected_version_is_not_sent_again() {
    let mut node = Node::subscribed(&[Kind::Address]);
    let now = snapshot(&[("a", "1")], &[]);
    node.told(&now);
    let mut rejection = answer(&node.unanswered[0]);
    rejection.error_detail = Some(Status { message: "a: bad".to_owned(), ..Status::default() });
    let heard = node.session.heard(rejection).unwrap();
    assert_eq!(heard, Heard::Nack { kind: Kind::Address, reason: "a: bad".to_owned() });
    assert_eq!(node.told(&now), Vec::<String>::new());
    assert_eq!(node.told(&snapshot(&[("a", "2")], &[])), ["Address +a=2"]);
}

#[test]
fn a_stale_answer_changes_nothing() {
    let mut node = Node::subscribed(&[Kind::Address]);
    let now = snapshot(&[("a", "1")], &[]);
    node.told(&now);
    let mut stale = answer(&node.unanswered[0]);
    stale.response_nonce = "77".to_owned();
    assert_eq!(node.session.heard(stale), Ok(Heard::Stale));
    assert!(node.session.waiting());
}

#[test]
fn subscriptions_by_name_are_refused_and_other_types_ignored() {
    let mut session = Session::default();
    let mut request = subscription(Kind::Address, &[]);
    request.resource_names_subscribe = vec!["/10.0.0.1".to_owned()];
    assert_eq!(session.heard(request.clone()), Err(ByName("Address")));
    request.resource_names_subscribe = vec!["*".to_owned()];
    request.resource_names_unsubscribe = vec!["*".to_owned()];
    assert_eq!(session.heard(request.clone()), Err(ByName("Address")));
    request.resource_names_unsubscribe.clear();
    assert!(matches!(session.heard(request.clone()), Ok(Heard::Subscribed { .. })));
    request.type_url = "type.googleapis.com/other".to_owned();
    assert_eq!(
        session.heard(request),
        Ok(Heard::UnknownType("type.googleapis.com/other".to_owned()))
    );
}

proptest::proptest! {
    /// Whatever the snapshots and however late the answers, a node that answers ends up with the
    /// newest state.
    #[test]
    fn a_node_converges(
        steps in proptest::collection::vec(
            (proptest::collection::btree_map("[a-d]", 0..3u8, 0..4),
             proptest::collection::btree_map("[p-s]", 0..3u8, 0..4),
             proptest::bool::ANY),
            1..12,
        )
    ) {
        let set = |map: &std::collections::BTreeMap<String, u8>| -> Resources {
            let entry = |version: &u8| Entry {
                version: version.to_string().into(),
                body: Arc::from([]),
            };
            map.iter().map(|(name, version)| (ArcStr::from(name.as_str()), entry(version))).collect()
        };
        let mut node = Node::subscribed(&BOTH);
        let mut held = [Resources::new(), Resources::new()];
        let mut last = Arc::new(Snapshot::default());
        let take = |node: &mut Node, held: &mut [Resources; 2]| {
            for response in &node.unanswered {
                let at = usize::from(response.type_url == AUTHORIZATION_TYPE);
                for resource in &response.decoded().unwrap() {
                    let entry = Entry {
                        version: resource.version.as_str().into(),
                        body: Arc::from([]),
                    };
                    held[at].insert(resource.name.as_str().into(), entry);
                }
                for name in &response.removed_resources {
                    held[at].remove(name.as_str());
                }
            }
            node.answer();
        };
        for (addresses, authorizations, answers) in &steps {
            last = Arc::new(Snapshot {
                addresses: set(addresses),
                authorizations: set(authorizations),
                ..Snapshot::default()
            });
            node.told(&last);
            if *answers {
                take(&mut node, &mut held);
            }
        }
        for _ in 0..8 {
            node.told(&last);
            take(&mut node, &mut held);
        }
        proptest::prop_assert_eq!(&held[0], &last.addresses);
        proptest::prop_assert_eq!(&held[1], &last.authorizations);
    }
}
