//! Policies that are told before, after and without the workloads that name them, and taken away
//! under them: whatever the order, nothing is let in that they would keep out.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kit::netns;
use sotto_proto::security::{
    Action, Authorization, Group, Match, Rules, Scope, StringMatch, string_match::MatchType,
};

use super::bench::Bench;
use super::hbone::{self, Root, Tunnel};
use super::recorder::{Fate, RECORDER, Recorder, knock};
use super::script::{Script, workload};

const GOOD: &str = "spiffe://cluster.local/ns/good/sa/good";
const EVIL: &str = "spiffe://cluster.local/ns/evil/sa/evil";
const STRICT: &str = "istio-system/istio_converted_static_strict";
/// What is decided without a wait.
const AT_ONCE: Range<Duration> = Duration::ZERO..Duration::from_secs(2);
/// What waits for something that never comes: 5 s, and some for a busy machine.
const WAITED: Range<Duration> = Duration::from_secs(4)..Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_order_policies_and_workloads_are_told_in_nothing_is_let_in_too_early() {
    let mut bench = Bench::streams().await;
    let (echo, web) = (pod(&bench, "echo").await, pod(&bench, "web").await);
    let script = Script::take(&mut bench, 2).await;
    let root = Root::of_mesh(&bench.cluster).await;
    let callers = Callers { netns: bench.cluster.fabric.external.clone(), root };
    let recorders = [&echo, &web].map(|pod| recorder(&bench, pod));
    let mut story = Story { script, callers, echo, web };
    story.workload_before_its_policies().await;
    story.policy_before_its_workload().await;
    story.policies_taken_away().await;
    story.policy_that_never_comes().await;
    for recorder in &recorders {
        assert_eq!(recorder.arrivals().len(), 0, "plaintext reached the app");
    }
    // The same way is open where nothing is in it, and the app does see who comes.
    story.script.workloads(vec![workload(&story.echo, &[])]).await;
    let echo = ip(&story.echo);
    assert_eq!(story.callers.plaintext(echo).await.0, Fate::Served);
    assert_eq!(story.callers.tunnel(echo, EVIL).await.0, StatusCode::OK);
    assert_eq!(recorders[0].arrivals().len(), 1);
}

struct Story {
    script: Script,
    callers: Callers,
    echo: Pod,
    web: Pod,
}

impl Story {
    /// The workload comes a second after its callers, the policy another second later; STRICT is
    /// referenced, and never told.
    async fn workload_before_its_policies(&mut self) {
        let Self { script, callers, echo, .. } = self;
        let at = ip(echo);
        let push = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            script.workloads(vec![workload(echo, &["back/late", STRICT])]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            script.policies(vec![from("late", Action::Deny, "evil")]).await;
        };
        let calls = async {
            tokio::join!(callers.plaintext(at), callers.tunnel(at, GOOD), callers.tunnel(at, EVIL))
        };
        let (calls, ()) = tokio::join!(calls, push);
        let (plain, good, evil) = calls;
        // STRICT is decided as soon as the workload is known: what it says needs not be told.
        let after = |seconds| Duration::from_secs(seconds)..Duration::from_secs(seconds + 2);
        check("plaintext", plain, Fate::Refused, &after(1));
        check("good", good, StatusCode::OK, &(Duration::from_secs(2)..Duration::from_secs(4)));
        check("evil", evil, StatusCode::UNAUTHORIZED, &after(2));
        self.settled(ip(&self.echo)).await;
    }

