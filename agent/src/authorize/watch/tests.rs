//! Waiting and re-judging, in paused time.

use super::*;

use crate::mesh::local::Exclusions;
use crate::mesh::policy::{Authorization, Group, Match, PolicyScope, Rule, StringMatch};
use crate::mesh::{Account, MatchedRule, MeshEvent, PodUid, PolicyKey, Store};

const WAIT: Duration = Duration::from_secs(5);
const STRICT: &str = "istio-system/istio_converted_static_strict";

struct World {
    store: Store,
    reader: MeshReader,
    pod: LocalPod,
}

impl World {
    /// Nothing known.
    fn new() -> Self {
        let (store, reader) = Store::new();
        let ip = [10, 0, 0, 2].into();
        let pod = LocalPod {
            uid: PodUid("uid".into()),
            namespace: "bookinfo".into(),
            name: "details".into(),
            account: Account::new("bookinfo", "details").unwrap(),
            ip4: Some(ip),
            ip6: None,
            exclusions: Exclusions::default(),
        };
        Self { store, reader, pod }
    }

    /// The workload known, policies synced.
    fn synced(policies: &[&str]) -> Self {
        let mut world = Self::new();
        world.workload(policies);
        world.sync();
        world
    }

    fn sync(&mut self) {
        self.store.set_synced(ResourceKind::Address);
        self.store.set_synced(ResourceKind::Authorization);
    }

    fn workload(&mut self, policies: &[&str]) {
        let ip = self.pod.ip4.unwrap().into();
        let mut workload = Workload::pod("c", "bookinfo", "details", "details", ip).unwrap();
        workload.authorization_policies = policies.iter().map(|name| key(name)).collect();
        self.store.apply([MeshEvent::Workload(Arc::new(workload))]);
    }

    fn policy(&mut self, name: &str, groups: Vec<Group>) {
        self.store.apply([MeshEvent::Policy(Arc::new(Authorization {
            key: key(name),
            scope: PolicyScope::WorkloadSelector,
            action: Action::Deny,
            groups,
            dry_run: false,
        }))]);
    }

    fn other_workload(&mut self, name: &str) {
        let ip = "10.9.9.9".parse().unwrap();
        let workload = Workload::pod("c", "other", name, "sa", ip).unwrap();
        self.store.apply([MeshEvent::Workload(Arc::new(workload))]);
    }

    async fn permit(&self, request: &Request) -> Result<Permit, Denial> {
        permit(&self.reader, &self.pod, request, WAIT).await
    }

    fn revoked(&self, request: &Request) -> tokio::task::JoinHandle<Denial> {
        let reader = self.reader.clone();
        let (pod, request) = (self.pod.clone(), request.clone());
        tokio::spawn(async move { revoked(&reader, &pod, &request, WAIT).await })
    }
}

fn key(name: &str) -> PolicyKey {
    let (namespace, name) = name.split_once('/').unwrap();
    PolicyKey { namespace: namespace.into(), name: name.into() }
}

fn first_rule(name: &str) -> MatchedRule {
    MatchedRule { policy: key(name), rule: Some(0) }
}

fn everything() -> Vec<Group> {
    vec![Group::default()]
}

fn unauthenticated() -> Vec<Group> {
    let condition = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    vec![Group { rules: vec![Rule { matches: vec![condition] }] }]
}

fn plaintext() -> Request {
    let source_ip = "10.0.0.1".parse().unwrap();
    Request { source_ip, source: None, destination: "10.0.0.2:9080".parse().unwrap() }
}

fn authenticated() -> Request {
    let source = Some("spiffe://cluster.local/ns/a/sa/b".parse().unwrap());
    Request { source, ..plaintext() }
}

