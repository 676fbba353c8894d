use kube::runtime::watcher::Event;
use serde_json::json;

use super::*;

fn pod(uid: &str, ips: &[&str]) -> PodFacts {
    let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let object = json!({
        "metadata": { "name": uid, "namespace": "shop", "uid": uid },
        "spec": { "containers": [] },
        "status": { "podIPs": ips },
    });
    PodFacts::new(&serde_json::from_value(object).expect("a pod")).expect("facts")
}

fn shop() -> NamespaceFacts {
    NamespaceFacts { name: "shop".into(), mode: Some(Mode::Ambient) }
}

fn view(changes: Vec<Change>) -> View {
    let mut view = View::default();
    changes.into_iter().for_each(|change| view.apply(change));
    view
}

fn wishes(view: &View) -> Option<Vec<(String, &'static str)>> {
    let mut wishes: Vec<_> = view
        .targets()?
        .into_iter()
        .map(|(uid, target)| {
            let wish = match target.wish {
                Wish::Enroll(_) => "enroll",
                Wish::Keep => "keep",
                Wish::Leave => "leave",
            };
            (uid.to_string(), wish)
        })
        .collect();
    wishes.sort();
    Some(wishes)
}

fn listed(pods: Vec<PodFacts>) -> Vec<Change> {
    let mut changes = vec![Change::Pod(Event::Init)];
    changes.extend(pods.into_iter().map(|pod| Change::Pod(Event::InitApply(Some(pod)))));
    changes.push(Change::Pod(Event::InitDone));
    changes
}

fn namespaces() -> Vec<Change> {
    vec![
        Change::Namespace(Event::Init),
        Change::Namespace(Event::InitApply(shop())),
        Change::Namespace(Event::InitDone),
    ]
}

#[test]
fn nothing_is_wished_until_pods_and_namespaces_are_listed_completely() {
    let mut view = view(listed(vec![pod("a", &["10.0.0.1"])]));
    assert_eq!(wishes(&view), None);
    let [init, apply, done] = namespaces().try_into().expect("three");
    view.apply(init);
    view.apply(apply);
    assert_eq!(wishes(&view), None);
    view.apply(done);
    assert_eq!(wishes(&view), Some(vec![("a".to_owned(), "enroll")]));
}

#[test]
fn a_list_that_breaks_off_removes_nothing() {
    let mut view = view([listed(vec![pod("a", &["10.0.0.1"])]), namespaces()].concat_changes());
    view.apply(Change::Pod(Event::Init));
    assert_eq!(wishes(&view), Some(vec![("a".to_owned(), "enroll")]));
    view.apply(Change::Pod(Event::Init));
    view.apply(Change::Pod(Event::InitApply(Some(pod("b", &["10.0.0.2"])))));
    assert_eq!(wishes(&view), Some(vec![("a".to_owned(), "enroll")]));
    view.apply(Change::Pod(Event::InitDone));
    assert_eq!(wishes(&view), Some(vec![("b".to_owned(), "enroll")]));
}

#[test]
fn a_pod_without_an_address_is_kept_as_it_is() {
    let view = view([listed(vec![pod("a", &[])]), namespaces()].concat_changes());
    assert_eq!(wishes(&view), Some(vec![("a".to_owned(), "keep")]));
}

#[test]
fn a_namespace_that_is_not_known_yet_asks_for_nothing() {
    let mut other = pod("a", &["10.0.0.1"]);
    other.namespace = "new".into();
    let mut view = view([listed(vec![other]), namespaces()].concat_changes());
    assert_eq!(wishes(&view), Some(vec![("a".to_owned(), "leave")]));
    let new = NamespaceFacts { name: "new".into(), mode: Some(Mode::Ambient) };
    view.apply(Change::Namespace(Event::Apply(new)));
    assert_eq!(wishes(&view), Some(vec![("a".to_owned(), "enroll")]));
}

#[test]
fn pods_come_and_go() {
    let mut view = view([listed(vec![]), namespaces()].concat_changes());
    view.apply(Change::Pod(Event::Apply(Some(pod("a", &["10.0.0.1"])))));
    assert!(view.pod("shop", "a").is_some());
    assert!(view.pod("shop", "b").is_none());
    view.apply(Change::Pod(Event::Apply(None)));
    view.apply(Change::Pod(Event::Delete(Some(pod("a", &[])))));
    assert_eq!(wishes(&view), Some(vec![]));
}

trait ConcatChanges {
    fn concat_changes(self) -> Vec<Change>;
}

impl<const N: usize> ConcatChanges for [Vec<Change>; N] {
    fn concat_changes(self) -> Vec<Change> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn a_namespace_counts_by_its_label_or_by_a_pod_of_this_node() {
    let namespace = |name: &str, mode| {
        let facts = NamespaceFacts { name: name.into(), mode };
        Change::Namespace(Event::InitApply(facts))
    };
    let of = |namespace: &str, mode| PodFacts {
        namespace: namespace.into(),
        mode,
        ..pod(namespace, &[])
    };
    let pods = vec![
        of("own", Some(Mode::Ambient)),
        of("plain", None),
        of("out", Some(Mode::None)),
        PodFacts { host_network: true, ..of("host", Some(Mode::Ambient)) },
    ];
    let mut view = view(listed(pods));
    assert_eq!(view.enrolled_namespaces(), None, "namespaces are not known yet");
    view.apply(Change::Namespace(Event::Init));
    for (name, mode) in [
        ("shop", Some(Mode::Ambient)),
        ("none", Some(Mode::None)),
        ("own", None),
        ("plain", None),
        ("out", None),
        ("host", None),
    ] {
        view.apply(namespace(name, mode));
    }
    view.apply(Change::Namespace(Event::InitDone));
    let found = view.enrolled_namespaces().expect("all is known");
    assert_eq!(found.iter().map(ArcStr::as_str).collect::<Vec<_>>(), ["own", "shop"]);
}
