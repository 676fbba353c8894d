//! What becomes of policies and rules is told in their status, once.

use super::*;

/// The definitions as they are deployed.
const DEFINITIONS: [&str; 3] = [
    include_str!("../../../deploy/crds/authorizationpolicies.yaml"),
    include_str!("../../../deploy/crds/destinationrules.yaml"),
    include_str!("../../../deploy/crds/peerauthentications.yaml"),
];

pub(super) fn define(api: &ApiServer) {
    for definition in DEFINITIONS {
        for object in kit::objects::parse(definition).unwrap() {
            api.store().create(serde_json::to_value(object).unwrap()).unwrap();
        }
    }
}

pub(super) fn authorization_policy(name: &str, spec: Value) -> Value {
    let api = "security.istio.io/v1";
    let mut policy = object(api, "AuthorizationPolicy", "bookinfo", name);
    policy["spec"] = spec;
    policy
}

/// Conditions of an object, as `Type=Status/Reason`, and what they say.
fn conditions(object: &Value) -> Option<(Vec<String>, String)> {
    let list = object["status"]["conditions"].as_array()?;
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap().to_owned();
    let mut messages = String::new();
    let brief = list.iter().map(|condition| {
        assert_eq!(condition["observedGeneration"], object["metadata"]["generation"]);
        assert!(condition["lastTransitionTime"].is_string());
        messages += &text(condition, "message");
        let [kind, status, reason] = ["type", "status", "reason"].map(|f| text(condition, f));
        format!("{kind}={status}/{reason}")
    });
    Some((brief.collect(), messages))
}

impl Cluster {
    /// Waits until an object's status is of its newest generation.
    async fn judged(&self, plural: &str, name: &str) -> Arc<Value> {
        until("a status", async || {
            let object = self.api.store().get(plural, "bookinfo", name).unwrap();
            let seen = &object["status"]["conditions"][0]["observedGeneration"];
            (*seen == object["metadata"]["generation"]).then_some(object)
        })
        .await
    }

