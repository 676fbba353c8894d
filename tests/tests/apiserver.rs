//! The `kube` crate, as agents and control plane use it, against the pocket cluster's API server.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kit::api::{ApiConfig, ApiServer, DeleteOptions, PodBinding, TypedEvent};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Config};
use serde_json::json;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn start() -> ApiServer {
    ApiServer::start(ApiConfig::loopback().unwrap()).unwrap()
}

async fn client(api: &ApiServer, token: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig(&api.url(), token)).unwrap();
    let options = KubeConfigOptions::default();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    let object =
        json!({"metadata": {"name": name, "namespace": "default"}, "data": {"key": value}});
    serde_json::from_value(object).unwrap()
}

fn describe(event: Event<ConfigMap>) -> String {
    let show = |object: ConfigMap| {
        format!(
            "{}={}",
            object.metadata.name.unwrap(),
            object.data.unwrap_or_default().remove("key").unwrap_or_default()
        )
    };
    match event {
        Event::Init => "init".to_owned(),
        Event::InitApply(object) => format!("has {}", show(object)),
        Event::InitDone => "done".to_owned(),
        Event::Apply(object) => show(object),
        Event::Delete(object) => format!("-{}", show(object)),
    }
}

async fn follow(config: watcher::Config) {
    let api = start();
    let maps = api.store().typed::<ConfigMap>();
    maps.create(&config_map("a", "1")).unwrap();
    let client = client(&api, api.admin_token()).await;
    let watched = watcher::watcher(Api::<ConfigMap>::namespaced(client, "default"), config);
    let mut events = watched.map_ok(describe).boxed();
    let mut next =
        async || tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await, "init");
    assert_eq!(next().await, "has a=1");
    assert_eq!(next().await, "has kube-root-ca.crt=");
    assert_eq!(next().await, "done");
    maps.create(&config_map("b", "1")).unwrap();
    assert_eq!(next().await, "b=1");
    maps.update(&config_map("b", "2")).unwrap();
    assert_eq!(next().await, "b=2");
    maps.delete("default", "b", &DeleteOptions::default()).unwrap();
    assert_eq!(next().await, "-b=2");
}

#[tokio::test]
async fn a_watcher_that_lists_first_follows() {
    follow(watcher::Config::default()).await;
}

#[tokio::test]
async fn a_watcher_that_streams_its_list_follows() {
    follow(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn a_watch_that_is_too_far_behind_is_told() {
    let api = start();
    let maps = api.store().typed::<ConfigMap>();
    let first = maps.create(&config_map("a", "0")).unwrap().metadata.resource_version.unwrap();
    for round in 1..5000 {
        maps.update(&config_map("a", &round.to_string())).unwrap();
    }
    let client = client(&api, api.admin_token()).await;
    let maps = Api::<ConfigMap>::namespaced(client, "default");
    let mut events = maps.watch(&kube::api::WatchParams::default(), &first).await.unwrap().boxed();
    let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(
        matches!(&event, kube::api::WatchEvent::Error(status) if status.code == 410),
        "{event:?}"
    );
}

#[tokio::test]
async fn objects_leave_a_selection_as_deleted() {
    let api = start();
    let maps = api.store().typed::<ConfigMap>();
    let client = client(&api, api.admin_token()).await;
    let config = watcher::Config::default().labels("app=web");
    let watched = watcher::watcher(Api::<ConfigMap>::namespaced(client, "default"), config);
    let mut events = watched.map_ok(describe).boxed();
    let mut next =
        async || tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await, "init");
    assert_eq!(next().await, "done");
    maps.create(&config_map("a", "1")).unwrap();
    maps.patch("default", "a", &json!({"metadata": {"labels": {"app": "web"}}})).unwrap();
    assert_eq!(next().await, "a=1");
    maps.patch("default", "a", &json!({"metadata": {"labels": null}})).unwrap();
    assert_eq!(next().await, "-a=1");
}

#[tokio::test]
async fn stale_writers_lose() {
    let api = start();
    let client = client(&api, api.admin_token()).await;
    let maps = Api::<ConfigMap>::namespaced(client, "default");
    let stale = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut fresh = stale.clone();
    fresh.data.get_or_insert_default().insert("key".to_owned(), "2".to_owned());
    maps.replace("a", &PostParams::default(), &fresh).await.unwrap();
    let refused = maps.replace("a", &PostParams::default(), &stale).await;
    assert!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.is_conflict()),
        "{refused:?}"
    );
    let again = maps.create(&PostParams::default(), &stale).await;
    assert!(
        matches!(&again, Err(kube::Error::Api(status)) if status.is_already_exists()),
        "{again:?}"
    );
    assert!(maps.get_opt("missing").await.unwrap().is_none());
}

