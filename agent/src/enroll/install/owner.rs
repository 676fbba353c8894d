//! Whether this pod ends because its DaemonSet is deleted, or is no more for this node: then nothing is to be left that waits
//! for an agent. At a rolling update, a drain or a reboot everything stays, so that no pod starts uncaptured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodSpec};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::chosen::is_chosen;
use crate::sys::backoff::Patient;

/// How long a pod's end may wait for the API server; less than its grace period, more than an API server takes a token of an
/// account that is deleted.
pub const FATE: Duration = Duration::from_secs(20);
/// Longest wait for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(3);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// What becomes of the DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays, or this pod has none.
    Stays,
    /// It is deleted, or about to be.
    Deleted,
    /// It runs on other nodes.
    Elsewhere,
    /// It could not be told.
    Unknown(String),
}

/// The DaemonSet of a pod.
pub struct Owner {
    client: Client,
    namespace: String,
    pod: String,
    node: String,
    /// None if the pod has none.
    set: OnceCell<Option<Set>>,
    /// The pod is deleted, without regard to whether it still runs: its token counts no more, whatever became of the set.
    pod_is_gone: AtomicBool,
}

/// A DaemonSet, as far as it does not change.
struct Set {
    name: String,
    /// What it made this pod as.
    pod: PodSpec,
}

impl Owner {
    /// Of the pod `pod` on a node.
    pub fn new(client: Client, (namespace, pod): (&str, &str), node: &str) -> Self {
        let [namespace, pod, node] = [namespace, pod, node].map(str::to_owned);
        let (set, pod_is_gone) = (OnceCell::new(), AtomicBool::new(false));
        Self { client, namespace, pod, node, set, pod_is_gone }
    }

    /// Learns its name, and follows the pod, for as long as it runs: later the API server may tell neither.
    pub async fn learn(&self) {
        while let Err(error) = self.set().await {
            tracing::debug!(%error, "the pod's owner is not known yet");
            sleep(PAUSE * 5).await;
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let own = watcher::Config::default().fields(&format!("metadata.name={}", self.pod));
        let mut events = std::pin::pin!(watcher(pods, own).backoff(Patient::default()));
        let mut is_listed = false;
        while let Some(event) = events.next().await {
            let is_gone = match event {
                Ok(watcher::Event::Delete(_)) => true,
                Ok(watcher::Event::Apply(_)) => false,
                Ok(watcher::Event::InitDone) => !is_listed,
                Ok(watcher::Event::Init) => {
                    is_listed = false;
                    continue;
                }
                Ok(watcher::Event::InitApply(_)) => {
                    is_listed = true;
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to follow the own pod, trying again");
                    continue;
                }
            };
            self.pod_is_gone.store(is_gone, Ordering::Relaxed);
        }
    }

    /// Whether there is one, as far as was learnt.
    pub fn is_known(&self) -> bool {
        self.set.get().is_some_and(Option::is_some)
    }

    /// What becomes of it, within `limit`.
    ///
    /// While everything is deleted at once, its role may go before its account: an answer that
    /// forbids to look is asked again, until the account's token is no longer taken.
    pub async fn fate(&self, limit: Duration) -> Fate {
        let until = Instant::now() + limit;
        let mut last = String::from("no answer");
        loop {
            match timeout_at(until, timeout(ANSWER, self.look())).await {
                Ok(Ok(Ok(fate))) => return fate,
                Ok(Ok(Err(error))) => last = error.to_string(),
                Ok(Err(_)) => {}
                Err(_) => return Fate::Unknown(last),
            }
            if timeout_at(until, sleep(PAUSE)).await.is_err() {
                return Fate::Unknown(last);
            }
        }
    }

    async fn look(&self) -> Result<Fate, kube::Error> {
        match self.ask().await {
            // The account is deleted: what it was for is, too. A pod that was deleted by force has no say either, and
            // another follows.
            Err(kube::Error::Api(status))
                if status.code == 401 && !self.pod_is_gone.load(Ordering::Relaxed) =>
            {
                Ok(Fate::Deleted)
            }
            other => other,
        }
    }

    async fn ask(&self) -> Result<Fate, kube::Error> {
        // A namespace that ends may end its pods before its DaemonSets.
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespaces.get_opt(&self.namespace).await?;
        if namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            return Ok(Fate::Deleted);
        }
        let Some(known) = self.set().await? else { return Ok(Fate::Stays) };
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let set = sets.get_opt(&known.name).await?;
        let Some(set) = set.filter(|set| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(Fate::Deleted);
        };
        let next = set.spec.and_then(|spec| spec.template.spec).unwrap_or_default();
        let is_given_back = self.is_given_back([&known.pod, &next]).await?;
        Ok(if is_given_back { Fate::Elsewhere } else { Fate::Stays })
    }

