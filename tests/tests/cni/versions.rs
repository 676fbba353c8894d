//! Pods of a node whose network has any version of the specification, or names none.

use super::{LIMIT, mesh, namespace, server, wait_gone};

const VERSIONS: [&str; 8] = ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[tokio::test(flavor = "multi_thread")]
async fn pods_start_captured_and_end_whatever_version_the_network_is_of() {
    let cluster = mesh(1).await;
    let node = &cluster.nodes[0];
    for (number, version) in VERSIONS.into_iter().enumerate() {
        let name = format!("v{number}");
        namespace(&cluster, &name, true).await;
        node.write_network(version).unwrap();
        let runtime = node.runtime();
        let follows = async || {
            let list = runtime.ready().await?;
            let ours = list.kinds() == ["kit-net", "sotto"] && list.version == version;
            Ok(ours.then_some(()))
        };
        cluster.wait_until(&format!("the list is of {version:?}"), LIMIT, follows).await.unwrap();
        cluster.apply(&server(&name, "web", "node1")).await.unwrap();
        cluster.wait_ready(&[&name], LIMIT).await.unwrap();
        let pod = cluster.pod_of(&name, "web").await.unwrap();
        let captured = async || {
            let dump = cluster.agents[0].config_dump().await?.to_string();
            Ok(dump.contains(pod.metadata.uid.as_deref().unwrap()).then_some(()))
        };
        cluster.wait_until("the pod is captured", LIMIT, captured).await.unwrap();
        runtime.collect_garbage(&[]).await.unwrap();
        cluster.delete(&server(&name, "web", "node1")).await.unwrap();
        wait_gone(&cluster, &name, "web").await;
        let left = std::fs::read_dir(&runtime.cache_dir).unwrap().count();
        assert_eq!(left, 0, "{version:?}: a sandbox was not taken down");
    }
}