#[tokio::test]
async fn a_status_patch_annotates_a_pod_and_leaves_its_spec() {
    let api = start();
    let client = client(&api, api.admin_token()).await;
    let pods = Api::<Pod>::namespaced(client, "default");
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let patch = json!({
        "metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}},
        "spec": {"nodeName": "elsewhere"},
        "status": {"phase": "Running"},
    });
    let pod = pods.patch_status("p", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(pod.metadata.annotations.unwrap()["ambient.istio.io/redirection"], "enabled");
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(pod.spec.unwrap().node_name, None);
    let spec = json!({"spec": {"activeDeadlineSeconds": 5}, "status": {"phase": "Failed"}});
    let pod = pods.patch("p", &PatchParams::default(), &Patch::Strategic(spec)).await.unwrap();
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(pod.spec.unwrap().active_deadline_seconds, Some(5));
}

#[tokio::test]
async fn server_side_apply_and_collections() {
    let api = start();
    let client = client(&api, api.admin_token()).await;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
    let params = PatchParams::apply("test").force();
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"key": "1"}});
    maps.patch("a", &params, &Patch::Apply(&applied)).await.unwrap();
    maps.patch("a", &params, &Patch::Apply(&applied)).await.unwrap();
    let selected = ListParams::default().labels("x=y");
    assert_eq!(maps.list(&selected).await.unwrap().items.len(), 1);
    assert_eq!(
        maps.list_metadata(&selected).await.unwrap().items[0].metadata.name.as_deref(),
        Some("a")
    );
    maps.delete_collection(&DeleteParams::default(), &selected).await.unwrap();
    assert_eq!(maps.list(&selected).await.unwrap().items.len(), 0);
    let groups = kube::discovery::Discovery::new(client).run().await.unwrap();
    assert!(groups.has_group("apps"));
}

#[tokio::test]
async fn custom_resources_appear_while_the_server_runs() {
    let api = start();
    let client = client(&api, api.admin_token()).await;
    let kind = kube::api::GroupVersionKind::gvk("example.com", "v1", "Thing");
    let resource = ApiResource::from_gvk_with_plural(&kind, "things");
    let things = Api::<DynamicObject>::namespaced_with(client, "default", &resource);
    let missing = things.list(&ListParams::default()).await;
    assert!(matches!(&missing, Err(kube::Error::Api(status)) if status.code == 404), "{missing:?}");
    api.store()
        .create(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
                }}}],
            },
        }))
        .unwrap();
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"size": "big"}});
    let wrong: DynamicObject = serde_json::from_value(thing.clone()).unwrap();
    let refused = things.create(&PostParams::default(), &wrong).await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 422), "{refused:?}");
    let mut right = thing;
    right["spec"]["size"] = json!(3);
    let right: DynamicObject = serde_json::from_value(right).unwrap();
    assert_eq!(
        things.create(&PostParams::default(), &right).await.unwrap().data["spec"]["size"],
        3
    );
}

#[tokio::test]
async fn tokens_are_for_their_audience_and_pod() {
    let api = start();
    let store = api.store();
    let pod = store
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "kube-system"},
            "spec": {"nodeName": "node1", "containers": [{"name": "a", "image": "b"}]},
        }))
        .unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let binding = PodBinding { name: "p".to_owned(), uid, node: "node1".to_owned() };
    let account = ("kube-system", "default");
    let ca = api.mint_token(account, Some(binding), &["istio-ca"], PATIENCE).unwrap();
    let own = api.mint_token(account, None, &[], PATIENCE).unwrap();
    let short = api.mint_token(account, None, &[], Duration::ZERO).unwrap();
    let unauthorized = |result: kube::Result<Namespace>| matches!(result, Err(kube::Error::Api(status)) if status.code == 401);
    for token in [ca.as_str(), short.as_str(), "nonsense"] {
        let client = client(&api, token).await;
        assert!(unauthorized(Api::<Namespace>::all(client).get("default").await));
    }
    let client = client(&api, &own).await;
    Api::<Namespace>::all(client.clone()).get("default").await.unwrap();
    let review = |audience: &str| TokenReview {
        spec: TokenReviewSpec {
            token: Some(ca.clone()),
            audiences: Some(vec![audience.to_owned()]),
        },
        ..TokenReview::default()
    };
    let reviews = Api::<TokenReview>::all(client);
    let answer = reviews.create(&PostParams::default(), &review("istio-ca")).await.unwrap();
    let status = answer.status.unwrap();
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    assert_eq!(
        status.user.unwrap().extra.unwrap()["authentication.kubernetes.io/node-name"],
        ["node1"]
    );
    let used: Vec<(String, String)> = api
        .usage("system:serviceaccount:kube-system:default")
        .into_iter()
        .map(|u| (u.verb, u.resource))
        .collect();
    assert_eq!(
        used,
        [("create".into(), "tokenreviews".into()), ("get".into(), "namespaces".into())]
    );
    store.delete("pods", "kube-system", "p", &DeleteOptions::now()).unwrap();
    let answer = reviews.create(&PostParams::default(), &review("istio-ca")).await.unwrap();
    assert_ne!(answer.status.unwrap().authenticated, Some(true));
}

#[tokio::test]
async fn the_kits_controllers_follow_the_store() {
    let api = start();
    let maps = api.store().typed::<ConfigMap>();
    let mut watch = maps.watch("default").unwrap();
    let mut next = async || tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(matches!(next().await, TypedEvent::Added(_)));
    assert!(matches!(next().await, TypedEvent::Synced));
    maps.apply(&config_map("a", "1")).unwrap();
    assert!(matches!(next().await, TypedEvent::Added(_)));
    maps.apply(&config_map("a", "1")).unwrap();
    maps.apply(&config_map("a", "2")).unwrap();
    let TypedEvent::Modified(changed) = next().await else { panic!("not modified") };
    assert_eq!(changed.data.unwrap()["key"], "2");
}

#[test]
fn a_server_that_is_dropped_closes_its_port() {
    let api = start();
    let address = api.addresses()[0];
    drop(api);
    assert!(std::net::TcpStream::connect(address).is_err());
}
