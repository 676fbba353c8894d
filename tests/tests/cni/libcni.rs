//! The plugin under the library that containerd, CRI-O and Multus call plugins with.
//!
//! It is written in Go and made outside of this repository, from the module proxy: not run unless it is
//! asked for (`cargo nextest run --run-ignored only -E 'binary(cni)'`), and then without a Go toolchain it
//! fails.

use std::path::Path;
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use kit::cluster::Cluster;
use kit::netns;
use kit::topology::PodLink;
use kube::ResourceExt;
use serde_json::json;

use super::{LIMIT, mesh, namespace};

const CLIENT: &str = include_str!("libcni.go");
const MODULE: &str =
    "module client\n\ngo 1.21\n\nrequire github.com/containernetworking/cni v1.3.0\n";
const VERSIONS: [&str; 8] = ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Builds the client.
fn build(dir: &Path) -> std::path::PathBuf {
    std::fs::write(dir.join("main.go"), CLIENT).unwrap();
    std::fs::write(dir.join("go.mod"), MODULE).unwrap();
    for args in [&["mod", "tidy"][..], &["build", "-o", "client", "."]] {
        let output = Command::new("go")
            .args(args)
            .current_dir(dir)
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .output()
            .expect("a Go toolchain, to build a client of libcni with");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "go {args:?}: {said}");
    }
    dir.join("client")
}

/// A pod of an enrolled namespace that no kubelet runs.
async fn pod(cluster: &Cluster, name: &str) -> Pod {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "shop",
            "annotations": { (kit::kubelet::STATIC): "true" } },
        "spec": { "nodeName": "node1", "containers": [{ "name": "app", "image": "pause" }] },
    }))
    .unwrap();
    let api: kube::Api<Pod> = kube::Api::namespaced(cluster.client.clone(), "shop");
    api.create(&Default::default(), &pod).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Go toolchain and the Go module proxy"]
async fn libcni_adds_checks_and_deletes_a_pod_with_every_version() {
    let dir = tempfile::tempdir().unwrap();
    let client = build(dir.path());
    let cluster = mesh(1).await;
    namespace(&cluster, "shop", true).await;
    let node = &cluster.nodes[0];
    let runtime = node.runtime();
    for (number, version) in VERSIONS.into_iter().enumerate() {
        node.write_network(version).unwrap();
        let follows = async || Ok((runtime.ready().await?.version == version).then_some(()));
        cluster.wait_until("the list follows", LIMIT, follows).await.unwrap();
        let name = format!("pod-{number}");
        let pod = pod(&cluster, &name).await;
        let pin = format!("kit-{}-libcni-{number}", cluster.id());
        netns::add(&pin).unwrap();
        let ips = node.config.number.pod_ips(200 + u8::try_from(number).unwrap());
        let (node_netns, host_device) = (node.config.netns.clone(), format!("libcni{number}"));
        let link = PodLink {
            node_netns,
            pod_netns: pin.clone(),
            host_device,
            ips,
            node: node.config.number,
        };
        link.create().unwrap();
        let output = Command::new(&client)
            .args([&runtime.conf_dir, &runtime.bin_dir, &dir.path().join("cache")])
            .arg(netns::path(&pin))
            .args(["shop", &name, &pod.uid().unwrap(), &ips.0.to_string()])
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{version:?}: {said}\n{}", cluster.post_mortem());
        assert!(said.contains("list 00-sotto.conflist"), "{said}");
        let plane = cluster.agents[0].process.log();
        assert!(!plane.contains("CNI ADD refused"), "{version:?}: {plane}");
        netns::remove(&pin).unwrap();
    }
}
