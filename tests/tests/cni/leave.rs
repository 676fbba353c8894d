//! A node that the mesh leaves: nothing of it stays, and the pods talk as before.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kit::cluster::{Cluster, programs};
use kit::node::Node;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};

use super::away::{adopt, end_agent, is_captured, starts};
use super::{LIMIT, mesh, namespace, server};

/// The annotation of captured pods.
const ANNOTATION: &str = "ambient.istio.io/redirection";
const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: strict, namespace: shop }
spec: { mtls: { mode: STRICT } }
"#;

/// A pod in the mesh, under STRICT, and one that is not.
async fn world() -> Cluster {
    let cluster = mesh(1).await;
    namespace(&cluster, "shop", true).await;
    namespace(&cluster, "legacy", false).await;
    cluster.apply(STRICT).await.unwrap();
    starts(&cluster, "shop").await;
    cluster.apply(&server("legacy", "client", "node1")).await.unwrap();
    cluster.wait_ready(&["legacy"], LIMIT).await.unwrap();
    is_captured(&cluster, "shop").await;
    cluster
        .wait_until("STRICT is enforced", LIMIT, async || {
            Ok((call(&cluster, ("legacy", "client"), "shop").await != 200).then_some(()))
        })
        .await
        .unwrap();
    cluster
}

/// The status of an answer of `web`, at its pod's own address; 0 for none.
async fn call(cluster: &Cluster, (namespace, client): (&str, &str), to: &str) -> u16 {
    let ip = cluster.pod_of(to, "web").await.unwrap().status.unwrap().pod_ip.unwrap();
    cluster.curl(namespace, client, &format!("http://{ip}:8000/get")).await.unwrap().status
}

/// All that shows on a node and in its pod of the mesh.
async fn traces(cluster: &Cluster) -> Vec<String> {
    let node = &cluster.nodes[0];
    let mut traces = Vec::new();
    let mut folders = vec![cluster.pins(node), node.state_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            traces.push(entry.path().display().to_string());
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    for file in [node.runtime().bin_dir.join("sotto"), node.cni_socket()] {
        traces.extend(file.exists().then(|| file.display().to_string()));
    }
    if node.is_chained("sotto") {
        traces.push(String::from("the plugin"));
    }
    for family in ["-4", "-6"] {
        let argv = ["ip", family, "route", "show", "table", "all"];
        let argv_of_node = argv.map(str::to_owned).to_vec();
        let of_node = node.run(argv_of_node, LIMIT).await.unwrap();
        let of_pod = node.exec(("shop", "web"), &argv, LIMIT).await.unwrap();
        for output in [of_node, of_pod] {
            assert!(output.status.success());
            let text = String::from_utf8(output.stdout).unwrap();
            let ours = |line: &&str| {
                ["127.64.0.0", "240.64.0.0", "100::/64"].iter().any(|range| line.contains(range))
            };
            traces.extend(text.lines().filter(ours).map(str::to_owned));
        }
    }
    let pod = cluster.pod_of("shop", "web").await.unwrap();
    traces.extend(pod.annotations().get(ANNOTATION).map(|value| format!("{ANNOTATION}={value}")));
    traces
}

/// What `sotto uninstall` exits with on a node, and says.
async fn uninstall(cluster: &Cluster, node: &Node) -> (i32, String) {
    let runtime = node.runtime();
    let file = |path: std::path::PathBuf| path.display().to_string();
    let mut argv = vec![file(programs::find("sotto").unwrap()), String::from("uninstall")];
    for (flag, value) in [
        ("node-name", node.name()),
        ("kubeconfig", file(node.config.dir.join("agent.kubeconfig"))),
        ("bin-dir", file(runtime.bin_dir)),
        ("conf-dir", file(runtime.conf_dir)),
        ("socket", file(node.cni_socket())),
        ("state-dir", file(node.state_dir())),
        ("pin-dir", file(cluster.pins(node))),
        ("proc", file(node.proc())),
    ] {
        argv.push(format!("--{flag}={value}"));
    }
    let output = node.run(argv, Duration::from_secs(60)).await.unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_uninstalling_nothing_is_left_on_a_node_and_its_pods_talk() {
    let mut cluster = world().await;
    let node = cluster.nodes[0].clone();
    // What the agent writes beside serving (the list of its pods, the annotation) follows within seconds.
    let whole = async || {
        let traces = traces(&cluster).await;
        let expected = [
            "/connect4",
            "/enrolled.json",
            "/pods.json",
            "the plugin",
            "prohibit 127.64",
            "local 240.64",
            ANNOTATION,
        ];
        let shows = |part: &&str| traces.iter().any(|trace| trace.contains(*part));
        Ok(expected.iter().all(shows).then_some(traces))
    };
    let before = cluster.wait_until("the mesh shows whole", LIMIT, whole).await.unwrap();

    // An agent would put everything back.
    let (exit, said) = uninstall(&cluster, &node).await;
    assert!(exit == 1 && said.contains("an agent runs on this node"), "{exit}: {said}");
    assert_eq!(traces(&cluster).await.len(), before.len());

    // Both containers are gone, and had no time for anything: nobody is served any more.
    let agent = &mut cluster.agents[0];
    agent.cni.as_mut().unwrap().kill().await.unwrap();
    agent.process.kill().await.unwrap();
    assert_ne!(call(&cluster, ("legacy", "client"), "shop").await, 200);

    let (exit, said) = uninstall(&cluster, &node).await;
    assert_eq!(exit, 0, "{said}");
    for part in [
        "node1: removed:",
        "the CNI plugin",
        "the annotation of 1 pod",
        "with 1 pod captured",
        "nothing of the mesh is left",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(traces(&cluster).await, Vec::<String>::new());
    for (from, to) in [(("legacy", "client"), "shop"), (("shop", "web"), "shop")] {
        assert_eq!(call(&cluster, from, to).await, 200, "{from:?}");
    }
    namespace(&cluster, "after", true).await;
    starts(&cluster, "after").await;
    assert_eq!(call(&cluster, ("shop", "web"), "after").await, 200);

    // Once more changes nothing.
    let (exit, said) = uninstall(&cluster, &node).await;
    assert_eq!((exit, said.trim()), (0, "node1: nothing of the mesh is left"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_daemonset_leaves_pods_that_talk_and_an_updated_one_refuses_them() {
    let mut cluster = world().await;
    let sets: Api<DaemonSet> = adopt(&cluster).await;
    // The next agent learns whose pod it is at its start.
    end_agent(&mut cluster).await;
    assert_ne!(call(&cluster, ("legacy", "client"), "shop").await, 200, "an update is under way");
    assert!(cluster.pins(&cluster.nodes[0]).join("links/connect4").exists());
    let agent = &mut cluster.agents[0];
    agent.process.start().unwrap();
    agent.cni.as_mut().unwrap().start().unwrap();
    cluster.wait_for_agents().await.unwrap();
    is_captured(&cluster, "shop").await;

    sets.delete("sotto", &DeleteParams::default()).await.unwrap();
    end_agent(&mut cluster).await;
    assert_eq!(traces(&cluster).await, Vec::<String>::new());
    assert_eq!(call(&cluster, ("legacy", "client"), "shop").await, 200);
    assert_eq!(call(&cluster, ("shop", "web"), "shop").await, 200);
}
