//! Custom resources: peer authentications as in the tutorials.

use std::process::Stdio;

use crate::cluster::{Cluster, policy, rows, text};

#[test]
fn unknown_and_wrong_fields_are_told() {
    let cluster = Cluster::start().with_peer_authentication();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b}], nodename: x}";
    let said = cluster.fails_with("apply -f -", pod);
    assert!(said.contains("strict decoding error: unknown field \"spec.nodename\""), "{said}");
    let said = text(&cluster.output("apply --validate=warn -f -", pod).stderr);
    assert!(said.contains("unknown field"), "{said}");
    let said = cluster.fails_with("apply -f -", &policy("v1", "default", "a", "STRIKT"));
    let wanted = "The PeerAuthentication \"a\" is invalid: spec.mtls.mode: Unsupported value: \"STRIKT\": \
                  supported values: \"UNSET\", \"DISABLE\", \"PERMISSIVE\", \"STRICT\"";
    assert!(said.contains(wanted), "{said}");
    let said = cluster.fails_with("apply -f -", &policy("v1", "default", "a", "STRICT, mod: x"));
    assert!(said.contains("unknown field \"spec.mtls.mod\""), "{said}");
    let said = cluster.fails_with("apply -f -", &policy("v1", "nowhere", "a", "STRICT"));
    assert!(said.contains("namespaces \"nowhere\" not found"), "{said}");
    let said = cluster.fails_with("apply -f -", &policy("v2", "default", "a", "STRICT"));
    assert!(
        said.contains(
            "no matches for kind \"PeerAuthentication\" in version \"security.istio.io/v2\""
        ),
        "{said}"
    );
    let said = cluster.fails_with("create ns Not_A_Name", "");
    assert!(said.contains("is invalid: metadata.name"), "{said}");
}

#[test]
fn policies_go_through_the_tutorials() {
    let cluster = Cluster::start().with_peer_authentication();
    assert_eq!(text(&cluster.output("get pa --all-namespaces", "").stderr), "No resources found\n");
    cluster.ok("create ns istio-system");
    let name = "mesh-strict-policy";
    cluster.ok_with("apply -f -", &policy("v1beta1", "istio-system", name, "STRICT"));
    cluster.ok_with("apply -f -", &policy("v1", "default", "namespace-policy", "PERMISSIVE"));
    let listed = cluster.ok("get pa -A");
    assert_eq!(
        listed.lines().next().map(|l| l.split_whitespace().collect::<Vec<_>>()),
        Some(vec!["NAMESPACE", "NAME", "MODE", "AGE"])
    );
    let listed: Vec<Vec<String>> = rows(&listed).into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(
        listed,
        [["default", "namespace-policy", "PERMISSIVE"], ["istio-system", name, "STRICT"]]
    );
    let described = cluster.ok("describe pa -n istio-system");
    assert!(described.contains("API Version:  security.istio.io/v1\n"), "{described}");
    assert!(described.contains("Mode:  STRICT"), "{described}");
    for (resource, version) in [
        ("peerauthentications.v1beta1.security.istio.io", "security.istio.io/v1beta1"),
        ("peerauthentications.v1.security.istio.io", "security.istio.io/v1"),
        ("pa", "security.istio.io/v1"),
    ] {
        let line = format!(
            "get {resource} {name} -n istio-system -o 'jsonpath={{.apiVersion}} {{.spec.mtls.mode}}'"
        );
        assert_eq!(cluster.ok(&line), format!("{version} STRICT"));
    }
    let again = cluster.ok_with("apply -f -", &policy("v1beta1", "istio-system", name, "DISABLE"));
    assert_eq!(again, format!("peerauthentication.security.istio.io/{name} configured\n"));
    let generation =
        format!("get pa {name} -n istio-system -o 'jsonpath={{.metadata.generation}}'");
    assert_eq!(cluster.ok(&generation), "2");
    let deleted = cluster.ok(&format!("delete pa -n istio-system {name}"));
    assert_eq!(deleted, format!("peerauthentication.security.istio.io \"{name}\" deleted\n"));
    cluster.ok("delete crd peerauthentications.security.istio.io");
    let said = cluster.fails_with("get pa -A", "");
    let gone = ["could not find the requested resource", "doesn't have a resource type"];
    assert!(gone.iter().any(|gone| said.contains(gone)), "{said}");
}

#[test]
fn definitions_and_what_is_served_are_listed() {
    let cluster = Cluster::start().with_peer_authentication();
    assert!(cluster.ok("get crd").contains("peerauthentications.security.istio.io"));
    cluster.ok(
        "wait --for condition=established --timeout=5s crd/peerauthentications.security.istio.io",
    );
    let resources = rows(&cluster.ok("api-resources"));
    let of = |name: &str| resources.iter().find(|row| row[0] == name).unwrap()[1..].join(" ");
    assert_eq!(of("pods"), "po v1 true Pod");
    assert_eq!(of("peerauthentications"), "pa security.istio.io/v1 true PeerAuthentication");
    assert!(cluster.ok("api-versions").contains("security.istio.io/v1beta1"));
    assert!(cluster.ok("version").contains("Server Version: v1.32.0"));
    assert_eq!(cluster.ok("auth can-i delete pods"), "yes\n");
    assert!(cluster.ok("auth whoami").contains("kubernetes-admin"));
    assert_eq!(cluster.ok("get --raw /readyz"), "ok");
}

#[test]
fn a_watch_tells_every_change_as_a_table_row() {
    let cluster = Cluster::start().with_peer_authentication();
    cluster.ok_with("apply -f -", &policy("v1", "default", "a", "STRICT"));
    let mut watch = cluster
        .command("get pa -A -w --output-watch-events")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        line.split_whitespace().take(4).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(next(), ["EVENT", "NAMESPACE", "NAME", "MODE"]);
    assert_eq!(next(), ["ADDED", "default", "a", "STRICT"]);
    cluster.ok_with("apply -f -", &policy("v1", "default", "a", "PERMISSIVE"));
    assert_eq!(next(), ["MODIFIED", "default", "a", "PERMISSIVE"]);
    cluster.ok_with("apply -f -", &policy("v1beta1", "default", "b", "DISABLE"));
    assert_eq!(next(), ["ADDED", "default", "b", "DISABLE"]);
    cluster.ok("delete pa a");
    assert_eq!(next(), ["DELETED", "default", "a", "PERMISSIVE"]);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn what_is_deployed_is_taken() {
    let cluster = Cluster::start();
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    cluster.ok(&format!("apply -k {deploy}/crds"));
    cluster.ok(&format!("apply -k {deploy}/base"));
    cluster.ok(&format!("apply -k {deploy}/base"));
    assert_eq!(rows(&cluster.ok("get ds -n istio-system")).len(), 1);
    let allow = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n\
                 spec: {action: ALLOW, rules: [{from: [{source: {principals: [x]}}], to: [{operation: {ports: ['80']}}]}]}\n";
    cluster.ok_with("apply -f -", allow);
    let said = cluster.fails_with("apply -f -", &allow.replace("ALLOW", "PERHAPS"));
    assert!(said.contains("spec.action: Unsupported value: \"PERHAPS\""), "{said}");
    assert_eq!(rows(&cluster.ok("get authorizationpolicies"))[0][..2], ["a", "ALLOW"]);
    cluster.ok(&format!("delete -k {deploy}/base --ignore-not-found"));
}
