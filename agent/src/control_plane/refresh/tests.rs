use super::*;
use crate::control_plane::model::{Change, ObjectKey, PeerAuthentication, Pod, Selector};
use crate::control_plane::snapshot::Settings;

fn index() -> Index {
    Index::new(Settings {
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
    })
}

fn list<R>() -> Change<R> {
    Change::Replace(Vec::new())
}

fn lists() -> [Event; 6] {
    [
        Event::Pod(list::<Pod>()),
        Event::Service(list()),
        Event::Slice(list()),
        Event::Node(list()),
        Event::PeerAuthentication(list::<PeerAuthentication>()),
        Event::AuthorizationPolicy(list()),
    ]
}

fn policy(name: usize) -> Event {
    Event::PeerAuthentication(Change::Apply(PeerAuthentication {
        key: ObjectKey::new("foo", &name.to_string()),
        created: 0,
        selector: Selector::All,
        mode: crate::control_plane::model::Mode::Strict,
        ports: std::collections::BTreeMap::new(),
    }))
}

struct Running {
    changes: mpsc::Sender<Event>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start() -> Running {
    let (changes, receiver) = mpsc::channel(1024);
    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(index(), receiver, publish, Metrics::default(), stop.clone()));
    Running { changes, snapshots, stop, task }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_every_list_is_in() {
    let mut running = start();
    let mut lists = lists().to_vec();
    let last = lists.pop().unwrap();
    for event in lists {
        running.changes.send(event).await.unwrap();
    }
    tokio::time::sleep(LATEST * 2).await;
    assert!(!running.snapshots.has_changed().unwrap());
    running.changes.send(last).await.unwrap();
    running.snapshots.changed().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_changes_make_one_snapshot() {
    let mut running = start();
    for event in lists().into_iter().chain((0..100).map(policy)) {
        running.changes.send(event).await.unwrap();
    }
    let began = Instant::now();
    running.snapshots.changed().await.unwrap();
    assert_eq!(began.elapsed(), QUIET);
    tokio::time::sleep(LATEST).await;
    assert!(!running.snapshots.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_steady_stream_of_changes_is_published_in_time() {
    let mut running = start();
    for event in lists() {
        running.changes.send(event).await.unwrap();
    }
    running.snapshots.changed().await.unwrap();
    let changes = running.changes.clone();
    let began = Instant::now();
    let feeding = tokio::spawn(async move {
        for name in 0.. {
            if changes.send(policy(name)).await.is_err() {
                return;
            }
            tokio::time::sleep(QUIET / 2).await;
        }
    });
    running.snapshots.changed().await.unwrap();
    assert!(began.elapsed() <= LATEST + QUIET, "{:?}", began.elapsed());
    running.stop.cancel();
    running.task.await.unwrap();
    feeding.await.unwrap();
}
