//! The admission policies that are deployed: what they refuse, and of whom.

use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};

use super::*;

const DEPLOYED: [&str; 3] = [
    include_str!("../../../deploy/base/agent/admission.yaml"),
    include_str!("../../../deploy/base/control-plane/admission.yaml"),
    include_str!("../../../deploy/base/policies/admission.yaml"),
];

fn deployed() -> ApiServer {
    let api = server();
    statuses::define(&api);
    for file in DEPLOYED {
        for object in kit::objects::parse(file).unwrap() {
            api.store().create(serde_json::to_value(object).unwrap()).unwrap();
        }
    }
    api
}

async fn client_of(api: &ApiServer, account: (&str, &str), node: Option<&str>) -> Client {
    let binding = node.map(|node| {
        let agent = api.store().get("pods", "istio-system", "agent").unwrap();
        let uid = agent["metadata"]["uid"].as_str().unwrap().to_owned();
        PodBinding { name: "agent".to_owned(), uid, node: node.to_owned() }
    });
    let token = api.mint_token(account, binding, &[], PATIENCE * 10).unwrap();
    client_with(api, &token).await
}

fn refused<T: std::fmt::Debug>(result: kube::Result<T>, code: u16, says: &str) {
    let Err(kube::Error::Api(status)) = result else { panic!("{result:?}") };
    assert_eq!(status.code, code, "{status:?}");
    assert!(status.message.contains(says), "{}", status.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_says_of_its_own_node_s_pods_that_they_are_captured_and_no_more() {
    let api = deployed();
    let redirected = |value: Value| json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": value } } });
    let patch = async |client: &Client, patch: &Value| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "bookinfo");
        pods.patch_status("details", &PatchParams::default(), &Patch::Merge(patch)).await
    };
    let agent = ("istio-system", "sotto");
    let own = client_of(&api, agent, Some("n1")).await;
    patch(&own, &redirected(json!("enabled"))).await.unwrap();
    patch(&own, &redirected(Value::Null)).await.unwrap();
    let told = "changes only pods of the node that its token is bound to";
    let other = client_of(&api, agent, Some("n2")).await;
    refused(patch(&other, &redirected(json!("enabled"))).await, 403, told);
    let unbound = client_of(&api, agent, None).await;
    refused(patch(&unbound, &redirected(json!("enabled"))).await, 403, told);
    for (change, told) in [
        (json!({ "metadata": { "annotations": { "a": "b" } } }), "changes only ambient.istio.io"),
        (json!({ "metadata": { "labels": { "app": "reviews" } } }), "neither a pod's labels"),
        (json!({ "metadata": { "finalizers": ["a/b"] } }), "neither a pod's labels"),
        (json!({ "status": { "podIP": "10.0.0.9" } }), "nor its status"),
    ] {
        refused(patch(&own, &change).await, 403, told);
        // Who is no agent may.
        let admin = client_with(&api, api.admin_token()).await;
        patch(&admin, &change).await.unwrap();
        // What others wrote stays, and does not stop an agent.
        patch(&own, &redirected(json!("enabled"))).await.unwrap();
        patch(&own, &redirected(Value::Null)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_pod_s_status_an_agent_writes_one_condition_and_no_more() {
    let api = deployed();
    let own = client_of(&api, ("istio-system", "sotto"), Some("n1")).await;
    let other = client_of(&api, ("istio-system", "sotto"), Some("n2")).await;
    let patch = async |client: &Client, status: Value| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "bookinfo");
        let patch = Patch::Strategic(json!({ "status": status }));
        pods.patch_status("details", &PatchParams::default(), &patch).await
    };
    let condition =
        |kind: &str, status: &str| json!({ "conditions": [{ "type": kind, "status": status }] });
    let ours = "sotto.io/Captured";
    patch(&client_with(&api, api.admin_token()).await, condition("Ready", "True")).await.unwrap();
    patch(&own, condition(ours, "False")).await.unwrap();
    patch(&own, condition(ours, "True")).await.unwrap();
    let mut both = condition(ours, "False");
    both["podIP"] = json!("10.0.0.8");
    let replaced = json!({ "conditions": [{ "$patch": "replace" }] });
    for change in [condition("Ready", "False"), condition("Other", "True"), both, replaced] {
        refused(patch(&own, change).await, 403, "nor its status");
    }
    refused(patch(&other, condition(ours, "False")).await, 403, "that its token is bound to");
    let gone = json!({ "conditions": [{ "type": ours, "$patch": "delete" }] });
    let left = patch(&own, gone).await.unwrap().status.unwrap().conditions.unwrap();
    assert_eq!(left.iter().map(|left| left.type_.as_str()).collect::<Vec<_>>(), ["Ready"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_makes_the_root_s_objects_and_no_others() {
    let cluster = start(deployed()).await;
    cluster.channel().await;
    until("the root", async || cluster.root("bookinfo")).await;
    let client = client_of(&cluster.api, CONTROL_PLANE, None).await;
    let make = async |namespace: &str, name: &str| {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = Secret {
            metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..Secret::default()
        };
        secrets.create(&PostParams::default(), &secret).await
    };
    refused(
        make("istio-system", "mine").await,
        403,
        "the root's ConfigMaps and Secret, and no others",
    );
    check_rights(&cluster.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_nodes_could_not_read_is_refused() {
    let api = deployed();
    let client = client_with(&api, api.admin_token()).await;
    let kind = GroupVersionKind::gvk("security.istio.io", "v1", "AuthorizationPolicy");
    let kind = ApiResource::from_gvk_with_plural(&kind, "authorizationpolicies");
    let policies: Api<DynamicObject> = Api::namespaced_with(client, "bookinfo", &kind);
    let create = async |spec: Value, dry_run: Option<&str>| {
        let mut policy = statuses::authorization_policy("p", spec);
        if let Some(dry_run) = dry_run {
            policy["metadata"]["annotations"] = json!({ "istio.io/dry-run": dry_run });
        }
        let policy: DynamicObject = serde_json::from_value(policy).unwrap();
        let made = policies.create(&PostParams::default(), &policy).await;
        if made.is_ok() {
            policies.delete("p", &Default::default()).await.unwrap();
        }
        made
    };
    let when = |key: &str, values: &[&str]| json!({ "rules": [{ "when": [{ "key": key, "values": values }] }] });
    let not = |key: &str, values: &[&str]| json!({ "rules": [{ "when": [{ "key": key, "notValues": values }] }] });
    let from = |source: Value| json!({ "rules": [{ "from": [{ "source": source }] }] });
    let to = |operation: Value| json!({ "rules": [{ "to": [{ "operation": operation }] }] });
    for spec in [
        json!({}),
        json!({ "rules": [] }),
        json!({ "rules": [{}] }),
        when("source.ip", &["10.0.0.1", "fd00::/8", "fe80::1%eth0"]),
        not("destination.ip", &["10.0.0.0/8"]),
        when("destination.port", &["0", "080", "65535"]),
        when("source.namespace", &["10.0.0.300"]),
        from(json!({ "principals": [], "namespaces": ["a"] })),
        to(json!({ "methods": ["GET"] })),
        json!({ "action": "DENY", "rules": [{}] }),
    ] {
        create(spec.clone(), None).await.unwrap_or_else(|error| panic!("{spec}: {error}"));
        create(spec, Some("true")).await.unwrap();
    }
    for (spec, told) in [
        (when("source.ip", &["10.0.0.1", "10.0.0.300"]), "are addresses or ranges"),
        (not("source.ip", &["10.0.0.0/99"]), "are addresses or ranges"),
        (when("destination.ip", &["a"]), "are addresses or ranges"),
        (when("remote.ip", &["::/129"]), "are addresses or ranges"),
        (when("destination.port", &["65536"]), "numbers up to 65535"),
        (not("destination.port", &["http"]), "numbers up to 65535"),
        (when("source.namespace", &[]), "needs values or notValues"),
        (from(json!({ "principals": [] })), "a source asks for something"),
        (to(json!({ "ports": [] })), "an operation asks for something"),
        (json!({ "action": "DENY" }), "needs rules"),
    ] {
        refused(create(spec, None).await, 422, told);
    }
    refused(create(json!({}), Some("True")).await, 422, "is true or false");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_got_past_them_can_still_be_deleted() {
    let api = deployed();
    let client = client_with(&api, api.admin_token()).await;
    let mut policy = statuses::authorization_policy("p", json!({ "action": "DENY" }));
    policy["metadata"]["finalizers"] = json!(["a/b"]);
    api.store().create(policy).unwrap();
    let kind = GroupVersionKind::gvk("security.istio.io", "v1", "AuthorizationPolicy");
    let kind = ApiResource::from_gvk_with_plural(&kind, "authorizationpolicies");
    let policies: Api<DynamicObject> = Api::namespaced_with(client, "bookinfo", &kind);
    policies.delete("p", &Default::default()).await.unwrap();
    let done = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
    policies.patch("p", &PatchParams::default(), &done).await.unwrap();
    assert!(policies.get_opt("p").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_s_events_say_that_pods_are_not_captured_and_no_more() {
    let api = deployed();
    let create = async |client: &Client, name: &str, change: &Value| {
        let mut event = json!({
            "metadata": { "name": name, "namespace": "bookinfo" },
            "involvedObject": { "kind": "Pod", "namespace": "bookinfo", "name": "details" },
            "reason": "NotCaptured", "type": "Warning", "message": "no",
            "reportingComponent": "sotto-agent", "reportingInstance": "n1",
        });
        for (key, value) in change.as_object().unwrap() {
            event[key] = value.clone();
        }
        let events: Api<Event> = Api::namespaced(client.clone(), "bookinfo");
        events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await
    };
    let agent = ("istio-system", "sotto");
    let own = client_of(&api, agent, Some("n1")).await;
    create(&own, "a", &json!({})).await.unwrap();
    for change in [
        json!({ "reason": "Healthy" }),
        json!({ "type": "Normal" }),
        json!({ "reportingComponent": "kubelet" }),
        json!({ "involvedObject": { "kind": "Node", "name": "n1" } }),
    ] {
        refused(create(&own, "b", &change).await, 403, "say of pods that they are not captured");
    }
    let elsewhere = json!({ "reportingInstance": "n2" });
    refused(create(&own, "b", &elsewhere).await, 403, "which node it is on");
    let unbound = client_of(&api, agent, None).await;
    refused(create(&unbound, "b", &json!({})).await, 403, "which node it is on");
}
