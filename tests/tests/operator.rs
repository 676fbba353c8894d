//! The operator's commands on the pocket cluster: `sotto explain`, `migrate`, `status`, `certs` and `connections`.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::process::Output;
use std::time::Duration;

use kit::cluster::{Cluster, ClusterOptions, programs};
use kit::netns;
use tokio::net::{TcpListener, TcpStream};

const BOOKINFO: &str = include_str!("../kit/manifests/bookinfo.yaml");
const LEGACY: &str = include_str!("../kit/manifests/legacy.yaml");
const STRICT: &str = include_str!("../kit/manifests/strict.yaml");
const DETAILS: &str = "http://details.bookinfo.svc.cluster.local:9080/details/0";
/// The policy that STRICT is converted into.
const CONVERTED: &str = "istio-system/istio_converted_static_strict";
/// How long a change may take to be seen everywhere.
const SETTLE: Duration = Duration::from_secs(20);

/// Forwards a port of this machine to a node's admin page, as `kubectl port-forward` does.
async fn forward(node_netns: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let dial = || std::net::TcpStream::connect("127.0.0.1:15000");
            // Refused while the agent restarts.
            let Ok(Ok(far)) = netns::within(&node_netns, dial) else { continue };
            far.set_nonblocking(true).unwrap();
            let mut far = TcpStream::from_std(far).unwrap();
            tokio::spawn(async move {
                let copied = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                tracing::trace!(?copied, "forwarded");
            });
        }
    });
    url
}

struct World {
    cluster: Cluster,
    /// The agents' admin pages, in order.
    admins: Vec<String>,
}

impl World {
    /// Bookinfo enrolled on both nodes, sleep in `legacy` not.
    async fn start() -> Self {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        cluster.apply(BOOKINFO).await.unwrap();
        cluster.apply(LEGACY).await.unwrap();
        cluster.wait_ready(&["bookinfo", "legacy"], Duration::from_secs(90)).await.unwrap();
        let mut admins = Vec::new();
        for agent in &cluster.agents {
            admins.push(forward(agent.netns().to_owned()).await);
        }
        Self { cluster, admins }
    }

    /// Runs `sotto` and returns its exit code and what it said.
    async fn sotto(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = tokio::process::Command::new(programs::find("sotto").unwrap());
        let limit = Duration::from_secs(60);
        let running = command.args(arguments).kill_on_drop(true).output();
        let Output { status, stdout, stderr } =
            tokio::time::timeout(limit, running).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (status.code().unwrap(), text(&stdout) + &text(&stderr))
    }

    async fn migrate(&self) -> (i32, String) {
        let (one, other) = (self.admins[0].as_str(), self.admins[1].as_str());
        self.sotto(&["migrate", "bookinfo", "--admin", one, "--admin", other]).await
    }

    /// Asks until the answer has `code` and `text`.
    async fn until(&self, what: &str, code: i32, text: &str, arguments: &[&str]) -> String {
        let asked = self.cluster.wait_until(what, SETTLE, async || {
            let (exit, said) = self.sotto(arguments).await;
            anyhow::ensure!(exit == code && said.contains(text), "exit {exit}: {said}");
            Ok(Some(said))
        });
        asked.await.unwrap()
    }

    /// Calls until curl's exit code is `exit`.
    async fn call(&self, exit: i32) {
        let what = format!("sleep -> details: curl exits with {exit}");
        let called = self.cluster.wait_until(&what, SETTLE, async || {
            let answer = self.cluster.curl("legacy", "sleep", DETAILS).await?;
            anyhow::ensure!(answer.exit == exit, "{answer:?}");
            Ok(Some(()))
        });
        called.await.unwrap();
    }

    async fn restart_agents(&mut self) {
        for agent in &mut self.cluster.agents {
            agent.process.terminate(Duration::from_secs(60)).await.unwrap();
            agent.process.start().unwrap();
        }
        self.cluster.wait_for_agents().await.unwrap();
    }
}

