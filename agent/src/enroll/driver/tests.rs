//! The driver with an API server in memory and a capture that only takes notes.

use std::path::Path;

use http::{Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::enroll::Departure;
use crate::enroll::cni::wire;
use crate::mesh::{LocalPod, PodUid};
use crate::sys::netns::Netns;

const UID: &str = "0f0e8a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6";

/// A capture that remembers, and fails if told to.
#[derive(Debug, Default)]
struct Notes {
    captured: Mutex<Vec<(Arc<LocalPod>, u64)>>,
    released: Mutex<Vec<PodUid>>,
    failure: Option<&'static str>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(&'static str);

impl Capture for Notes {
    type Error = Refused;

    async fn capture(&self, pod: Arc<LocalPod>, netns: Netns) -> Result<(), Refused> {
        if let Some(failure) = self.failure {
            return Err(Refused(failure));
        }
        self.captured.lock().push((pod, netns.inode()));
        Ok(())
    }

    async fn release(&self, uid: &PodUid, _: Departure) -> Result<(), Refused> {
        self.released.lock().push(uid.clone());
        Ok(())
    }
}

/// Objects, and what was patched. Watches never tell anything.
#[derive(Debug, Clone, Default)]
struct Api {
    pods: Vec<Value>,
    mode: Option<&'static str>,
    /// Lists fail.
    broken_lists: bool,
    patches: Arc<Mutex<Vec<(String, Value)>>>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Api {
    fn namespace(&self) -> Value {
        let labels = self.mode.map(|mode| json!({ "istio.io/dataplane-mode": mode }));
        json!({ "metadata": { "name": "shop", "labels": labels } })
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if parts.uri.query().is_some_and(|query| query.contains("watch=")) {
            return std::future::pending().await;
        }
        let list = |kind: &str, items: Vec<Value>| json!({ "apiVersion": "v1", "kind": kind, "metadata": { "resourceVersion": "1" }, "items": items });
        if parts.method == http::Method::POST && path.ends_with("/events") {
            let bytes = body.collect_bytes().await.expect("a body");
            let event: Value = serde_json::from_slice(&bytes).expect("JSON");
            self.events.lock().push(event.clone());
            return respond(201, &event);
        }
        if parts.method == http::Method::PATCH {
            let bytes = body.collect_bytes().await.expect("a body");
            let patch = serde_json::from_slice(&bytes).expect("JSON");
            self.patches.lock().push((path, patch));
            return respond(200, &json!({ "metadata": { "name": "web" } }));
        }
        match path.as_str() {
            "/api/v1/pods" | "/api/v1/namespaces" if self.broken_lists => {
                respond(500, &json!({ "kind": "Status", "code": 500, "reason": "InternalError" }))
            }
            "/api/v1/pods" => respond(200, &list("PodList", self.pods.clone())),
            "/api/v1/namespaces" => respond(200, &list("NamespaceList", vec![self.namespace()])),
            "/api/v1/namespaces/shop" => respond(200, &self.namespace()),
            "/api/v1/namespaces/shop/pods/web" if !self.pods.is_empty() => {
                respond(200, &self.pods[0])
            }
            _ => respond(404, &json!({ "kind": "Status", "code": 404, "reason": "NotFound" })),
        }
    }
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    let body = Body::from(serde_json::to_vec(body).expect("JSON"));
    Response::builder().status(code).body(body).expect("a response")
}

/// A pod in this process's own network, so with an address of it.
fn web(ips: &[&str]) -> Value {
    let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": UID, "resourceVersion": "1" },
        "spec": { "containers": [], "nodeName": "n1", "serviceAccountName": "web" },
        "status": { "phase": "Running", "podIPs": ips },
    })
}

struct Running {
    directory: tempfile::TempDir,
    notes: Arc<Notes>,
    api: Api,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(api: Api, notes: Notes, adopted: Vec<AdoptedPod>) -> Self {
        Self::start_after(api, notes, adopted, |_| {})
    }