    /// Whether this node's labels are others than they were: it is chosen neither by what this pod asked for nor by what the
    /// next one would. What only the set asks for now may be a slip, and opens no node. Nor does what cannot be looked at.
    async fn is_given_back(&self, asked: [&PodSpec; 2]) -> Result<bool, kube::Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.get_opt(&self.node).await {
            Ok(node) => Ok(node.is_some_and(|node| asked.iter().all(|pod| !is_chosen(pod, &node)))),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn set(&self) -> Result<Option<&Set>, kube::Error> {
        let learn = || async {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
            let pod = pods.get(&self.pod).await?;
            let set = pod.owner_references().iter().find(|owner| owner.kind == "DaemonSet");
            let name = set.map(|set| set.name.clone());
            Ok(name.map(|name| Set { name, pod: pod.spec.unwrap_or_default() }))
        };
        self.set.get_or_try_init(learn).await.map(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// Answers by path: a code and an object. All others are not found.
    fn api(answers: &[(&str, u16, Value)]) -> Client {
        let answers: Vec<(String, u16, Value)> = answers
            .iter()
            .map(|(path, code, body)| ((*path).to_owned(), *code, body.clone()))
            .collect();
        let service = tower::service_fn(move |request: Request<Body>| {
            let found = answers.iter().find(|(path, ..)| request.uri().path().ends_with(path));
            let missing = json!({ "kind": "Status", "code": 404, "reason": "NotFound" });
            let (code, body) =
                found.map_or((404, missing), |(_, code, body)| (*code, body.clone()));
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            let response = Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        Client::new(service, "default")
    }

    const NAMESPACE: &str = "/namespaces/mesh";
    const POD: &str = "/pods/sotto-x";
    const SET: &str = "/daemonsets/sotto";

    fn object(more: &Value) -> Value {
        let mut metadata = json!({ "name": "x" });
        for (key, value) in more.as_object().unwrap() {
            metadata[key] = value.clone();
        }
        json!({ "metadata": metadata })
    }

    fn pod() -> Value {
        let owner =
            json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sotto", "uid": "u" });
        object(&json!({ "ownerReferences": [owner] }))
    }

    fn refused(code: u16) -> Value {
        json!({ "kind": "Status", "code": code, "reason": "Refused", "message": "refused" })
    }

    async fn check(answers: &[(&str, u16, Value)], expected: Fate) {
        let owner = Owner::new(api(answers), ("mesh", "sotto-x"), "n1");
        assert_eq!(owner.fate(Duration::from_secs(20)).await, expected, "{answers:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_deleted_only_if_the_api_server_says_so() {
        let there = || object(&json!({}));
        let going = || object(&json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }));
        let namespace = || (NAMESPACE, 200, there());
        let known = || (POD, 200, pod());
        check(&[namespace(), known(), (SET, 200, there())], Fate::Stays).await;
        check(&[namespace(), known(), (SET, 200, going())], Fate::Deleted).await;
        check(&[namespace(), known()], Fate::Deleted).await;
        check(&[(NAMESPACE, 200, going()), known(), (SET, 200, there())], Fate::Deleted).await;
        check(&[(NAMESPACE, 401, refused(401))], Fate::Deleted).await;
        check(&[namespace(), (POD, 200, there())], Fate::Stays).await;
        for path in [NAMESPACE, SET] {
            let answers = [(path, 403, refused(403)), namespace(), known()];
            let owner = Owner::new(api(&answers), ("mesh", "sotto-x"), "n1");
            let fate = owner.fate(Duration::from_secs(20)).await;
            assert!(matches!(&fate, Fate::Unknown(why) if why.contains("refused")), "{fate:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_elsewhere_only_if_the_node_has_lost_the_labels_that_it_asked_and_asks_for() {
        let asks = |label: &str| json!({ "containers": [], "nodeSelector": { label: "yes" } });
        let answers = |asked: &str, asks_now: &str, code: u16, node: Value| {
            let (mut pod, mut set) = (pod(), object(&json!({})));
            pod["spec"] = asks(asked);
            set["spec"] = json!({ "selector": {}, "template": { "spec": asks(asks_now) } });
            let namespace = (NAMESPACE, 200, object(&json!({})));
            [namespace, (POD, 200, pod), (SET, 200, set), ("/nodes/n1", code, node)]
        };
        let labelled = |label: &str| object(&json!({ "labels": { label: "yes" } }));
        check(&answers("ours", "ours", 200, labelled("ours")), Fate::Stays).await;
        check(&answers("ours", "ours", 200, labelled("theirs")), Fate::Elsewhere).await;
        // The set was changed, perhaps by a slip: nothing is opened for that.
        check(&answers("ours", "none", 200, labelled("ours")), Fate::Stays).await;
        // Both were: another pod follows.
        check(&answers("old", "ours", 200, labelled("ours")), Fate::Stays).await;
        let gone = json!({ "kind": "Status", "code": 404, "reason": "NotFound" });
        check(&answers("ours", "ours", 404, gone), Fate::Stays).await;
        check(&answers("ours", "ours", 403, refused(403)), Fate::Stays).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_learnt_in_time_is_enough_when_the_pod_is_gone() {
        let owner = Owner::new(
            api(&[(NAMESPACE, 200, object(&json!({}))), (POD, 200, pod())]),
            ("mesh", "sotto-x"),
            "n1",
        );
        owner.set().await.unwrap();
        let gone = Owner { client: api(&[(NAMESPACE, 200, object(&json!({})))]), ..owner };
        assert_eq!(gone.fate(Duration::from_secs(20)).await, Fate::Deleted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_was_deleted_by_force_is_refused_and_decides_nothing() {
        let owner = Owner::new(api(&[(NAMESPACE, 401, refused(401))]), ("mesh", "sotto-x"), "n1");
        owner.pod_is_gone.store(true, Ordering::Relaxed);
        let fate = owner.fate(Duration::from_secs(20)).await;
        assert!(matches!(&fate, Fate::Unknown(why) if why.contains("refused")), "{fate:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whether_the_pod_is_there_is_followed() {
        for (items, is_gone) in [(json!([pod()]), false), (json!([]), true)] {
            let list = json!({ "kind": "PodList", "apiVersion": "v1",
                "metadata": { "resourceVersion": "1" }, "items": items });
            let owner = Owner::new(
                api(&[(POD, 200, pod()), ("/pods", 200, list)]),
                ("mesh", "sotto-x"),
                "n1",
            );
            drop(timeout(Duration::from_secs(1), owner.learn()).await);
            assert_eq!(owner.pod_is_gone.load(Ordering::Relaxed), is_gone);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_decides_nothing() {
        let silent = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, std::convert::Infallible>>()
        });
        let owner = Owner::new(Client::new(silent, "default"), ("mesh", "sotto-x"), "n1");
        let fate = owner.fate(Duration::from_secs(20)).await;
        assert_eq!(fate, Fate::Unknown(String::from("no answer")));
    }
}
