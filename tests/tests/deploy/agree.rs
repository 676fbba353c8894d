//! The parts name each other rightly: accounts, roles, selectors, ports, volumes, capabilities.

use std::collections::BTreeSet;

use serde_json::Value;
use sotto::sys::privileges;

use crate::render::{documents, folders, items, name, of_kind, only, with_agents};

/// On some nodes of a cluster whose others have Istio's own agents.
const BESIDE: &str = "overlays/beside-istio";

/// What `cargo xtask image` makes unless it is told another name.
const IMAGE: &str = concat!("sotto:", env!("CARGO_PKG_VERSION"));

#[test]
fn workloads_are_whole() {
    for folder in folders() {
        let all = documents(&folder);
        for workload in workloads(&all) {
            let what = format!("{folder}: {}", name(&workload["metadata"]));
            let template = &workload["spec"]["template"];
            let pod = &template["spec"];
            contains(
                &template["metadata"]["labels"],
                &workload["spec"]["selector"]["matchLabels"],
                &what,
            );
            let account = pod["serviceAccountName"].as_str().expect("an account");
            let accounts = of_kind(&all, "ServiceAccount");
            let there = accounts.iter().any(|found| name(&found["metadata"]) == account);
            assert!(there || folder == BESIDE, "{what}: account {account}");
            volumes_fit(pod, &what);
            for container in items(&pod["containers"]) {
                assert_eq!(container["image"], IMAGE, "{what}");
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{what}");
                assert_ne!(container["securityContext"]["privileged"], true, "{what}");
                probe_has_port(container, &what);
            }
        }
    }
}

fn workloads(all: &[Value]) -> impl Iterator<Item = &Value> {
    of_kind(all, "DaemonSet").into_iter().chain(of_kind(all, "Deployment"))
}

fn contains(labels: &Value, selector: &Value, what: &str) {
    let wanted = selector.as_object().expect("labels to select");
    assert!(!wanted.is_empty(), "{what}: selects everything");
    for (key, value) in wanted {
        assert_eq!(labels.get(key), Some(value), "{what}: label {key}");
    }
}

/// Every mount has its volume, and every volume is mounted.
fn volumes_fit(pod: &Value, what: &str) {
    let volumes: BTreeSet<&str> = items(&pod["volumes"]).iter().map(name).collect();
    let containers = items(&pod["containers"]).iter();
    let mounted: BTreeSet<&str> =
        containers.flat_map(|container| items(&container["volumeMounts"])).map(name).collect();
    assert_eq!(volumes, mounted, "{what}");
}

fn probe_has_port(container: &Value, what: &str) {
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
        if let Some(port) = container[probe]["httpGet"]["port"].as_str() {
            assert!(
                items(&container["ports"]).iter().any(|found| name(found) == port),
                "{what}: port {port}"
            );
        }
    }
}

#[test]
fn services_and_budgets_select_a_workload() {
    for folder in folders() {
        let all = documents(&folder);
        let templates: Vec<&Value> =
            workloads(&all).map(|workload| &workload["spec"]["template"]).collect();
        let selects = |selector: &Value| {
            let wanted = selector.as_object().expect("labels to select");
            let matches = |template: &&&Value| {
                wanted
                    .iter()
                    .all(|(key, value)| template["metadata"]["labels"].get(key) == Some(value))
            };
            let found: Vec<_> = templates.iter().filter(matches).collect();
            assert_eq!(found.len(), 1, "{folder}: {selector}");
            *found[0]
        };
        for budget in of_kind(&all, "PodDisruptionBudget") {
            selects(&budget["spec"]["selector"]["matchLabels"]);
        }
        for service in of_kind(&all, "Service") {
            let template = selects(&service["spec"]["selector"]);
            let ports = items(&template["spec"]["containers"][0]["ports"]);
            for port in items(&service["spec"]["ports"]) {
                let found = ports.iter().find(|found| found["name"] == port["targetPort"]);
                assert_eq!(
                    found.expect("a port of that name")["containerPort"],
                    port["port"],
                    "{folder}"
                );
            }
        }
    }
}