    /// After something was done to the directory.
    fn start_after(
        api: Api,
        notes: Notes,
        adopted: Vec<AdoptedPod>,
        before: impl FnOnce(&Path),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        before(root);
        let settings = Settings {
            node_name: "n1".into(),
            cgroup_root: root.join("cgroup"),
            proc: root.join("proc"),
            cni_socket: root.join("run/cni.sock"),
            remembered: root.join("pods.json"),
        };
        // A pod with one process, in our own namespace, which here is nobody's host.
        let process = root.join("proc/10/ns");
        std::fs::create_dir_all(&process).expect("a directory");
        std::os::unix::fs::symlink("/proc/self/ns/net", process.join("net")).expect("a link");
        let stat = "10 (x) R 1 7 7 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5 1 2";
        std::fs::write(root.join("proc/10/stat"), stat).expect("written");
        let cgroup = root.join(format!("cgroup/kubepods/pod{UID}"));
        std::fs::create_dir_all(&cgroup).expect("a directory");
        std::fs::write(cgroup.join("cgroup.procs"), "10\n").expect("written");
        let locator =
            Locator::excluding(settings.cgroup_root.clone(), settings.proc.clone(), vec![]);
        let notes = Arc::new(notes);
        let (sender, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let jobs = Jobs::new(Arc::clone(&notes), api.client(), locator);
        let parts = Parts::new(settings, api.client(), jobs, sender).expect("a socket");
        let running = stop.clone();
        let task = tokio::spawn(async move { parts.run(adopted, running).await.expect("it ran") });
        Self { directory, notes, api, status, stop, task }
    }

    async fn add(&self, ips: &[&str]) -> Result<Reply, String> {
        self.ask(Verb::Add, Some(UID), ips).await
    }

    /// As the plugin asks.
    async fn ask(&self, verb: Verb, uid: Option<&str>, ips: &[&str]) -> Result<Reply, String> {
        let ip = |ip: &&str| wire::IpConfig {
            interface: None,
            address: ip.parse().expect("an address"),
            gateway: None,
        };
        let request = wire::Request {
            netns: "/proc/self/ns/net".to_owned(),
            pod_name: "web".to_owned(),
            pod_namespace: "shop".to_owned(),
            pod_uid: uid.map(str::to_owned),
            container_id: "c-1".to_owned(),
            ips: ips.iter().map(ip).collect(),
        };
        let socket = self.directory.path().join("run/cni.sock");
        let ask = move || crate::enroll::plugin::ask::ask(Path::new(&socket), verb, &request);
        tokio::task::spawn_blocking(ask).await.expect("asked")
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Status) -> bool) -> Status {
        let found = self.status.wait_for(|status| reached(status));
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        found.unwrap_or_else(|_| panic!("never {what}")).expect("the driver runs").clone()
    }

    fn captured(&self) -> Vec<(String, Option<String>)> {
        let captured = self.notes.captured.lock();
        captured
            .iter()
            .map(|(pod, _)| (pod.name.to_string(), pod.ip4.map(|ip| ip.to_string())))
            .collect()
    }