    pub(super) async fn check(&self, plural: &str, name: &str, expected: [&str; 2], says: &str) {
        let object = self.judged(plural, name).await;
        let (brief, messages) = conditions(&object).unwrap();
        assert_eq!(brief, expected);
        assert!(messages.contains(says), "{messages}");
    }
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

async fn kubectl(api: &ApiServer, arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    std::fs::write(&config, api.kubeconfig(&api.url(), api.admin_token())).unwrap();
    let mut command = tokio::process::Command::new("kubectl");
    command.args(arguments).env("KUBECONFIG", config).env("HOME", home.path());
    let output = command.output().await.expect("kubectl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_policy_is_in_its_status() {
    let api = server();
    define(&api);
    let cluster = start(api).await;
    let store = cluster.api.store();
    let get = json!([{ "to": [{ "operation": { "methods": ["GET"] } }] }]);
    store.create(authorization_policy("get", json!({ "rules": get }))).unwrap();
    store
        .create(authorization_policy("audit", json!({ "action": "AUDIT", "rules": [{}] })))
        .unwrap();
    let zero = json!({ "rules": [{ "to": [{ "operation": { "ports": ["0"] } }] }] });
    store.create(authorization_policy("zero", zero)).unwrap();
    // The definition cannot say what the admission policy does, which is not there.
    let bad = json!({ "rules": [{ "when": [{ "key": "source.ip", "values": ["10.0.0.300"] }] }] });
    store.create(authorization_policy("bad", bad)).unwrap();
    let mut dry = authorization_policy("dry", json!({ "action": "DENY", "rules": [{}] }));
    dry["metadata"]["annotations"] = json!({ "istio.io/dry-run": "true" });
    store.create(dry).unwrap();
    store.create(policy("v1", "DISABLE")).unwrap();

    let (access, peers) = ("authorizationpolicies", "peerauthentications");
    let part = ["ZtunnelAccepted=True/UnsupportedValue", "Enforced=False/NotAsWritten"];
    cluster.check(access, "get", part, "(methods): the rule is left out").await;
    let none = ["ZtunnelAccepted=False/UnsupportedValue", "Enforced=False/NotAccepted"];
    cluster.check(access, "audit", none, "action AUDIT is not supported").await;
    let zero = ["ZtunnelAccepted=True/Accepted", "Enforced=False/NotAsWritten"];
    cluster.check(access, "zero", zero, "no connection has port 0").await;
    let invalid = ["ZtunnelAccepted=False/Invalid", "Enforced=False/FailsClosed"];
    cluster.check(access, "bad", invalid, r#"rules[0].when[0].values: "10.0.0.300" is no"#).await;
    let dry = ["ZtunnelAccepted=True/Accepted", "Enforced=False/DryRun"];
    cluster.check(access, "dry", dry, "never enforced").await;
    let disable = ["Accepted=True/Accepted", "Enforced=False/DisableIsPermissive"];
    cluster.check(peers, "default", disable, "same as PERMISSIVE for inbound").await;

    for (about, says) in [
        ("get", "(methods): the rule is left out"),
        ("audit", "action AUDIT is not supported"),
        ("zero", "no connection has port 0"),
        ("bad", r#"values: "10.0.0.300" is no address"#),
        ("default", "same as PERMISSIVE for inbound"),
    ] {
        until("an event", async || {
            let events = store.list("events", "bookinfo", "").unwrap();
            let said = |event: &&Arc<Value>| {
                let message = event["message"].as_str().unwrap();
                event["involvedObject"]["name"] == about && message.contains(says)
            };
            events.iter().find(said).map(|event| assert_eq!(event["type"], "Warning"))
        })
        .await;
    }
    let told = kubectl(&cluster.api, &["describe", access, "get", "-n", "bookinfo"]).await;
    for line in
        ["Status:", "UnsupportedValue", "ZtunnelAccepted", "Observed Generation:", "(methods)"]
    {
        assert!(told.contains(line), "{told}");
    }

    store.apply(policy("v1", "STRICT")).unwrap();
    let all = ["Accepted=True/Accepted", "Enforced=True/Enforced"];
    cluster.check(peers, "default", all, "all of the policy").await;
    check_rights(&cluster.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_rule_is_told_that_it_has_no_effect() {
    let api = server();
    define(&api);
    let cluster = start(api).await;
    let store = cluster.api.store();
    for (name, host) in [("outside", "a.outside"), ("enrolled", "details")] {
        let api = "networking.istio.io/v1beta1";
        let mut rule = object(api, "DestinationRule", "bookinfo", name);
        rule["spec"] = json!({ "host": host, "trafficPolicy": { "tls": { "mode": "SIMPLE" } } });
        store.create(rule).unwrap();
        let none = ["Accepted=True/Accepted", "Enforced=False/NoEffect"];
        cluster.check("destinationrules", name, none, "trafficPolicy.tls.mode SIMPLE").await;
    }
    let warned = || {
        let events = store.list("events", "bookinfo", "").unwrap();
        let warnings = events.iter().filter(|event| event["reason"] == "NoEffectInAmbient");
        let about =
            |event: &Arc<Value>| event["involvedObject"]["name"].as_str().unwrap().to_owned();
        warnings.map(about).collect::<Vec<_>>()
    };
    assert_eq!(warned(), [""; 0]);
    let ambient = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "ambient" } } });
    store.patch("namespaces", "", "bookinfo", &ambient).unwrap();
    until("a warning", async || (!warned().is_empty()).then_some(())).await;
    assert_eq!(warned(), ["enrolled"]);
    check_rights(&cluster.stop().await);
}

/// A definition of a kind of Istio's that is not of ours, with a status and any content.
fn definition(kind: &str, plural: &str) -> Value {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.networking.istio.io") },
        "spec": {
            "group": "networking.istio.io",
            "scope": "Namespaced",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(),
                "listKind": format!("{kind}List") },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {} }, "schema": { "openAPIV3Schema": any } }],
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_serves_is_told_so() {
    let api = server();
    define(&api);
    let kinds = [
        ("ServiceEntry", "serviceentries", "outside the mesh"),
        ("Gateway", "gateways", "an ordinary ingress in an enrolled pod is the way in"),
        ("VirtualService", "virtualservices", "nothing is routed by them"),
    ];
    for (kind, plural, _) in kinds {
        api.store().create(definition(kind, plural)).unwrap();
    }
    let cluster = start(api).await;
    let store = cluster.api.store();
    for (kind, plural, says) in kinds {
        let name = kind.to_lowercase();
        let mut one = object("networking.istio.io/v1", kind, "bookinfo", &name);
        one["spec"] = json!({ "hosts": ["shop.example.org"] });
        store.create(one).unwrap();
        let none = ["Accepted=False/NotServed", "Enforced=False/NotAccepted"];
        cluster.check(plural, &name, none, says).await;
        until("an event", async || {
            let events = store.list("events", "bookinfo", "").unwrap();
            let said = |event: &&Arc<Value>| {
                let about = &event["involvedObject"];
                about["name"] == name.as_str() && about["kind"] == kind
            };
            let found = events.iter().find(said)?;
            assert_eq!(
                (&found["type"], &found["reason"]),
                (&json!("Warning"), &json!("NotServed"))
            );
            assert!(found["message"].as_str().unwrap().contains(says), "{found}");
            Some(())
        })
        .await;
    }
    check_rights(&cluster.stop().await);
}