#[test]
fn bindings_name_roles_and_accounts_that_are_there() {
    for folder in folders() {
        let all = documents(&folder);
        let is_there = |kind: &str, wanted: &str| {
            of_kind(&all, kind).iter().any(|found| name(&found["metadata"]) == wanted)
        };
        for binding in
            of_kind(&all, "ClusterRoleBinding").into_iter().chain(of_kind(&all, "RoleBinding"))
        {
            let role = &binding["roleRef"];
            // Roles with this prefix are the platform's own.
            let known = name(role).starts_with("system:")
                || is_there(role["kind"].as_str().expect("a kind"), name(role));
            assert!(known, "{folder}: role {}", name(role));
            for subject in items(&binding["subjects"]) {
                let is_meant = |account: &&Value| {
                    let metadata = &account["metadata"];
                    name(metadata) == name(subject) && metadata["namespace"] == subject["namespace"]
                };
                let accounts = of_kind(&all, "ServiceAccount");
                // What is deleted with it must not be another's.
                let is_istio_s = folder == BESIDE && name(subject) == "ztunnel";
                assert!(accounts.iter().any(is_meant) != is_istio_s, "{folder}: account {subject}");
            }
        }
    }
}

#[test]
fn roles_ask_for_little() {
    let all = [documents("base"), documents("overlays/uninstall")].concat();
    for role in of_kind(&all, "ClusterRole").into_iter().chain(of_kind(&all, "Role")) {
        let cluster_wide = role["kind"] == "ClusterRole";
        for rule in items(&role["rules"]) {
            let words = ["apiGroups", "resources", "verbs"].map(|key| items(&rule[key])).concat();
            assert!(!words.contains(&Value::from("*")), "{rule}");
            let secrets = items(&rule["resources"]).contains(&Value::from("secrets"));
            assert!(!(cluster_wide && secrets), "secrets of every namespace: {rule}");
            assert!(!items(&rule["verbs"]).contains(&Value::from("delete")), "{rule}");
        }
    }
}

/// What a role allows, as group, resource and verb.
fn rights(role: &Value) -> BTreeSet<[&str; 3]> {
    let mut all = BTreeSet::new();
    for rule in items(&role["rules"]) {
        let words = |key: &str| items(&rule[key]).iter().map(|word| word.as_str().expect("a word"));
        for group in words("apiGroups") {
            for resource in words("resources") {
                all.extend(words("verbs").map(|verb| [group, resource, verb]));
            }
        }
    }
    all
}

/// The test of the mesh that compares them with what an agent uses has the same list.
#[test]
fn an_agent_has_no_right_that_it_does_not_use() {
    let all = documents("base");
    let role = of_kind(&all, "ClusterRole")
        .into_iter()
        .find(|role| name(&role["metadata"]) == "sotto-agent");
    let mut expected: BTreeSet<[&str; 3]> = ["pods", "namespaces"]
        .into_iter()
        .flat_map(|resource| ["get", "list", "watch"].map(|verb| ["", resource, verb]))
        .collect();
    expected.insert(["", "pods/status", "patch"]);
    expected.insert(["", "events", "create"]);
    expected.insert(["", "nodes", "get"]);
    assert_eq!(rights(role.expect("the agent's role")), expected);
}

#[test]
fn admission_policies_are_bound_and_about_accounts_that_there_are() {
    for folder in folders() {
        let all = documents(&folder);
        let bindings = of_kind(&all, "ValidatingAdmissionPolicyBinding");
        let bound: BTreeSet<&str> = bindings
            .iter()
            .map(|binding| {
                assert_eq!(binding["spec"]["validationActions"], serde_json::json!(["Deny"]));
                binding["spec"]["policyName"].as_str().expect("a name")
            })
            .collect();
        let policies = of_kind(&all, "ValidatingAdmissionPolicy");
        let there: BTreeSet<&str> = policies.iter().map(|p| name(&p["metadata"])).collect();
        assert_eq!(bound, there, "{folder}");
        for policy in policies {
            assert_eq!(policy["spec"]["failurePolicy"], "Fail", "{folder}");
        }
        let sets = of_kind(&all, "DaemonSet");
        let [set] = sets.as_slice() else { continue };
        // Under istiod the agents have another name.
        let wanted = if name(&set["metadata"]) == "sotto-uninstall" {
            "sotto-uninstall"
        } else {
            "sotto-agent"
        };
        let agent = of_kind(&all, "ValidatingAdmissionPolicy")
            .into_iter()
            .find(|policy| name(&policy["metadata"]) == wanted)
            .expect("it is there");
        let account = set["spec"]["template"]["spec"]["serviceAccountName"].as_str().expect("one");
        let namespace = set["metadata"]["namespace"].as_str().expect("one");
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let asks = agent["spec"]["matchConditions"][0]["expression"].as_str().expect("a rule");
        assert!(asks.contains(&format!("'{user}'")), "{folder}: {user}");
    }
}

