//! The pocket cluster itself, without a mesh.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::Write;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kit::cluster::{Cluster, ClusterOptions};
use kit::wire::Kind;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

const LIMIT: Duration = Duration::from_secs(60);
/// Set for a process that a test starts of itself.
const CHILD: &str = "KIT_TEST_CHILD";
const BOOKINFO: &str = include_str!("../kit/manifests/bookinfo.yaml");
const LEGACY: &str = include_str!("../kit/manifests/legacy.yaml");

async fn bookinfo() -> Cluster {
    let cluster = Cluster::start(ClusterOptions::plain()).await.unwrap();
    cluster.apply(BOOKINFO).await.unwrap();
    cluster.apply(LEGACY).await.unwrap();
    cluster.wait_ready(&["bookinfo", "legacy"], LIMIT).await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_talk_by_service_name_and_the_wire_shows_what_they_say() {
    let cluster = bookinfo().await;
    let mark = cluster.wire.mark();
    let url = "http://details.bookinfo.svc.cluster.local:9080/details/1?kit=marker";
    let answer = cluster.curl("legacy", "sleep", url).await.unwrap();
    assert_eq!((answer.exit, answer.status), (0, 200), "{answer:?}");
    let page = "http://productpage.bookinfo:9080/productpage";
    let answer = cluster.curl("legacy", "sleep", page).await.unwrap();
    assert_eq!((answer.exit, answer.status), (0, 200), "{answer:?}");
    assert!(answer.body.contains("Reviewer1") && answer.body.contains("paperback"));
    let trace = cluster.wire.since(mark).unwrap();
    assert!(trace.reads(b"/details/1?kit=marker"));
    assert!(trace.to_port(9080).all(|flow| flow.kind() == Kind::Http), "{:?}", trace.flows);
    let outside = cluster.curl("legacy", "sleep", &cluster.external_url()).await.unwrap();
    assert_eq!((outside.exit, outside.status), (0, 200), "{outside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_cluster_leaves_nothing() {
    let cluster = bookinfo().await;
    let id = cluster.id().to_owned();
    assert!(!kit::run::traces(&id).is_empty());
    let errors = cluster.stop().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(kit::run::traces(&id), Vec::<String>::new());
}

/// Runs this test again in another process, which makes a cluster and waits: its id and process.
async fn in_a_child(test: &str) -> (String, tokio::process::Child) {
    let this = std::env::current_exe().unwrap();
    let mut child = tokio::process::Command::new(this)
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the child ended early");
        if let Some((_, id)) = line.split_once("cluster ") {
            return (id.to_owned(), child);
        }
    }
}

async fn be_the_child() {
    let cluster = bookinfo().await;
    let mut parent = std::io::stdout();
    writeln!(parent, "cluster {}", cluster.id()).unwrap();
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_removed_by_the_next() {
    if std::env::var_os(CHILD).is_some() {
        be_the_child().await;
    }
    let (id, mut child) = in_a_child("a_killed_run_is_removed_by_the_next").await;
    // Not waited for: what is left of the process must not count as alive.
    let stat = format!("/proc/{}/stat", child.id().unwrap());
    child.start_kill().unwrap();
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let next = kit::run::Run::claim().unwrap();
    assert_eq!(kit::run::traces(&id), Vec::<String>::new());
    drop(next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_removes_all() {
    if std::env::var_os(CHILD).is_some() {
        be_the_child().await;
    }
    let (id, mut child) = in_a_child("a_signal_removes_all").await;
    assert!(!kit::run::traces(&id).is_empty());
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let status = child.wait().await.unwrap();
    assert_eq!(status.code(), Some(143));
    assert_eq!(kit::run::traces(&id), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaled_deployment_and_a_deleted_pod_change_what_a_service_leads_to() {
    let cluster = bookinfo().await;
    let old = cluster.pod_of("bookinfo", "details").await.unwrap().name_any();
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), "bookinfo");
    api.delete(&old, &DeleteParams::default()).await.unwrap();
    let gone = async || Ok(api.get_opt(&old).await?.is_none().then_some(()));
    cluster.wait_until("the old pod is gone", LIMIT, gone).await.unwrap();
    let replaced = async || {
        let pods = cluster.pods("bookinfo", "app=details").await?;
        Ok((pods.len() == 1 && pods[0].name_any() != old).then_some(()))
    };
    cluster.wait_until("there is a new one", LIMIT, replaced).await.unwrap();
    cluster.wait_ready(&["bookinfo"], LIMIT).await.unwrap();
    let url = "http://details.bookinfo:9080/details/1";
    assert_eq!(cluster.curl("legacy", "sleep", url).await.unwrap().status, 200);

    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), "bookinfo");
    let none = Patch::Merge(serde_json::json!({ "spec": { "replicas": 0 } }));
    deployments.patch("details-v1", &PatchParams::default(), &none).await.unwrap();
    let refused = async || {
        let answer = cluster.curl("legacy", "sleep", url).await?;
        Ok((answer.exit == 7).then_some(()))
    };
    cluster.wait_until("the service refuses", LIMIT, refused).await.unwrap();
    cluster.delete(BOOKINFO).await.unwrap();
    let ended = async || Ok(cluster.pods("bookinfo", "").await?.is_empty().then_some(()));
    cluster.wait_until("the namespace's pods are gone", LIMIT, ended).await.unwrap();
}
