//! When an agent goes by the wrong names, in paused time.

use std::sync::Arc;

use super::*;
use crate::mesh::{Account, Given, MeshEvent, MeshReader, ResourceKind, Store, Workload};

struct World {
    store: Store,
    reader: MeshReader,
    pods: Vec<PodStatus>,
    strangers: Strangers,
    readiness: Readiness,
}

impl World {
    fn new(given: Given, pods: &[u8]) -> Self {
        let (mut store, reader) = Store::on(given);
        store.set_synced(ResourceKind::Address);
        store.set_synced(ResourceKind::Authorization);
        let readiness = Readiness::new();
        let strangers = Strangers::new(readiness.clone());
        Self {
            store,
            reader,
            pods: pods.iter().copied().map(status).collect(),
            strangers,
            readiness,
        }
    }

    fn tell(&mut self, workload: Workload) {
        self.store.apply([MeshEvent::Workload(Arc::new(workload))]);
    }

    /// Why the agent is not ready, and what is remarked.
    fn look(&mut self) -> (String, String) {
        self.strangers.look(&self.reader.load(), &self.pods);
        let missing: Vec<_> = self.readiness.missing().iter().map(ToString::to_string).collect();
        (missing.join(", "), self.readiness.remarks().join(", "))
    }
}

fn name(last: u8) -> String {
    format!("web-{last}")
}

fn status(last: u8) -> PodStatus {
    let pod = LocalPod {
        uid: PodUid(arcstr::format!("u{last}")),
        namespace: "shop".into(),
        name: name(last).into(),
        account: Account::new("shop", "web").unwrap(),
        ip4: Some([10, 0, 0, last].into()),
        ip6: None,
        exclusions: Default::default(),
    };
    let (uid, state) = (pod.uid.clone(), PodState::Captured);
    PodStatus { uid, pod: Some(Arc::new(pod)), state, trouble: None }
}

fn record(cluster: &str, last: u8) -> Workload {
    let address = [10, 0, 0, last].into();
    let mut workload = Workload::pod(cluster, "shop", &name(last), "web", address).unwrap();
    workload.node = "n1".into();
    workload
}

fn given() -> Given {
    let agent = Some(("istio-system".into(), "agent".into()));
    Given { node: "n1".into(), agent, ..Given::default() }
}

fn ready() -> (String, String) {
    Default::default()
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_pods_are_all_unknown_is_not_ready_until_one_is_known() {
    let mut world = World::new(given(), &[1, 2]);
    let (reason, _) = world.look();
    assert!(reason.contains("no pod of node \"n1\""), "{reason}");
    world.tell(record("c", 9));
    let (reason, _) = world.look();
    let expected = "the control plane tells nothing of this node's pods shop/web-1, shop/web-2, as of cluster \"c\"";
    assert_eq!(reason, expected);
    world.tell(record("c", 1));
    assert_eq!(world.look(), ready(), "the other may be new");
    tokio::time::advance(GRACE).await;
    let remark = "the control plane tells nothing of this node's pods shop/web-2";
    assert_eq!(world.look(), (String::new(), remark.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_new_to_a_ready_agent_has_time_to_become_known() {
    let mut world = World::new(given(), &[]);
    world.tell(record("c", 9));
    assert_eq!(world.look(), ready());
    world.pods.push(status(1));
    assert_eq!(world.look(), ready());
    tokio::time::advance(GRACE).await;
    let (reason, _) = world.look();
    assert!(reason.contains("shop/web-1"), "{reason}");
    world.tell(record("c", 1));
    assert_eq!(world.look(), ready());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_knows_does_not_hold_up_an_agent_that_is_known() {
    let mut world = World::new(given(), &[1]);
    let mut agent = record("c", 9);
    (agent.namespace, agent.name) = ("istio-system".into(), "agent".into());
    world.tell(agent);
    assert_eq!(world.look(), ready());
    tokio::time::advance(GRACE).await;
    let remark = "the control plane tells nothing of this node's pods shop/web-1";
    assert_eq!(world.look(), (String::new(), remark.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_told_the_wrong_names_is_not_ready_and_says_so() {
    let wrong = Given { network: Some("".into()), ..given() };
    let mut world = World::new(wrong, &[]);
    world.tell(Workload { network: "net1".into(), ..record("c", 1) });
    let (reason, _) = world.look();
    assert!(reason.contains("--network is \"\"") && reason.contains("\"net1\""), "{reason}");
}

#[test]
fn nothing_is_said_before_the_mesh_is_known() {
    let (_store, reader) = Store::on(given());
    let readiness = Readiness::new();
    Strangers::new(readiness.clone()).look(&reader.load(), &[status(1)]);
    assert!(readiness.is_ready());
}