#[test]
fn agents_may_reach_the_control_plane_and_no_other_pod_may() {
    for folder in ["base", "overlays/dev-node", "overlays/openshift"] {
        let all = documents(folder);
        let policy = &only(&all, "NetworkPolicy")["spec"];
        let template = |kind: &str| only(&all, kind)["spec"]["template"].clone();
        let (agent, control_plane) = (template("DaemonSet"), template("Deployment"));
        let labels = |template: &Value| template["metadata"]["labels"].clone();
        contains(&labels(&control_plane), &policy["podSelector"]["matchLabels"], folder);
        let ports: Vec<&str> =
            items(&control_plane["spec"]["containers"][0]["ports"]).iter().map(name).collect();
        let of_rule = |rule: &Value| -> Vec<String> {
            let names = items(&rule["ports"]).iter().map(|p| p["port"].as_str().expect("a name"));
            names.map(str::to_owned).collect()
        };
        let (closed, open): (Vec<&Value>, Vec<&Value>) =
            items(&policy["ingress"]).iter().partition(|rule| rule["from"].is_array());
        let [closed] = closed.as_slice() else { panic!("{folder}: {closed:?}") };
        let [from] = items(&closed["from"]) else { panic!("{folder}: {closed}") };
        contains(&labels(&agent), &from["podSelector"]["matchLabels"], folder);
        assert_eq!(of_rule(closed), ["grpc"], "{folder}");
        let open: Vec<String> = open.into_iter().flat_map(of_rule).collect();
        assert_eq!(open, ["metrics", "ready"], "{folder}");
        assert!(open.iter().chain(&of_rule(closed)).all(|p| ports.contains(&p.as_str())));
    }
}

fn agent(all: &[Value]) -> &Value {
    &only(all, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
}

fn added(container: &Value) -> BTreeSet<&str> {
    items(&container["securityContext"]["capabilities"]["add"])
        .iter()
        .map(|name| name.as_str().expect("a name"))
        .collect()
}

#[test]
fn the_agent_may_do_what_it_keeps_and_give_up_the_rest() {
    let all = documents("base");
    let mut expected: BTreeSet<String> =
        privileges::AGENT.iter().map(|capability| upper(&format!("{capability:?}"))).collect();
    expected.insert("SETPCAP".to_owned());
    assert_eq!(added(agent(&all)), expected.iter().map(String::as_str).collect());
}

/// `NET_ADMIN` of `NetAdmin`.
fn upper(camel: &str) -> String {
    let mut snake = String::new();
    for letter in camel.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_uppercase());
    }
    snake
}

#[test]
fn openshift_allows_what_the_agent_asks_for_and_no_more() {
    let all = documents("overlays/openshift");
    let constraints = only(&all, "SecurityContextConstraints");
    let allowed: BTreeSet<&str> = items(&constraints["allowedCapabilities"])
        .iter()
        .map(|name| name.as_str().expect("a name"))
        .collect();
    assert_eq!(allowed, added(agent(&all)));
    let pod = &only(&all, "DaemonSet")["spec"]["template"]["spec"];
    let kinds = items(&pod["volumes"])
        .iter()
        .flat_map(|volume| volume.as_object().expect("a volume").keys());
    let kinds: BTreeSet<&str> = kinds.map(String::as_str).filter(|key| *key != "name").collect();
    let expected: BTreeSet<&str> =
        items(&constraints["volumes"]).iter().map(|kind| kind.as_str().expect("a kind")).collect();
    assert_eq!(kinds, expected);
    assert_eq!(items(&pod["containers"]).len(), 1, "the network's files are the operator's");
}

#[test]
fn what_users_objects_hang_on_stays_when_the_mesh_is_deleted() {
    for folder in folders().iter().filter(|folder| *folder != "crds") {
        let all = documents(folder);
        assert!(of_kind(&all, "CustomResourceDefinition").is_empty(), "{folder}");
        for namespace in of_kind(&all, "Namespace") {
            // With it would go the policies that are for all of the mesh.
            assert_eq!(name(&namespace["metadata"]), "sotto-uninstall", "{folder}");
        }
    }
    assert_eq!(name(&only(&documents("crds"), "Namespace")["metadata"]), "istio-system");
}