/// The row of sleep calling details.
fn row(table: &str) -> &str {
    let of = |line: &&str| line.starts_with("bookinfo/details") && line.contains("legacy/sleep");
    table.lines().find(of).unwrap_or_else(|| panic!("no row of sleep calling details:\n{table}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_break_is_told_and_why_one_is_denied() {
    let mut world = World::start().await;
    let explain = |admin: &str| {
        let pair = ["--from", "legacy/sleep", "--to", "bookinfo/details-v1:9080"];
        let all = [["explain", "--admin", admin].as_slice(), &pair].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let explain = explain(&world.admins[0]);
    let explain: Vec<_> = explain.iter().map(String::as_str).collect();

    // PERMISSIVE: sleep comes in the clear, and is told by its workload's name.
    world.call(0).await;
    let (exit, table) = world.migrate().await;
    assert_eq!(exit, 3, "{table}");
    assert!(row(&table).ends_with("breaks"), "{table}");
    world.until("sleep is allowed", 0, "ALLOWED  port 9080, plaintext", &explain).await;

    // A node that is not asked, or does not answer, is an error: never half an answer.
    let (exit, said) = world.sotto(&["migrate", "bookinfo", "--admin", &world.admins[0]]).await;
    assert!(exit == 1 && said.contains("not every node was asked"), "{exit}: {said}");
    let (exit, said) = world.sotto(&["migrate", "--all", "--admin", "http://127.0.0.1:1"]).await;
    assert!(exit == 1 && said.contains("127.0.0.1:1 does not tell"), "{exit}: {said}");

    // STRICT: denied by name, in the report, the access log and the metric.
    world.cluster.apply(STRICT).await.unwrap();
    world.until("STRICT is told", 3, CONVERTED, &explain).await;
    world.call(56).await;
    let (exit, table) = world.migrate().await;
    assert!(exit == 0 && row(&table).ends_with("denied already"), "{exit}: {table}");
    let by = format!("policy=\"{CONVERTED}\" rule=0");
    let logged = world.cluster.wait_until("the access log tells why", SETTLE, async || {
        let told = world.cluster.agents.iter().any(|agent| agent.process.log().contains(&by));
        Ok(told.then_some(()))
    });
    logged.await.unwrap();
    let (mut denied, policy) = (0.0, format!("policy=\"{CONVERTED}\""));
    for agent in &world.cluster.agents {
        let labels = ["response_flags=\"DENY\"", &policy, "rule=\"0\""];
        denied += agent.metric("istio_tcp_connections_failed_total", &labels).await.unwrap();
    }
    assert!(denied >= 1.0, "{denied}");

    // Enrolled by now: what came in the clear before does not count, as no agent has restarted.
    world.cluster.delete(STRICT).await.unwrap();
    let (key, ambient) = ("istio.io/dataplane-mode", Some("ambient"));
    world.cluster.label_namespace("legacy", key, ambient).await.unwrap();
    world
        .until("sleep is enrolled", 0, "ALLOWED  port 9080, HBONE, as it comes now", &explain)
        .await;
    let (one, other) = (world.admins[0].clone(), world.admins[1].clone());
    let migrate = ["migrate", "bookinfo", "--admin", &one, "--admin", &other];
    let table = world.until("sleep would pass", 0, "would pass now", &migrate).await;
    assert!(row(&table).contains("was plaintext until enrolled at "), "{table}");
    assert!(table.ends_with("Nobody would break.\n"), "{table}");

    // Counted from zero.
    world.restart_agents().await;
    world.call(0).await;
    let (exit, table) = world.migrate().await;
    assert!(exit == 0 && table.ends_with("Nobody would break.\n"), "{exit}: {table}");
}

/// Holds a connection from a pod open.
async fn hold(world: &World, (namespace, app): (&str, &str), to: &str) {
    let pod = world.cluster.pod_of(namespace, app).await.unwrap().metadata.name.unwrap();
    let node = world.cluster.nodes.iter().find(|node| node.pod(namespace, &pod).is_some());
    let (node, namespace) = (node.unwrap().clone(), namespace.to_owned());
    let script = format!("exec 3<>/dev/tcp/{to}/9080; printf 'GET /' >&3; sleep 60");
    tokio::spawn(async move {
        let limit = Duration::from_secs(90);
        let held = node.exec((&namespace, &pod), &["bash", "-c", &script], limit).await;
        tracing::trace!(?held, "ended");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn how_the_mesh_is_and_what_is_wrong_is_told() {
    let mut world = World::start().await;
    let (key, ambient) = ("istio.io/dataplane-mode", Some("ambient"));
    world.cluster.label_namespace("legacy", key, ambient).await.unwrap();
    let all = world.admins.join(",");
    let status = ["status", "--admin", &all];

    let certs = ["certs", "--admin", &all];
    world.until("sleep is in the mesh", 0, "ns/legacy/sa/sleep", &certs).await;
    let said = world.until("all is well", 0, "All is well.", &status).await;
    for node in ["node1", "node2"] {
        let row = said.lines().find(|line| line.starts_with(node)).unwrap();
        assert!(row.contains("yes") && row.contains("connected, answered"), "{said}");
        assert!(row.contains("next expires in 23h"), "{said}");
    }
    // Of one node it tells, too, and names the other; of all of them none may be missing.
    let (exit, said) = world.sotto(&["status", "--admin", &world.admins[0]]).await;
    assert!(exit == 0 && said.contains("though enrolled pods run there: node2"), "{exit}: {said}");
    let twice = [world.admins[0].as_str(); 2].join(",");
    let (exit, said) = world.sotto(&["status", "--admin", &twice]).await;
    assert!(exit == 1 && said.contains("not every node was asked"), "{exit}: {said}");
    let (exit, said) = world.sotto(&["status", "--admin", "http://127.0.0.1:1"]).await;
    assert!(exit == 1 && said.contains("127.0.0.1:1 does not tell"), "{exit}: {said}");
    let (exit, said) = world.sotto(&["status", "--json", "--admin", &all]).await;
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(exit == 0 && json["nodes"][0]["controlPlane"]["connected"] == true, "{said}");

    let (exit, said) = world.sotto(&certs).await;
    let identity = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-details";
    let row = said.lines().find(|line| line.contains(identity));
    assert!(exit == 0 && row.is_some_and(|row| row.contains("usable  in 23h")), "{exit}: {said}");

    let details = world.cluster.pod_of("bookinfo", "details").await.unwrap();
    hold(&world, ("legacy", "sleep"), &details.status.unwrap().pod_ip.unwrap()).await;
    let connections = ["connections", "--admin", &all];
    let said = world.until("it is listed", 0, "bookinfo/details", &connections).await;
    let row = said.lines().find(|line| line.contains("bookinfo/details")).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!((words[2], words[7], words[8], words[9]), ("in", "HBONE", "5", "0"), "{said}");
    assert_eq!(words[4], "cluster.local/ns/legacy/sa/sleep", "{said}");
    assert_eq!(words[6], "cluster.local/ns/bookinfo/sa/bookinfo-details", "{said}");

    // The control plane goes.
    let control_plane = world.cluster.control_plane.as_mut().unwrap();
    control_plane.process.kill().await.unwrap();
    // Each agent notices by itself.
    let said = world.until("it is missed", 3, "2 things are wrong:", &status).await;
    assert!(said.contains("no connection to https://"), "{said}");
    assert!(said.contains("AWAY, answered"), "{said}");
}