    /// The policy is there; the workload comes a second after its callers.
    async fn policy_before_its_workload(&mut self) {
        let Self { script, callers, web, .. } = self;
        let at = ip(web);
        script.policies(vec![from("first", Action::Allow, "good")]).await;
        let push = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            script.workloads(vec![workload(web, &["back/first"])]).await;
        };
        let calls = async {
            tokio::join!(callers.plaintext(at), callers.tunnel(at, GOOD), callers.tunnel(at, EVIL))
        };
        let ((plain, good, evil), ()) = tokio::join!(calls, push);
        let held = Duration::from_secs(1)..Duration::from_secs(3);
        check("plaintext", plain, Fate::Refused, &held);
        check("good", good, StatusCode::OK, &held);
        check("evil", evil, StatusCode::UNAUTHORIZED, &held);
        self.settled(at).await;
    }

    /// What it names is gone: an ALLOW and a DENY. New connections wait for it to come back, then
    /// are denied; an open one has as long.
    async fn policies_taken_away(&mut self) {
        let (echo, web) = (ip(&self.echo), ip(&self.web));
        let open = self.callers.open(web).await;
        self.script.remove(&["back/first", "back/late"]).await;
        let callers = &self.callers;
        let (plain, good, evil, of_echo, shut, cut) = tokio::join!(
            callers.plaintext(web),
            callers.tunnel(web, GOOD),
            callers.tunnel(web, EVIL),
            callers.tunnel(echo, EVIL),
            callers.plaintext(echo),
            Callers::until_cut(open),
        );
        check("plaintext", plain, Fate::Refused, &WAITED);
        check("good", good, StatusCode::UNAUTHORIZED, &WAITED);
        check("evil", evil, StatusCode::UNAUTHORIZED, &WAITED);
        check("evil, to the DENY", of_echo, StatusCode::UNAUTHORIZED, &WAITED);
        // STRICT denies it, whatever else is unknown.
        check("plaintext, STRICT", shut, Fate::Refused, &AT_ONCE);
        assert!(WAITED.contains(&cut), "an open stream was cut after {cut:?}");
    }

    /// Not STRICT, but a policy that nobody knows.
    async fn policy_that_never_comes(&mut self) {
        let at = ip(&self.echo);
        self.script.workloads(vec![workload(&self.echo, &["back/never"])]).await;
        let callers = &self.callers;
        let (plain, good) = tokio::join!(callers.plaintext(at), callers.tunnel(at, GOOD));
        check("plaintext", plain, Fate::Refused, &WAITED);
        check("good", good, StatusCode::UNAUTHORIZED, &WAITED);
    }

    /// Once all is known, decisions are the same, and at once.
    async fn settled(&self, at: IpAddr) {
        check("plaintext", self.callers.plaintext(at).await, Fate::Refused, &AT_ONCE);
        check("good", self.callers.tunnel(at, GOOD).await, StatusCode::OK, &AT_ONCE);
        check("evil", self.callers.tunnel(at, EVIL).await, StatusCode::UNAUTHORIZED, &AT_ONCE);
    }
}

#[track_caller]
fn check<T: PartialEq + std::fmt::Debug>(
    who: &str,
    (outcome, took): (T, Duration),
    expected: T,
    within: &Range<Duration>,
) {
    assert_eq!(outcome, expected, "{who}, after {took:?}");
    assert!(within.contains(&took), "{who}: {outcome:?} after {took:?}");
}

/// Clients outside the cluster, some with an identity of the mesh.
struct Callers {
    netns: String,
    root: Root,
}

impl Callers {
    /// A connection in the clear, and when it was decided.
    async fn plaintext(&self, pod: IpAddr) -> (Fate, Duration) {
        let (netns, to) = (self.netns.clone(), SocketAddr::new(pod, RECORDER));
        let started = Instant::now();
        let call = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            netns::within(&netns, || runtime.unwrap().block_on(knock(to)).0).unwrap()
        };
        (tokio::task::spawn_blocking(call).await.unwrap(), started.elapsed())
    }

    /// What answers a CONNECT, and when.
    async fn tunnel(&self, pod: IpAddr, identity: &str) -> (StatusCode, Duration) {
        let started = Instant::now();
        let tunnel = Tunnel::open(&self.netns, pod, self.root.identify(identity)).await;
        (tunnel.connect(&SocketAddr::new(pod, RECORDER).to_string()).await, started.elapsed())
    }

    /// A stream in use.
    async fn open(&self, pod: IpAddr) -> Open {
        let tunnel = Tunnel::open(&self.netns, pod, self.root.identify(GOOD)).await;
        let to = SocketAddr::new(pod, RECORDER).to_string();
        let (mut send, mut receive, status) = tunnel.stream(http::Method::CONNECT, &to).await;
        assert_eq!(status, StatusCode::OK);
        hbone::echo(&mut send, &mut receive).await;
        (tunnel, send, receive)
    }

    /// How long until a stream is reset.
    async fn until_cut((_tunnel, _send, mut receive): Open) -> Duration {
        let started = Instant::now();
        let ended = tokio::time::timeout(WAITED.end, receive.data()).await.unwrap();
        assert!(ended.unwrap().unwrap_err().is_reset(), "an orderly end");
        started.elapsed()
    }
}

type Open = (Tunnel, h2::SendStream<bytes::Bytes>, h2::RecvStream);

/// A policy about who comes from a namespace, for the workloads that name it.
fn from(name: &str, action: Action, namespace: &str) -> Authorization {
    let exact = StringMatch { match_type: Some(MatchType::Exact(namespace.to_owned())) };
    let matches = vec![Match { namespaces: vec![exact], ..Match::default() }];
    Authorization {
        name: name.to_owned(),
        namespace: String::from("back"),
        scope: Scope::WorkloadSelector.into(),
        action: action.into(),
        groups: vec![Group { rules: vec![Rules { matches }] }],
        ..Authorization::default()
    }
}

async fn pod(bench: &Bench, app: &str) -> Pod {
    bench.cluster.pod_of("back", app).await.unwrap()
}

fn ip(pod: &Pod) -> IpAddr {
    pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap()
}

fn recorder(bench: &Bench, pod: &Pod) -> Recorder {
    let name = pod.metadata.name.as_ref().unwrap();
    let node = bench.cluster.node_of("back", name).unwrap();
    Recorder::start(&node.pod("back", name).unwrap())
}