/// Lets spawned tasks run until they wait.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_judged_at_once() {
    let start = Instant::now();
    assert!(World::synced(&[]).permit(&plaintext()).await.is_ok());
    let denied = World::synced(&[STRICT]).permit(&plaintext()).await;
    assert_eq!(denied, Err(Denial::Explicit(key(STRICT).into())));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_workload_is_denied_after_the_wait() {
    let mut world = World::new();
    world.sync();
    let start = Instant::now();
    assert_eq!(world.permit(&plaintext()).await, Err(Denial::UnknownWorkload));
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_comes_in_time_is_judged_when_it_comes() {
    let mut world = World::new();
    world.sync();
    let start = Instant::now();
    let (reader, pod) = (world.reader.clone(), world.pod.clone());
    let request = plaintext();
    let judged = tokio::spawn(async move { permit(&reader, &pod, &request, WAIT).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.other_workload("noise");
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.workload(&[]);
    assert!(judged.await.unwrap().is_ok());
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_allowed_before_the_first_policies() {
    let mut world = World::new();
    world.workload(&[]);
    assert_eq!(world.permit(&authenticated()).await, Err(Denial::NotSynced));
    world.sync();
    assert!(world.permit(&authenticated()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_missing_policy_is_waited_for_then_denies() {
    let start = Instant::now();
    let mut world = World::synced(&["bookinfo/p"]);
    let missing = Err(Denial::UnknownPolicy(key("bookinfo/p")));
    assert_eq!(world.permit(&authenticated()).await, missing);
    assert_eq!(start.elapsed(), WAIT);
    world.policy("bookinfo/p", unauthenticated());
    assert!(world.permit(&authenticated()).await.is_ok());
    assert_eq!(world.permit(&plaintext()).await, Err(Denial::Explicit(first_rule("bookinfo/p"))));
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn noise_does_not_extend_the_wait() {
    let mut world = World::synced(&["bookinfo/p"]);
    let (reader, pod) = (world.reader.clone(), world.pod.clone());
    let start = Instant::now();
    let request = plaintext();
    let judged = tokio::spawn(async move { permit(&reader, &pod, &request, WAIT).await });
    for round in 0..20 {
        if judged.is_finished() {
            break;
        }
        world.other_workload(&format!("noise-{round}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(judged.await.unwrap(), Err(Denial::UnknownPolicy(key("bookinfo/p"))));
    assert!(start.elapsed() <= WAIT + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_changed_workload_revokes_open_plaintext() {
    let mut world = World::synced(&[]);
    let (plain, authenticated) = (world.revoked(&plaintext()), world.revoked(&authenticated()));
    settle().await;
    assert!(!plain.is_finished());
    world.workload(&[STRICT]);
    assert_eq!(plain.await.unwrap(), Denial::Explicit(key(STRICT).into()));
    settle().await;
    assert!(!authenticated.is_finished());
    authenticated.abort();
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_revokes() {
    let mut world = World::synced(&["bookinfo/p"]);
    world.policy("bookinfo/p", vec![]);
    let open = world.revoked(&plaintext());
    settle().await;
    world.other_workload("noise");
    settle().await;
    assert!(!open.is_finished());
    world.policy("bookinfo/p", everything());
    assert_eq!(open.await.unwrap(), Denial::Explicit(first_rule("bookinfo/p")));
}

#[tokio::test(start_paused = true)]
async fn a_newly_referenced_policy_may_arrive_late() {
    let mut world = World::synced(&[]);
    let open = world.revoked(&authenticated());
    settle().await;
    world.workload(&["bookinfo/p"]);
    tokio::time::sleep(WAIT / 2).await;
    world.policy("bookinfo/p", unauthenticated());
    tokio::time::sleep(WAIT * 4).await;
    assert!(!open.is_finished());
    world.workload(&["bookinfo/q"]);
    let start = Instant::now();
    assert_eq!(open.await.unwrap(), Denial::UnknownPolicy(key("bookinfo/q")));
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_workload_is_judged_as_it_last_was() {
    let mut world = World::synced(&["bookinfo/p"]);
    world.policy("bookinfo/p", vec![]);
    let open = world.revoked(&plaintext());
    settle().await;
    let uid = world.reader.load().workload_of(&world.pod).unwrap().uid.clone();
    world.store.apply([MeshEvent::RemoveWorkload(uid)]);
    tokio::time::sleep(WAIT * 4).await;
    assert!(!open.is_finished());
    world.policy("bookinfo/p", everything());
    assert_eq!(open.await.unwrap(), Denial::Explicit(first_rule("bookinfo/p")));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_read_is_waited_for_then_denies_until_it_is_mended() {
    let start = Instant::now();
    let mut world = World::synced(&[]);
    let unreadable = || MeshEvent::UnreadablePolicy(key("bookinfo/p"), PolicyScope::Namespace);
    let denied = Denial::UnreadablePolicy(key("bookinfo/p"));
    let open = world.revoked(&authenticated());
    settle().await;
    world.store.apply([unreadable()]);
    assert_eq!(world.permit(&authenticated()).await, Err(denied.clone()));
    assert_eq!(open.await.unwrap(), denied);
    assert_eq!((start.elapsed(), denied.by()), (WAIT, Some(key("bookinfo/p").into())));
    // Mended, spoilt again (the good version stays), removed.
    world.policy("bookinfo/p", vec![]);
    assert!(world.permit(&authenticated()).await.is_ok());
    world.store.apply([unreadable()]);
    assert!(world.permit(&authenticated()).await.is_ok());
    world.store.apply([MeshEvent::RemovePolicy(key("bookinfo/p")), unreadable()]);
    world.store.apply([MeshEvent::RemovePolicy(key("bookinfo/p"))]);
    assert!(world.permit(&authenticated()).await.is_ok());
    assert_eq!(start.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_mended_in_time_costs_an_open_connection_nothing() {
    let mut world = World::synced(&[]);
    let open = world.revoked(&authenticated());
    settle().await;
    let scope = PolicyScope::Namespace;
    world.store.apply([MeshEvent::UnreadablePolicy(key("bookinfo/p"), scope)]);
    tokio::time::sleep(WAIT / 2).await;
    world.store.apply([MeshEvent::RemovePolicy(key("bookinfo/p"))]);
    tokio::time::sleep(WAIT * 4).await;
    assert!(!open.is_finished());
    open.abort();
}

#[test]
fn what_an_open_connection_costs_is_small() {
    let world = World::new();
    let (reader, pod, request) = (world.reader, world.pod, plaintext());
    let waiting = revoked(&reader, &pod, &request, WAIT);
    assert!(size_of_val(&waiting) <= 512, "{} bytes", size_of_val(&waiting));
    let asking = permit(&reader, &pod, &request, WAIT);
    assert!(size_of_val(&asking) <= 512, "{} bytes", size_of_val(&asking));
}
