//! The tutorials' steps.
//!
//! The commands are theirs. Where they name a file of theirs, what it says is written out; where they enter a shell
//! and type, or look into a container by Docker, the same is asked by `kubectl exec`; where they give a namespace a
//! sidecar, it gets the mesh's label.

use super::Expected::{Exits, Prints};
use super::{Step, Tutorial, fixtures};

const fn step(text: &'static str, command: &'static str, expected: super::Expected) -> Step {
    Step { text, command, expected }
}

/// Peer authentication for httpbin, with a client outside of the mesh and then in it.
pub(super) const HTTPBIN: Tutorial = Tutorial {
    fixtures: fixtures::httpbin,
    steps: &[
        step(
            "we obtain success because we are not using mutual TLS",
            "kubectl -n utilities -it exec curl -- curl -v http://httpbin.chapter6.svc.cluster.local:8000/get",
            Prints("200 OK"),
        ),
        step(
            "We apply mtl using the file: 02-httpbin-strictTLS.yaml",
            r"kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: httpbin-strict-tls
  namespace: chapter6
spec:
  mtls:
    mode: STRICT
EOF",
            Prints("created"),
        ),
        step(
            "curl: (56) Recv failure: Connection reset by peer",
            "kubectl -n utilities -it exec curl -- curl -v http://httpbin.chapter6.svc.cluster.local:8000/get",
            Exits(56, "curl: (56) Recv failure: Connection reset by peer"),
        ),
        step(
            "command terminated with exit code 56",
            "kubectl -n utilities -it exec curl -- curl -v http://httpbin.chapter6.svc.cluster.local:8000/get",
            Exits(56, "command terminated with exit code 56"),
        ),
        step(
            "We now enable the side car",
            "kubectl label namespace utilities istio.io/dataplane-mode=ambient",
            Prints("labeled"),
        ),
        step(
            "we execute the previous curl now, the response is a page",
            "kubectl -n utilities -it exec curl -- curl -v http://httpbin.chapter6.svc.cluster.local:8000/get",
            Prints("200 OK"),
        ),
    ],
};

/// STRICT for the whole mesh, with a client in a namespace that is not in it.
pub(super) const SLEEP: Tutorial = Tutorial {
    fixtures: fixtures::sleep,
    steps: &[
        step("kubectl get ns", "kubectl get ns", Prints("sleep")),
        step("200", CURL_PRODUCTPAGE, Prints("200")),
        step(
            "Let's apply our PeerAuthentication",
            r#"kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: "default"
  namespace: "istio-system"
  labels: {sotto-e2e: "true"}
spec:
  mtls:
    mode: STRICT
EOF"#,
            Prints("peerauthentication.security.istio.io/default created"),
        ),
        step("it will fail with exit code 56", CURL_PRODUCTPAGE, Exits(56, "exit code 56")),
    ],
};

const CURL_PRODUCTPAGE: &str = r#"kubectl exec "$(kubectl get pod -l app=sleep -n sleep -o jsonpath={.items..metadata.name})" -c sleep -n sleep -- curl productpage.default.svc.cluster.local:9080 -s -o /dev/null -w "%{http_code}\n""#;

/// STRICT for a namespace, with a client outside that moves in.
pub(super) const BOOKINFO: Tutorial = Tutorial {
    fixtures: fixtures::bookinfo,
    steps: &[
        step("Run a shell in the Product Page Pod container", PAGE_ASKS_DETAILS, Prints("details")),
        step("kubectl -n legacy get po", "kubectl -n legacy get po", Prints("sleep")),
        step("Use the details API", LEGACY_ASKS_1, Prints("details")),
        step("Use the details API", LEGACY_ASKS_100, Prints("details")),
        step(
            "Enforce mTLS for all services in the bookinfo namespace",
            r"kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: mutual-tls
  namespace: bookinfo
spec:
  mtls:
    mode: STRICT
EOF",
            Prints("created"),
        ),
        step(
            "Fails, because the server requires a TLS cert",
            LEGACY_ASKS_100,
            Exits(56, "reset by peer"),
        ),
        step(
            "The components in the bookinfo namespace can still communicate",
            PAGE_ASKS_DETAILS,
            Prints("details"),
        ),
        step(
            "Fails: alert certificate required (here the mesh's own port speaks TLS, not the app's)",
            r#"kubectl -n legacy exec sleep -- curl -sSk "https://$(kubectl -n bookinfo get po details -o jsonpath={.status.podIP}):15008/details/100""#,
            Exits(56, "certificate required"),
        ),
        step(
            "We can recreate our legacy app in the bookinfo namespace",
            r#"kubectl -n legacy get po sleep -o jsonpath='{.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}' | sed 's/"legacy"/"bookinfo"/g' | kubectl apply -f -"#,
            Prints("created"),
        ),
        step(
            "kubectl get po",
            "kubectl -n bookinfo wait --for=condition=Ready pod/sleep --timeout=20s",
            Prints("met"),
        ),
        step(
            "And now we can use the details API",
            "kubectl -n bookinfo exec -it sleep -- curl -sS http://details.bookinfo.svc.cluster.local:9080/details/100",
            Prints("details"),
        ),
    ],
};