#[test]
fn the_way_out_outlives_what_it_takes_away() {
    let all = documents("overlays/uninstall");
    for document in &all {
        let namespace = document["metadata"]["namespace"].as_str();
        assert_eq!(namespace.unwrap_or("sotto-uninstall"), "sotto-uninstall", "{document}");
        for folder in with_agents().iter().chain([&"crds".to_owned()]) {
            let same = |other: &Value| {
                ["kind", "metadata"].iter().all(|key| match *key {
                    "metadata" => other["metadata"]["name"] == document["metadata"]["name"],
                    key => other[key] == document[key],
                })
            };
            assert!(!documents(folder).iter().any(same), "{folder} deletes {document}");
        }
    }
    let mut expected = BTreeSet::from([["", "pods", "list"], ["", "pods/status", "patch"]]);
    for role in of_kind(&all, "ClusterRole") {
        expected = &expected ^ &rights(role);
    }
    assert_eq!(expected, BTreeSet::new());
}

#[test]
fn istiod_gets_agents_alone_under_the_account_it_trusts() {
    let all = documents("overlays/istiod");
    assert_eq!(
        only(&all, "DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"],
        "ztunnel"
    );
    for kind in ["Deployment", "Service", "CustomResourceDefinition", "Namespace"] {
        assert_eq!(of_kind(&all, kind).len(), 0, "{kind}");
    }
}

#[test]
fn beside_istio_s_own_agents_are_on_chosen_nodes_alone() {
    let all = documents(BESIDE);
    let set = only(&all, "DaemonSet");
    assert_eq!(name(&set["metadata"]), "sotto", "Istio's is called ztunnel");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "ztunnel");
    assert_eq!(pod["nodeSelector"]["sotto.io/node"], "agent");
    assert_eq!(set["spec"]["template"]["metadata"]["labels"]["app"], "ztunnel");
    assert!(set["spec"]["selector"]["matchLabels"]["app"].is_null(), "as Istio's has it");
}

#[test]
fn istio_s_tools_find_the_agents_under_istiod_by_the_names_they_know() {
    let all = documents("overlays/istiod");
    let set = only(&all, "DaemonSet");
    assert_eq!(name(&set["metadata"]), "ztunnel");
    let template = &set["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    assert_eq!((&labels["app"], &labels["k8s-app"]), (&"ztunnel".into(), &"istio-cni-node".into()));
    for (label, value) in set["spec"]["selector"]["matchLabels"].as_object().expect("a selector") {
        assert_eq!(&labels[label], value, "{label}");
    }
    let containers = items(&template["spec"]["containers"]);
    assert_eq!(containers.iter().map(name).collect::<Vec<_>>(), ["istio-proxy", "cni"]);
    // It looks into other processes' namespaces, which the runtime's profile denies.
    assert_eq!(containers[0]["securityContext"]["appArmorProfile"]["type"], "Unconfined");
}

/// Agents are not ready before the control plane is there: it must not wait for what waits for them.
#[test]
fn the_control_plane_starts_on_the_only_node_and_on_one_that_waits_for_its_agent() {
    for folder in folders() {
        let all = documents(&folder);
        let Some(deployment) = of_kind(&all, "Deployment").pop() else { continue };
        let startup = of_kind(&all, "DaemonSet").into_iter().flat_map(|set| {
            items(&set["spec"]["template"]["spec"]["containers"]).iter().flat_map(|container| {
                let taint =
                    items(&container["env"]).iter().filter(|env| name(env) == "STARTUP_TAINT");
                taint.map(|env| env["value"].as_str().expect("the taint's key"))
            })
        });
        // What kubeadm and its like put on the nodes of their control plane.
        let known = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["priorityClassName"], "system-cluster-critical", "{folder}");
        for taint in startup.chain(known) {
            let tolerated = items(&pod["tolerations"]).iter().any(|toleration| {
                toleration["key"] == taint
                    && toleration["operator"] == "Exists"
                    && (toleration["effect"].is_null() || toleration["effect"] == "NoSchedule")
            });
            assert!(tolerated, "{folder}: {taint}");
        }
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        assert!(
            pod["affinity"]["podAntiAffinity"][required].is_null(),
            "{folder}: one node is enough"
        );
    }
}

#[test]
fn the_mesh_does_not_capture_itself() {
    for folder in folders() {
        for workload in workloads(&documents(&folder)) {
            assert_eq!(
                workload["spec"]["template"]["metadata"]["labels"]["istio.io/dataplane-mode"],
                "none",
                "{folder}"
            );
        }
    }
}