#[track_caller]
fn unchanged(api: &ApiServer, versions: &[(String, String)]) {
    for (name, expected) in versions {
        let object = api.store().get("authorizationpolicies", "bookinfo", name).unwrap();
        assert_eq!(version(&object), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_written_once_by_however_many() {
    let api = server();
    define(&api);
    let (config, shutdown) = (config(), Shutdown::new());
    let other = tokio::spawn(control_plane::run(config, client(&api).await, shutdown.clone()));
    let cluster = start(api).await;
    let store = cluster.api.store();
    let access = "authorizationpolicies";
    let get = json!({ "rules": [{ "to": [{ "operation": { "methods": ["GET"] } }] }] });
    for at in 0..10 {
        store.create(authorization_policy(&format!("p{at}"), get.clone())).unwrap();
    }
    let mut versions = Vec::new();
    for at in 0..10 {
        let name = format!("p{at}");
        let judged = cluster.judged(access, &name).await;
        versions.push((name, version(&judged).to_owned()));
    }
    // A status that comes after all that was to be written: each has seen every change by then.
    store.create(authorization_policy("both", get.clone())).unwrap();
    cluster.judged(access, "both").await;
    unchanged(&cluster.api, &versions);
    shutdown.drain(Duration::from_secs(10)).await.unwrap();
    other.await.unwrap().unwrap();
    store.create(authorization_policy("one", get)).unwrap();
    cluster.judged(access, "one").await;
    unchanged(&cluster.api, &versions);

    // A change of what is not judged writes none; whoever starts anew finds all told.
    let label = json!({ "metadata": { "labels": { "team": "a" } } });
    let labelled = store.patch(access, "bookinfo", "p0", &label).unwrap();
    versions[0].1 = version(&labelled).to_owned();
    let api = cluster.stop().await;
    let events = api.store().list("events", "bookinfo", "").unwrap().len();
    let cluster = start(api).await;
    let store = cluster.api.store();
    store.create(authorization_policy("last", json!({ "rules": [{}] }))).unwrap();
    cluster.judged(access, "last").await;
    unchanged(&cluster.api, &versions);
    assert_eq!(store.list("events", "bookinfo", "").unwrap().len(), events, "told anew");
    check_rights(&cluster.stop().await);
}