const PAGE_ASKS_DETAILS: &str = r#"kubectl -n bookinfo exec productpage -- python3 -c 'import urllib.request; print(urllib.request.urlopen("http://details:9080/details/1").read())'"#;
const LEGACY_ASKS_1: &str = "kubectl -n legacy exec -it sleep -- curl -sS http://details.bookinfo.svc.cluster.local:9080/details/1";
const LEGACY_ASKS_100: &str = "kubectl -n legacy exec -it sleep -- curl -sS http://details.bookinfo.svc.cluster.local:9080/details/100";

/// STRICT for the mesh, PERMISSIVE and STRICT for a namespace, a rule for one service.
pub(super) const LEVELS: Tutorial = Tutorial {
    fixtures: fixtures::sleep,
    steps: &[
        step(
            "check default mesh peer authentication policy",
            "kubectl get pa --all-namespaces",
            Prints("sotto-e2e-strict"),
        ),
        step(
            "check that there are no destination rules on the services",
            "kubectl get destinationrules.networking.istio.io --all-namespaces -o yaml",
            Prints("items: []"),
        ),
        step("use the details API", SLEEP_ASKS_DETAILS, Prints("details")),
        step("02_mesh-mTLS-STRICT.yaml", MESH_STRICT, Prints("created")),
        step("check policy", "kubectl describe pa -n istio-system", Prints("STRICT")),
        step(
            "it fails as the default namespace is now STRICT mTLS",
            SLEEP_ASKS_DETAILS,
            Exits(56, "reset by peer"),
        ),
        step(
            "remove mesh mTLS",
            "kubectl delete pa -n istio-system mesh-strict-policy",
            Prints("deleted"),
        ),
        step("03_namespace-mTLS-PERMISSIVE.yaml", NAMESPACE_PERMISSIVE, Prints("created")),
        step("check policy", "kubectl describe pa -n default", Prints("PERMISSIVE")),
        step("accepts http requests & mTLS", SLEEP_ASKS_DETAILS, Prints("details")),
        step(
            "remove namespace mTLS",
            "kubectl delete pa -n default namespace-permissive-policy",
            Prints("deleted"),
        ),
        step("03_namespace-mTLS-STRICT.yaml", NAMESPACE_STRICT, Prints("created")),
        step("check policy", "kubectl describe pa -n default", Prints("STRICT")),
        step("change details service to ISTIO-MUTUAL", DETAILS_MUTUAL, Prints("created")),
        step("check policy", "kubectl describe dr details", Prints("ISTIO_MUTUAL")),
        step(
            "(the text says PERMISSIVE here, and has just applied STRICT)",
            SLEEP_ASKS_DETAILS,
            Exits(56, "reset by peer"),
        ),
    ],
};

const SLEEP_ASKS_DETAILS: &str = "kubectl exec -n sleep sleep -- curl -sS http://details.default.svc.cluster.local:9080/details/1";
const MESH_STRICT: &str = r#"kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: mesh-strict-policy
  namespace: istio-system
  labels: {sotto-e2e: "true"}
spec:
  mtls:
    mode: STRICT
EOF"#;
const NAMESPACE_PERMISSIVE: &str = r#"kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: namespace-permissive-policy
  namespace: default
  labels: {sotto-e2e: "true"}
spec:
  mtls:
    mode: PERMISSIVE
EOF"#;
const NAMESPACE_STRICT: &str = r#"kubectl apply -f - <<EOF
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: namespace-strict-policy
  namespace: default
  labels: {sotto-e2e: "true"}
spec:
  mtls:
    mode: STRICT
EOF"#;
const DETAILS_MUTUAL: &str = r#"kubectl apply -f - <<EOF
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: details
  namespace: default
  labels: {sotto-e2e: "true"}
spec:
  host: details
  trafficPolicy:
    tls:
      mode: ISTIO_MUTUAL
EOF"#;

/// All destination rules replaced by such with mutual TLS: everything goes on.
pub(super) const RULES: Tutorial = Tutorial {
    fixtures: fixtures::sleep,
    steps: &[
        step("the rules of before", RULES_BEFORE, Prints("created")),
        step("oc replace -f destination-rule-all-mtls.yaml", RULES_MUTUAL, Prints("replaced")),
        step(
            "Everything should still continue to work as expected",
            r#"kubectl exec -n default productpage -- python3 -c 'import urllib.request; print(urllib.request.urlopen("http://details:9080/details/1").read())'"#,
            Prints("details"),
        ),
        step(
            "Everything should still continue to work as expected",
            CURL_PRODUCTPAGE,
            Prints("200"),
        ),
    ],
};

const RULES_BEFORE: &str = r#"kubectl create -f - <<EOF
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: productpage
  namespace: default
  labels: {sotto-e2e: "true"}
spec:
  host: productpage
  subsets:
  - name: v1
    labels: {version: v1}
EOF"#;
const RULES_MUTUAL: &str = r#"kubectl replace -f - <<EOF
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: productpage
  namespace: default
  labels: {sotto-e2e: "true"}
spec:
  host: productpage
  trafficPolicy:
    tls:
      mode: ISTIO_MUTUAL
  subsets:
  - name: v1
    labels: {version: v1}
EOF"#;
