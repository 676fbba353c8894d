//! What the tutorials' readers type, and what they must see.

use super::bench::{Bench, pa};

const SLEEP: (&str, &str) = ("legacy", "sleep");
const PAGE: (&str, &str) = ("bookinfo", "productpage-v1");
const DETAILS: &str = "http://details.bookinfo.svc.cluster.local:9080/details/1";
const PRODUCTPAGE: &str = "http://productpage.bookinfo.svc.cluster.local:9080/productpage";
/// What plain text meets where mutual TLS is asked: `Recv failure: Connection reset by peer`.
const RESET: &str = "exit 56";

#[tokio::test(flavor = "multi_thread")]
async fn strict_resets_plaintext_with_exit_56_at_every_level_and_deleting_it_lets_in_again() {
    let bench = Bench::bookinfo().await;
    bench.shows(SLEEP, PRODUCTPAGE, "200").await;
    the_whole_mesh(&bench).await;
    any_name(&bench).await;
    a_namespace(&bench).await;
    a_workload(&bench).await;
    a_port(&bench).await;
}

/// `default` in the root namespace, by the old version of the API.
async fn the_whole_mesh(bench: &Bench) {
    let strict = pa("v1beta1", "istio-system", "default", "{ mtls: { mode: STRICT } }");
    let said = bench.apply(&strict).await;
    assert_eq!(said, "peerauthentication.security.istio.io/default created\n");
    bench.shows(SLEEP, PRODUCTPAGE, RESET).await;
    let said = bench.kubectl(&format!("exec -n legacy deploy/sleep -- curl -sS {DETAILS}")).await;
    assert_eq!(said.code, 56, "{said:?}");
    assert!(said.err.contains("curl: (56) Recv failure: Connection reset by peer"), "{said:?}");
    assert!(said.err.contains("command terminated with exit code 56"), "{said:?}");
    bench.shows(PAGE, DETAILS, "200").await;
    bench.ok("delete pa default -n istio-system").await;
    bench.shows(SLEEP, PRODUCTPAGE, "200").await;
}

async fn any_name(bench: &Bench) {
    let name = "mesh-strict-policy";
    bench.apply(&pa("v1", "istio-system", name, "{ mtls: { mode: STRICT } }")).await;
    bench.shows(SLEEP, DETAILS, RESET).await;
    let listed = bench.ok("get pa -A").await;
    let mut lines = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["NAMESPACE", "NAME", "MODE", "AGE"]);
    let row = lines.next().unwrap();
    assert_eq!(row[..3], ["istio-system", name, "STRICT"]);
    assert!(lines.next().is_none(), "{listed}");
    let described = bench.ok("describe pa -n istio-system").await;
    for part in ["Name:         mesh-strict-policy", "Kind:         PeerAuthentication", "STRICT"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    bench.ok(&format!("delete pa -n istio-system {name}")).await;
    bench.shows(SLEEP, DETAILS, "200").await;
}

async fn a_namespace(bench: &Bench) {
    bench.apply(&pa("v1", "bookinfo", "default", "{ mtls: { mode: STRICT } }")).await;
    bench.shows(SLEEP, DETAILS, RESET).await;
    bench.shows(PAGE, PRODUCTPAGE, "200").await;
    a_client_moves_in(bench).await;
    // A namespace's own word counts more than the mesh's.
    bench.apply(&pa("v1", "istio-system", "default", "{ mtls: { mode: STRICT } }")).await;
    bench.apply(&pa("v1", "bookinfo", "default", "{ mtls: { mode: PERMISSIVE } }")).await;
    bench.shows(SLEEP, DETAILS, "200").await;
    bench.ok("delete pa default -n bookinfo").await;
    bench.shows(SLEEP, DETAILS, RESET).await;
    bench.ok("delete pa default -n istio-system").await;
    bench.shows(SLEEP, DETAILS, "200").await;
}

/// The client's namespace is enrolled, and the client lives on in an enrolled one.
async fn a_client_moves_in(bench: &Bench) {
    bench.ok("label namespace legacy istio.io/dataplane-mode=ambient").await;
    bench.shows(SLEEP, DETAILS, "200").await;
    bench.ok("label namespace legacy istio.io/dataplane-mode-").await;
    bench.shows(SLEEP, DETAILS, RESET).await;
    let moved = super::bench::LEGACY.split_once("---").unwrap().1.replace("legacy", "bookinfo");
    bench.apply(&moved).await;
    bench.ok("rollout status deploy/sleep -n bookinfo --timeout=60s").await;
    bench.shows(("bookinfo", "sleep"), DETAILS, "200").await;
    bench.ok("delete deploy sleep -n bookinfo").await;
}

async fn a_workload(bench: &Bench) {
    let spec = "{ selector: { matchLabels: { app: details } }, mtls: { mode: STRICT } }";
    bench.apply(&pa("v1", "bookinfo", "details-strict", spec)).await;
    bench.shows(SLEEP, DETAILS, RESET).await;
    bench.shows(SLEEP, PRODUCTPAGE, "200").await;
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
        metadata: { name: details, namespace: bookinfo }\n\
        spec: { host: details, trafficPolicy: { tls: { mode: ISTIO_MUTUAL } } }\n";
    bench.apply(rule).await;
    assert!(bench.ok("describe dr details -n bookinfo").await.contains("ISTIO_MUTUAL"));
    bench.shows(PAGE, PRODUCTPAGE, "200").await;
    bench.ok("delete dr details -n bookinfo").await;
    bench.ok("delete pa details-strict -n bookinfo").await;
    bench.shows(SLEEP, DETAILS, "200").await;
}

async fn a_port(bench: &Bench) {
    let spec = |all: &str, port: &str| {
        format!(
            "{{ selector: {{ matchLabels: {{ app: details }} }}, mtls: {{ mode: {all} }}, \
             portLevelMtls: {{ 9080: {{ mode: {port} }} }} }}"
        )
    };
    bench.apply(&pa("v1", "bookinfo", "ports", &spec("PERMISSIVE", "STRICT"))).await;
    bench.shows(SLEEP, DETAILS, RESET).await;
    bench.shows(PAGE, DETAILS, "200").await;
    bench.apply(&pa("v1", "bookinfo", "ports", &spec("STRICT", "PERMISSIVE"))).await;
    bench.shows(SLEEP, DETAILS, "200").await;
    // The exception is for port 9080 alone: another port of the pod stays closed to plain text.
    let other = format!("http://{}:9081/", bench.ip("bookinfo", "details").await);
    bench.shows(SLEEP, &other, RESET).await;
    bench.ok("delete pa ports -n bookinfo").await;
    bench.shows(SLEEP, DETAILS, "200").await;
}
