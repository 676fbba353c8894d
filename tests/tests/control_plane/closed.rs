//! A policy that cannot be read closes what it governs: on every replica, after every restart.

use k8s_openapi::api::core::v1::Event;
use sotto_proto::security::{Action, Group, Scope};

use super::statuses::authorization_policy;
use super::*;

const ACCESS: &str = "authorizationpolicies";
const PEERS: &str = "peerauthentications";

/// The kinds, as a definition that asks for nothing has them: an older one, or somebody else's.
fn define_loosely(api: &ApiServer) {
    for (plural, kind) in [(ACCESS, "AuthorizationPolicy"), (PEERS, "PeerAuthentication")] {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.security.istio.io") },
            "spec": {
                "group": "security.istio.io", "scope": "Namespaced",
                "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(),
                           "listKind": format!("{kind}List") },
                "versions": [{ "name": "v1", "served": true, "storage": true,
                    "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
            },
        });
        api.store().create(definition).unwrap();
    }
}

fn peer_authentication(name: &str, spec: Value) -> Value {
    let mut policy = object("security.istio.io/v1", "PeerAuthentication", "bookinfo", name);
    policy["spec"] = spec;
    policy
}

fn source(source: Value) -> Value {
    json!([{ "from": [{ "source": source }] }])
}

/// Specs of AuthorizationPolicies that nobody can read, whatever their action.
fn unreadable() -> Vec<(&'static str, Value)> {
    let on = |rules: Value| json!({ "selector": { "matchLabels": { "app": "details" } }, "rules": rules });
    let when = |key: &str, value: &str| json!([{ "when": [{ "key": key, "values": [value] }] }]);
    vec![
        ("address", on(source(json!({ "ipBlocks": ["10.0.0.300"] })))),
        ("range", on(source(json!({ "ipBlocks": ["10.0.0.0/99"] })))),
        ("not-range", on(source(json!({ "notIpBlocks": ["10.0.0.0/99"] })))),
        ("zone-of-range", on(source(json!({ "ipBlocks": ["fe80::1%eth0/64"] })))),
        ("no-source", on(source(json!({})))),
        ("no-sources", on(json!([{ "from": [] }]))),
        ("no-operations", on(json!([{ "to": [] }]))),
        ("nobody", on(source(json!({ "namespaces": [""] })))),
        ("port", on(json!([{ "to": [{ "operation": { "ports": ["65536"] } }] }]))),
        ("when", on(when("source.ip", "10.0.0.300"))),
        ("field", on(json!([{ "form": [{ "source": { "principals": ["a"] } }] }]))),
        ("type", on(json!("all"))),
    ]
}

/// Writes each policy three times: in force as an ALLOW and as a DENY, and then edited; and there from
/// the first, with a selector that cannot be read either.
fn write(store: &kit::api::Store, all: &[(&str, Value)]) {
    let good = source(json!({ "namespaces": ["legacy"] }));
    for (name, spec) in all {
        for action in ["ALLOW", "DENY"] {
            let mut spec = spec.clone();
            let selector = spec["selector"].clone();
            let name = format!("{}-{name}", action.to_lowercase());
            let before = json!({ "action": action, "selector": selector, "rules": good });
            store.create(authorization_policy(&name, before)).unwrap();
            spec["action"] = json!(action);
            store.apply(authorization_policy(&name, spec)).unwrap();
        }
        let mut spec = spec.clone();
        spec["selector"] = json!({ "matchLabels": { "app": "*" } });
        store.create(authorization_policy(name, spec)).unwrap();
    }
}

/// That a node is told to deny everything to the workloads that a policy selects.
#[track_caller]
fn check_denies_all(node: &Node, name: &str, scope: Scope) {
    let full = format!("bookinfo/{name}");
    let policy = &node.policies[&full];
    assert_eq!(
        (policy.action(), policy.scope(), policy.dry_run),
        (Action::Deny, scope, false),
        "{name}"
    );
    assert_eq!(policy.groups, [Group { rules: Vec::new() }], "{name} matches everything");
    let listed = node.workloads[DETAILS].authorization_policies.contains(&full);
    assert_eq!(listed, scope == Scope::WorkloadSelector, "{name}");
}

