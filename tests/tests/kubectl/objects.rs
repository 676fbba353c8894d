//! Objects of every kind: made, changed, listed, described, deleted.

use serde_json::json;

use crate::cluster::{Cluster, SLEEP, policy, rows};

#[test]
fn namespaces_are_made_labelled_and_deleted() {
    let cluster = Cluster::start();
    assert_eq!(cluster.ok("create ns bookinfo"), "namespace/bookinfo created\n");
    let labelled = cluster.ok("label ns bookinfo istio.io/dataplane-mode=ambient");
    assert_eq!(labelled, "namespace/bookinfo labeled\n");
    let listed = cluster.ok("get ns -l istio.io/dataplane-mode=ambient");
    assert_eq!(rows(&listed)[0][..2], ["bookinfo", "Active"]);
    assert!(cluster.ok("get ns bookinfo --show-labels").contains("dataplane-mode=ambient"));
    cluster.ok("label ns bookinfo istio.io/dataplane-mode-");
    let found = cluster.ok("get ns bookinfo -o 'jsonpath={.metadata.labels}'");
    assert_eq!(found, r#"{"kubernetes.io/metadata.name":"bookinfo"}"#);
    assert!(cluster.fails_with("create ns bookinfo", "").contains("AlreadyExists"));
    cluster.ok("delete ns bookinfo");
    let gone = cluster.fails_with("get ns bookinfo", "");
    assert_eq!(gone, "Error from server (NotFound): namespaces \"bookinfo\" not found\n");
}

#[test]
fn a_namespace_takes_its_contents_along() {
    let cluster = Cluster::start();
    cluster.ok("create ns sleep");
    cluster.ok_with("apply -n sleep -f -", SLEEP);
    assert_eq!(
        cluster.ok("get sa -n sleep -o name"),
        "serviceaccount/default\nserviceaccount/sleep\n"
    );
    cluster.ok("delete ns sleep");
    assert_eq!(cluster.ok("get deploy,svc,sa -n sleep -o name"), "");
    cluster.ok_with("create -f -", "apiVersion: v1\nkind: Namespace\nmetadata: {name: sleep}");
}

#[test]
fn applications_are_applied_changed_and_described() {
    let cluster = Cluster::start();
    let applied = cluster.ok_with("apply -f -", SLEEP);
    assert_eq!(
        applied,
        "serviceaccount/sleep created\nservice/sleep created\ndeployment.apps/sleep created\n"
    );
    let applied = cluster.ok_with("apply -f -", SLEEP);
    assert_eq!(
        applied,
        "serviceaccount/sleep unchanged\nservice/sleep unchanged\ndeployment.apps/sleep unchanged\n"
    );
    let changed =
        SLEEP.replace("curlimages/curl", "curlimages/curl:8").replace("port: 80", "port: 81");
    let applied = cluster.ok_with("apply -f -", &changed);
    assert_eq!(
        applied,
        "serviceaccount/sleep unchanged\nservice/sleep configured\ndeployment.apps/sleep configured\n"
    );
    let image = "get deploy sleep -o 'jsonpath={.spec.template.spec.containers[*].image} {.metadata.generation}'";
    assert_eq!(cluster.ok(image), "curlimages/curl:8 2");
    let service = cluster.ok("get svc sleep -o wide");
    let service = &rows(&service)[0];
    assert_eq!((service[1].as_str(), service[4].as_str()), ("ClusterIP", "81/TCP"));
    assert!(service[2].starts_with("10.96."), "{service:?}");
    assert_eq!(service[6], "app=sleep");
    let described = cluster.ok("describe deploy sleep");
    assert!(described.contains("1 desired | 0 updated | 0 total"), "{described}");
    let described = cluster.ok("describe svc sleep");
    assert!(described.contains("Selector:                 app=sleep"), "{described}");
    cluster.ok("set image deploy/sleep sleep=curlimages/curl:9");
    assert_eq!(cluster.ok(image), "curlimages/curl:9 3");
    cluster.ok("rollout restart deploy/sleep");
    cluster.ok("annotate deploy sleep note=kept");
    cluster.ok("patch deploy sleep -p '{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"sleep\",\"image\":\"x\"}]}}}}'");
    cluster.ok("patch svc sleep --type json -p '[{\"op\":\"replace\",\"path\":\"/spec/ports/0/port\",\"value\":82}]'");
    cluster.ok("patch svc sleep --type merge -p '{\"metadata\":{\"labels\":{\"app\":null}}}'");
    let labels = cluster.ok("get svc sleep -o 'jsonpath={.metadata.labels} {.spec.ports[0].port}'");
    assert_eq!(labels, "{\"service\":\"sleep\"} 82");
    cluster.ok_with("replace -f -", SLEEP);
    cluster.ok_with("diff -f -", SLEEP);
    cluster.ok_with("delete -f -", SLEEP);
    assert_eq!(cluster.ok("get all -o name"), "");
}

#[test]
fn what_an_object_owns_follows_it_or_stays() {
    let cluster = Cluster::start();
    let own = |name: &str| {
        cluster.ok(&format!("create configmap {name}-owner"));
        let uid = cluster.ok(&format!("get cm {name}-owner -o 'jsonpath={{.metadata.uid}}'"));
        cluster.ok(&format!("create configmap {name}-owned"));
        let patch = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": format!("{name}-owner"), "uid": uid},
        ]}});
        cluster.ok(&format!("patch cm {name}-owned --type merge -p '{patch}'"));
    };
    for cascade in ["background", "foreground", "orphan"] {
        own(cascade);
        cluster.ok(&format!("delete cm {cascade}-owner --cascade={cascade}"));
    }
    let left = cluster.ok("get cm -o name");
    assert_eq!(left, "configmap/kube-root-ca.crt\nconfigmap/orphan-owned\n");
}