    /// The first Event.
    async fn told(&self) -> Value {
        for _ in 0..2000 {
            if let Some(event) = self.api.events.lock().first() {
                return event.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody was told");
    }

    async fn patched(&self) -> (String, Value) {
        for _ in 0..2000 {
            if let Some(patch) = self.api.patches.lock().first() {
                return patch.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nothing was patched");
    }

    /// What is written of the pod's condition first.
    async fn condition(&self) -> Value {
        let written = |patch: &(String, Value)| patch.1["status"]["conditions"].is_array();
        for _ in 0..2000 {
            if let Some((_, patch)) = self.api.patches.lock().iter().find(|patch| written(patch)) {
                return patch["status"]["conditions"][0].clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no condition was written");
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.task)
            .await
            .expect("in time")
            .expect("well");
    }
}

fn ambient(pods: Vec<Value>) -> Api {
    Api { pods, mode: Some("ambient"), ..Api::default() }
}

#[tokio::test]
async fn a_running_pod_is_found_captured_and_annotated() {
    let mut running = Running::start(ambient(vec![web(&["127.0.0.1"])]), Notes::default(), vec![]);
    let status = running.until("settled", |status| status.settled).await;
    assert_eq!(
        status.by_state(),
        [("adopted", 0), ("pending", 0), ("captured", 1), ("leaving", 0)]
    );
    assert_eq!(running.captured(), [("web".to_owned(), Some("127.0.0.1".to_owned()))]);
    let (path, patch) = running.patched().await;
    assert_eq!(path, "/api/v1/namespaces/shop/pods/web/status");
    let annotations = json!({ "ambient.istio.io/redirection": "enabled" });
    assert_eq!(patch, json!({ "metadata": { "uid": UID, "annotations": annotations } }));
    running.end().await;
}

#[tokio::test]
async fn an_add_is_answered_when_the_pod_is_captured_with_the_runtimes_address() {
    let running = Running::start(ambient(vec![web(&[])]), Notes::default(), vec![]);
    let reply = running.add(&["127.0.0.1/24"]).await;
    assert!(matches!(&reply, Ok(Reply::Proceed(answer)) if answer.enrolled), "{reply:?}");
    assert_eq!(running.captured(), [("web".to_owned(), Some("127.0.0.1".to_owned()))]);
    let check = running.ask(Verb::Check, None, &[]).await;
    assert!(matches!(&check, Ok(Reply::Proceed(answer)) if answer.enrolled), "{check:?}");
    running.end().await;
}

#[tokio::test]
async fn an_add_of_a_pod_that_is_not_ours_goes_on_uncaptured() {
    let api = Api { mode: None, ..ambient(vec![web(&[])]) };
    let running = Running::start(api, Notes::default(), vec![]);
    let reply = running.add(&["127.0.0.1/24"]).await;
    assert!(matches!(&reply, Ok(Reply::Proceed(answer)) if !answer.enrolled), "{reply:?}");
    assert_eq!(running.captured(), []);
    running.end().await;
}

#[tokio::test]
async fn an_add_is_judged_by_one_look_up_while_the_watch_is_broken() {
    let api = Api { broken_lists: true, ..ambient(vec![web(&[])]) };
    let running = Running::start(api, Notes::default(), vec![]);
    let reply = running.add(&["127.0.0.1/24"]).await;
    assert!(matches!(&reply, Ok(Reply::Proceed(answer)) if answer.enrolled), "{reply:?}");
    assert!(!running.status.borrow().synced);
    running.end().await;
}

#[tokio::test]
async fn an_add_of_a_pod_nobody_knows_is_to_be_tried_again() {
    let running = Running::start(ambient(vec![]), Notes::default(), vec![]);
    let reply = running.add(&["127.0.0.1/24"]).await;
    assert!(matches!(&reply, Ok(Reply::Unsure(why)) if why.contains("shop/web")), "{reply:?}");
    running.end().await;
}

#[tokio::test]
async fn an_add_of_another_pod_of_the_same_name_is_to_be_tried_again() {
    let running = Running::start(ambient(vec![web(&[])]), Notes::default(), vec![]);
    let reply = running.ask(Verb::Add, Some("u-2"), &["127.0.0.1/24"]).await;
    assert!(matches!(&reply, Ok(Reply::Unsure(why)) if why.contains("u-2")), "{reply:?}");
    running.end().await;
}

#[tokio::test]
async fn an_add_whose_capture_fails_is_refused_with_the_reason() {
    let notes = Notes { failure: Some("no memory"), ..Notes::default() };
    let running = Running::start(ambient(vec![web(&[])]), notes, vec![]);
    let reply = running.add(&["127.0.0.1/24"]).await;
    assert_eq!(reply, Ok(Reply::Fail("no memory".to_owned())));
    running.end().await;
}

#[tokio::test]
async fn an_add_without_any_address_is_refused() {
    let running = Running::start(ambient(vec![web(&[])]), Notes::default(), vec![]);
    let reply = running.add(&[]).await;
    assert!(matches!(&reply, Ok(Reply::Fail(why)) if why.contains("address")), "{reply:?}");
    running.end().await;
}

#[tokio::test]
async fn a_del_releases_the_pod() {
    let running = Running::start(ambient(vec![web(&[])]), Notes::default(), vec![]);
    running.add(&["127.0.0.1/24"]).await.expect("captured");
    running.ask(Verb::Del, Some(UID), &[]).await.expect("noted");
    for _ in 0..2000 {
        if !running.notes.released.lock().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(*running.notes.released.lock(), [PodUid(UID.into())]);
    running.end().await;
}

#[tokio::test]
async fn what_an_earlier_run_left_is_released_once_the_pod_is_known_to_be_gone() {
    let adopted = vec![AdoptedPod { uid: PodUid("u-9".into()), netns_inode: 7 }];
    let mut running = Running::start(ambient(vec![]), Notes::default(), adopted);
    running.until("settled", |status| status.settled).await;
    assert_eq!(*running.notes.released.lock(), [PodUid("u-9".into())]);
    running.end().await;
}

#[tokio::test]
async fn nothing_is_released_while_the_api_server_fails() {
    let adopted = vec![AdoptedPod { uid: PodUid("u-9".into()), netns_inode: 7 }];
    let api = Api { broken_lists: true, ..ambient(vec![]) };
    let mut running = Running::start(api, Notes::default(), adopted);
    let status = running.until("told", |status| !status.pods.is_empty()).await;
    assert_eq!(status.pods[0].state, PodState::Adopted);
    assert!(!status.synced);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(*running.notes.released.lock(), []);
    running.end().await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_captured_gets_an_event_and_is_no_reason_to_wait() {
    let notes = Notes { failure: Some("no tables"), ..Notes::default() };
    let mut running = Running::start(ambient(vec![web(&["127.0.0.1"])]), notes, vec![]);
    let status = running.until("settled", |status| status.settled).await;
    assert!(status.troubles().is_some_and(|told| told.contains("shop/web")), "{status:?}");
    let event = running.told().await;
    assert_eq!(event["reason"], "NotCaptured");
    assert_eq!(event["involvedObject"]["uid"], UID);
    assert_eq!(event["reportingInstance"], "n1");
    assert!(event["message"].as_str().is_some_and(|text| text.contains("no tables")), "{event}");
    let told = running.condition().await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("False"), &json!("NotCaptured")));
    assert_eq!(told["message"], event["message"]);
    running.end().await;
}

/// A pod that was told to be not captured.
fn told_web() -> Value {
    let mut pod = web(&["127.0.0.1"]);
    pod["status"]["conditions"] = json!([
        { "type": "Ready", "status": "True" },
        { "type": "sotto.io/Captured", "status": "False", "reason": "NotCaptured" },
    ]);
    pod
}

#[tokio::test]
async fn a_pod_that_is_captured_after_all_says_so() {
    let running = Running::start(ambient(vec![told_web()]), Notes::default(), vec![]);
    assert_eq!(running.condition().await["status"], "True");
    running.end().await;
}

#[tokio::test]
async fn a_pod_that_nobody_asks_for_any_more_says_nothing() {
    let api = Api { mode: None, ..ambient(vec![told_web()]) };
    let running = Running::start(api, Notes::default(), vec![]);
    let gone = json!({ "type": "sotto.io/Captured", "$patch": "delete" });
    assert_eq!(running.condition().await, gone);
    running.end().await;
}

#[tokio::test]
async fn a_pod_of_the_host_s_network_is_told_that_it_is_left_alone() {
    let mut pod = web(&["127.0.0.1"]);
    pod["spec"]["hostNetwork"] = json!(true);
    let mut running = Running::start(ambient(vec![pod]), Notes::default(), vec![]);
    running.until("settled", |status| status.settled).await;
    let event = running.told().await;
    assert!(event["message"].as_str().is_some_and(|text| text.contains("host network")), "{event}");
    assert_eq!(running.condition().await["status"], "False");
    let announced = |(_, patch): &(String, Value)| !patch["metadata"]["annotations"].is_null();
    assert!(!running.api.patches.lock().iter().any(announced), "it is not announced");
    running.end().await;
}

#[tokio::test]
async fn adopted_pods_go_on_while_the_api_server_fails() {
    let adopted = vec![AdoptedPod { uid: PodUid(UID.into()), netns_inode: own_netns() }];
    let api = Api { broken_lists: true, ..ambient(vec![]) };
    let known = json!({ "version": 1, "pods": { UID: {
        "namespace": "shop", "name": "web", "service_account": "web", "ip4": "127.0.0.1", "ip6": null,
        "outbound_ports": [], "outbound_cidrs": [], "probe_ports": [] } } });
    let before =
        |root: &Path| std::fs::write(root.join("pods.json"), known.to_string()).expect("written");
    let mut running = Running::start_after(api, Notes::default(), adopted, before);
    let captured = |status: &Status| status.pods.iter().any(|pod| pod.state == PodState::Captured);
    let status = running.until("captured", captured).await;
    assert!(!status.synced, "that is not the API server's answer");
    assert_eq!(running.captured(), [("web".to_owned(), Some("127.0.0.1".to_owned()))]);
    running.end().await;
}

fn own_netns() -> u64 {
    Netns::open(Path::new("/proc/self/ns/net")).expect("our own").inode()
}