async fn synced(cluster: &Cluster, policies: usize) -> Node {
    let mut node = Node::subscribe(cluster).await;
    node.until("all policies", |node| {
        let closed = |policy: &Authorization| policy.groups == [Group { rules: Vec::new() }];
        let selecting = |w: &Workload| w.authorization_policies.len() == policies / 3 * 2;
        node.policies.len() == policies
            && node.policies.values().all(closed)
            && node.workloads.get(DETAILS).is_some_and(selecting)
    })
    .await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authorization_policy_that_cannot_be_read_denies_everywhere_and_after_a_restart() {
    let api = server();
    define_loosely(&api);
    let first = start(api).await;
    let store = first.api.store();
    let all = unreadable();
    write(store, &all);
    let check = |node: &Node| {
        for (name, _) in unreadable() {
            for action in ["allow", "deny"] {
                check_denies_all(node, &format!("{action}-{name}"), Scope::WorkloadSelector);
            }
            check_denies_all(node, name, Scope::Namespace);
        }
    };
    let saw_all = synced(&first, 3 * all.len()).await;
    check(&saw_all);
    let second = start(first.api.clone()).await;
    let saw_the_last = synced(&second, 3 * all.len()).await;
    check(&saw_the_last);
    assert_eq!(saw_all.policies, saw_the_last.policies, "replicas differ");
    assert_eq!(saw_all.workloads, saw_the_last.workloads, "replicas differ");
    drop((saw_all, saw_the_last));
    second.stop().await;
    let again = start(first.stop().await).await;
    let node = synced(&again, 3 * all.len()).await;
    check(&node);
    let status = ["ZtunnelAccepted=False/Invalid", "Enforced=False/FailsClosed"];
    again.check(ACCESS, "deny-address", status, r#""10.0.0.300" is no address"#).await;
    again
        .check(
            ACCESS,
            "deny-address",
            status,
            "every connection to workloads of namespace bookinfo with app=details is denied",
        )
        .await;
    again
        .check(
            ACCESS,
            "address",
            status,
            "every connection to workloads of namespace bookinfo is denied",
        )
        .await;
    until("an event", async || {
        let events = again.api.store().typed::<Event>().list("bookinfo", "").unwrap();
        let says = |event: &&Event| {
            event.message.as_deref().unwrap_or("").contains("with app=details is denied")
        };
        events.iter().find(says).map(|event| assert_eq!(event.reason.as_deref(), Some("Invalid")))
    })
    .await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_authentication_that_cannot_be_read_is_strict_everywhere_and_after_a_restart() {
    let strict = json!({ "mtls": { "mode": "STRICT" } });
    let selecting = |labels: Value| json!({ "selector": { "matchLabels": labels }, "mtls": { "mode": "PERMISSIVE" } });
    let details = json!({ "matchLabels": { "app": "details" } });
    for spec in [
        json!({ "mtls": { "mode": "STRIKT" } }),
        json!({ "mtls": { "modus": "PERMISSIVE" } }),
        json!("PERMISSIVE"),
        selecting(json!({ "app": "*" })),
        selecting(json!({ "": "details" })),
        json!({ "selector": { "app": "x" } }),
        json!({ "selector": details, "portLevelMtls": { "0": { "mode": "PERMISSIVE" } } }),
        json!({ "selector": details, "mtls": { "mode": "PERMISSIVE" }, "portLevelMtls": { "http": {} } }),
    ] {
        let api = server();
        define_loosely(&api);
        let cluster = start(api).await;
        cluster.api.store().create(peer_authentication("default", spec.clone())).unwrap();
        let mut node = Node::subscribe(&cluster).await;
        node.until(&format!("STRICT by {spec}"), Node::strict).await;
        let again = start(cluster.stop().await).await;
        let mut node = Node::subscribe(&again).await;
        node.until(&format!("STRICT by {spec} after a restart"), Node::strict).await;
        let status = ["Accepted=False/Invalid", "Enforced=False/FailsClosed"];
        again
            .check(PEERS, "default", status, "mutual TLS is required of every connection to")
            .await;
        // Mended, it says what it says.
        let mended = json!({ "mtls": { "mode": "PERMISSIVE" } });
        again.api.store().apply(peer_authentication("default", mended)).unwrap();
        node.until("PERMISSIVE", |node| !node.strict()).await;
        again.api.store().apply(peer_authentication("default", strict.clone())).unwrap();
        node.until("STRICT", Node::strict).await;
        again.stop().await;
    }
}

/// A definition that serves nothing hides the policies that are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_that_are_not_served_any_more_stay_and_a_new_replica_does_not_get_ready() {
    let first = start(server()).await;
    let store = first.api.store();
    store.create(policy_kind("v1")).unwrap();
    store.create(policy("v1", "STRICT")).unwrap();
    let mut node = Node::subscribe(&first).await;
    node.until("STRICT", Node::strict).await;
    let serve = |served: bool| {
        let mut kind = policy_kind("v1");
        kind["spec"]["versions"][0]["served"] = json!(served);
        store.apply(kind).unwrap();
    };
    serve(false);
    let second = start(first.api.clone()).await;
    let connected = tokio::time::timeout(Duration::from_secs(12), second.ready()).await;
    assert!(connected.is_err(), "it tells nodes that there are no policies");
    pod(&first.api, "bookinfo", "late", "details", "10.244.1.3");
    node.until("a new pod", |node| node.workloads.len() > 1).await;
    assert!(node.strict());
    serve(true);
    tokio::time::timeout(PATIENCE, second.ready()).await.unwrap();
    let mut other = Node::subscribe(&second).await;
    other.until("STRICT", Node::strict).await;
    second.stop().await;
    first.stop().await;
}