#[test]
fn deployments_scale_and_their_rollout_is_followed() {
    let cluster = Cluster::start();
    cluster.ok("create deployment web --image=nginx");
    cluster.ok("scale deploy web --replicas=3");
    assert_eq!(cluster.ok("get deploy web -o 'jsonpath={.spec.replicas}'"), "3");
    let status = json!({"status": {
        "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
        "conditions": [{"type": "Available", "status": "True"}],
    }});
    cluster.api.store().patch_status("deployments", "default", "web", &status).unwrap();
    assert_eq!(
        cluster.ok("rollout status deploy/web --timeout 5s"),
        "deployment \"web\" successfully rolled out\n"
    );
    cluster.ok("wait --for condition=Available deploy/web --timeout 5s");
    assert_eq!(rows(&cluster.ok("get deploy web"))[0][..4], ["web", "3/3", "3", "3"]);
}

#[test]
fn server_side_apply_creates_and_merges() {
    let cluster = Cluster::start().with_peer_authentication();
    let applied = cluster.ok_with("apply --server-side -f -", SLEEP);
    assert!(applied.contains("deployment.apps/sleep serverside-applied"), "{applied}");
    cluster.ok_with("apply --server-side -f -", &SLEEP.replace("replicas: 1", "replicas: 2"));
    assert_eq!(cluster.ok("get deploy sleep -o 'jsonpath={.spec.replicas}'"), "2");
    cluster.ok_with("apply --server-side -f -", &policy("v1", "default", "a", "STRICT"));
    cluster.ok_with("apply --server-side -f -", &policy("v1", "default", "a", "PERMISSIVE"));
    assert_eq!(cluster.ok("get pa a -o 'jsonpath={.spec.mtls.mode}'"), "PERMISSIVE");
    cluster.ok("create ns dry --dry-run=server");
    cluster.fails_with("get ns dry", "");
}

#[test]
fn every_kind_is_described_and_listed() {
    let cluster = Cluster::start();
    cluster.ok_with("apply -f -", SLEEP);
    cluster.ok("run one --image=busybox");
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "labels": {"node-role.kubernetes.io/worker": ""}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "172.31.0.11"}],
            "nodeInfo": {"kubeletVersion": "v1.32.0", "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "kit://1",
                "kernelVersion": "6", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "linux", "osImage": "kit", "systemUUID": ""},
        },
    });
    cluster.api.store().create(node).unwrap();
    assert_eq!(rows(&cluster.ok("get nodes -o wide"))[0][..3], ["node1", "Ready", "worker"]);
    for what in [
        "pod one",
        "ns default",
        "node node1",
        "sa sleep",
        "svc sleep",
        "deploy sleep",
        "cm kube-root-ca.crt",
    ] {
        cluster.ok(&format!("describe {what}"));
    }
    for kind in [
        "pods",
        "svc",
        "ep",
        "cm",
        "secrets",
        "sa",
        "nodes",
        "events",
        "deploy",
        "rs",
        "ds",
        "sts",
        "endpointslices",
        "leases",
        "roles",
        "rolebindings",
        "clusterroles",
        "clusterrolebindings",
        "crd",
        "ns",
        "quota",
        "limits",
    ] {
        cluster.ok(&format!("get {kind} -A"));
        cluster.ok(&format!("get {kind} -A -o yaml"));
    }
}

#[test]
fn secrets_config_maps_and_accounts_are_created_by_kubectl() {
    let cluster = Cluster::start();
    cluster.ok("create secret generic s --from-literal=a=1 --from-literal=b=2");
    assert_eq!(cluster.ok("get secret s -o 'jsonpath={.data.a} {.type}'"), "MQ== Opaque");
    cluster.ok("create configmap c --from-literal=x=y");
    assert_eq!(cluster.ok("get cm c -o 'jsonpath={.data}'"), "{\"x\":\"y\"}");
    cluster.ok("create sa robot");
    cluster.ok("create deployment web --image=nginx --port=80 --replicas=2");
    let web = cluster.ok("get deploy web -o 'jsonpath={.spec.replicas} {.spec.selector.matchLabels.app} {.spec.template.spec.containers[0].ports[0].containerPort}'");
    assert_eq!(web, "2 web 80");
    cluster.ok("create service clusterip web --tcp=80:8080");
    assert_eq!(
        cluster.ok("get svc web -o 'jsonpath={.spec.ports[0].port} {.spec.ports[0].targetPort}'"),
        "80 8080"
    );
    cluster.ok("expose deploy web --name exposed --port 80");
    cluster.ok("create role r --verb=get --resource=pods");
    cluster.ok("create rolebinding rb --role=r --serviceaccount=default:robot");
    let bound = cluster.ok("get rolebinding rb -o 'jsonpath={.subjects[0].name} {.roleRef.name}'");
    assert_eq!(bound, "robot r");
    cluster.ok("run one --image=busybox --restart=Never");
    assert_eq!(rows(&cluster.ok("get pod one"))[0][..4], ["one", "0/1", "Pending", "0"]);
}
