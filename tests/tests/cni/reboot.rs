//! A node that loses its power, again and again, while somebody asks every address of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use kit::cluster::Cluster;
use kit::netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{LIMIT, mesh, namespace, server};

const REBOOTS: usize = 3;
/// How long a node is up without its agent: longer than a pod takes to start.
const WITHOUT_AGENT: Duration = Duration::from_secs(4);
/// Every address of the node is asked so often.
const PACE: Duration = Duration::from_millis(100);
const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: strict, namespace: strict }
spec: { mtls: { mode: STRICT } }
"#;

/// Somebody outside the mesh who asks all pods of the second node.
struct Sweep {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    answers: std::thread::JoinHandle<Vec<(Instant, Ipv4Addr)>>,
}

impl Sweep {
    fn start(netns: String) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (ended, round) = (Arc::clone(&stop), Arc::clone(&rounds));
        let answers = std::thread::spawn(move || {
            // On one thread, so that every socket is in the namespace that it has entered.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let sweep = async {
                let mut answers = Vec::new();
                let mut pace = tokio::time::interval(PACE);
                while !ended.load(Ordering::SeqCst) {
                    pace.tick().await;
                    let all = (2..=60).map(|host| answers_in_the_clear([10, 244, 2, host].into()));
                    answers.extend(join_all(all).await.into_iter().flatten());
                    round.fetch_add(1, Ordering::SeqCst);
                }
                answers
            };
            netns::within(&netns, || runtime.unwrap().block_on(sweep)).unwrap()
        });
        Self { stop, rounds, answers }
    }
}

/// When and where something came back in the clear.
async fn answers_in_the_clear(ip: Ipv4Addr) -> Option<(Instant, Ipv4Addr)> {
    let ask = async {
        let mut stream = TcpStream::connect((ip, 8000)).await.ok()?;
        stream.write_all(b"GET /get HTTP/1.0\r\n\r\n").await.ok()?;
        stream.read(&mut [0; 64]).await.ok().filter(|bytes| *bytes > 0)
    };
    let answer = tokio::time::timeout(PACE, ask).await.ok().flatten();
    answer.map(|_| (Instant::now(), ip))
}

async fn mesh_works(cluster: &Cluster) {
    let asked = async || {
        let web = cluster.pod_of("strict", "web").await?.status.unwrap().pod_ip.unwrap();
        let answer = cluster.curl("strict", "client", &format!("http://{web}:8000/get")).await?;
        Ok((answer.status == 200).then_some(()))
    };
    cluster.wait_until("the mesh carries", LIMIT, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_lets_nothing_of_a_strict_namespace_out_in_the_clear() {
    let mut cluster = mesh(2).await;
    namespace(&cluster, "strict", true).await;
    namespace(&cluster, "legacy", false).await;
    cluster.apply(STRICT).await.unwrap();
    for (namespace, name, node) in
        [("strict", "web", "node2"), ("strict", "client", "node1"), ("legacy", "outside", "node1")]
    {
        cluster.apply(&server(namespace, name, node)).await.unwrap();
    }
    cluster.wait_ready(&["strict", "legacy"], LIMIT).await.unwrap();
    mesh_works(&cluster).await;
    let outside = cluster.nodes[0].pod("legacy", "outside").unwrap().netns;
    let sweep = Sweep::start(outside.file_name().unwrap().to_str().unwrap().to_owned());
    for _ in 0..REBOOTS {
        cluster.power_off(1).await.unwrap();
        cluster.nodes[1].boot().unwrap();
        tokio::time::sleep(WITHOUT_AGENT).await;
        let agent = &mut cluster.agents[1];
        agent.process.start().unwrap();
        agent.cni.as_mut().unwrap().start().unwrap();
        cluster.wait_for_agents().await.unwrap();
        cluster.wait_ready(&["strict"], LIMIT).await.unwrap();
        mesh_works(&cluster).await;
    }
    sweep.stop.store(true, Ordering::SeqCst);
    let rounds = sweep.rounds.load(Ordering::SeqCst);
    let answers = sweep.answers.join().unwrap();
    assert!(rounds > REBOOTS * 20, "asked {rounds} times only");
    assert!(answers.is_empty(), "{} answers in the clear: {answers:?}", answers.len());
}
