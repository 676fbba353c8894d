//! Real `kubectl` against the pocket cluster's API server, through what the tutorials do.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use futures::future::BoxFuture;
use kit::api::{ApiConfig, ApiServer, ContainerRef, DeleteOptions, Exec, PodRuntime};
use serde_json::{Value, json};

/// An API server and a kubectl that talks to it, with a cache of its own.
struct Cluster {
    api: ApiServer,
    home: tempfile::TempDir,
}

/// Pods whose containers are this very machine.
#[derive(Debug)]
struct Processes {
    log: PathBuf,
}

impl PodRuntime for Processes {
    fn exec(&self, container: ContainerRef, exec: Exec) -> BoxFuture<'static, anyhow::Result<i32>> {
        let mut command = tokio::process::Command::new(&exec.command[0]);
        command.args(&exec.command[1..]).env("CONTAINER", container.container);
        Box::pin(kit::api::run(command, exec))
    }

    fn log(&self, _: &ContainerRef) -> anyhow::Result<PathBuf> {
        Ok(self.log.clone())
    }
}

impl Cluster {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let pods = Processes { log: home.path().join("log") };
        let config = ApiConfig { pods: Some(Arc::new(pods)), ..ApiConfig::loopback().unwrap() };
        let api = ApiServer::start(config).unwrap();
        let config = api.kubeconfig(&api.url(), api.admin_token());
        std::fs::write(home.path().join("config"), config).unwrap();
        Self { api, home }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(split(line))
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("KUBECACHEDIR", self.home.path().join("cache"))
            .env("HOME", self.home.path());
        command
    }

    fn output(&self, line: &str, stdin: &str) -> Output {
        let spawned = self
            .command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.expect("kubectl is needed: put version 1.28 or newer on PATH");
        let (mut pipe, stdin) = (child.stdin.take().unwrap(), stdin.to_owned());
        // A command may end before it has read everything.
        let writer = std::thread::spawn(move || pipe.write_all(stdin.as_bytes()).is_ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// What a command that must succeed prints.
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.ok_with(line, "")
    }

    #[track_caller]
    fn ok_with(&self, line: &str, stdin: &str) -> String {
        let output = self.output(line, stdin);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {line}\n{out}{err}");
        assert!(!err.contains("warning"), "kubectl {line}\n{err}");
        out
    }

    /// What a command that must fail says.
    #[track_caller]
    fn fails_with(&self, line: &str, stdin: &str) -> String {
        let output = self.output(line, stdin);
        assert!(!output.status.success(), "kubectl {line}\n{}", text(&output.stdout));
        text(&output.stderr)
    }

    fn with_peer_authentication(self) -> Self {
        self.ok_with("apply -f -", PEER_AUTHENTICATION);
        self
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Splits at spaces, but not inside single quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Columns of each line of a table but its header, without the age.
fn rows(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table.lines().skip(1).map(cells).collect()
}

const PEER_AUTHENTICATION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: peerauthentications.security.istio.io
spec:
  group: security.istio.io
  names: {kind: PeerAuthentication, listKind: PeerAuthenticationList, plural: peerauthentications, singular: peerauthentication, shortNames: [pa], categories: [istio-io, security-istio-io]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: false
    subresources: {status: {}}
    additionalPrinterColumns: &columns
    - {name: Mode, type: string, jsonPath: .spec.mtls.mode, description: The mode.}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema: &schema
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              mtls:
                type: object
                properties:
                  mode: {type: string, enum: [UNSET, DISABLE, PERMISSIVE, STRICT]}
              portLevelMtls:
                type: object
                minProperties: 1
                additionalProperties:
                  type: object
                  properties:
                    mode: {type: string, enum: [UNSET, DISABLE, PERMISSIVE, STRICT]}
              selector:
                type: object
                properties:
                  matchLabels: {type: object, maxProperties: 4096, additionalProperties: {type: string, maxLength: 63}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
  - name: v1beta1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: *columns
    schema: *schema
"#;

fn policy(version: &str, namespace: &str, name: &str, mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/{version}\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

const SLEEP: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: sleep}
---
apiVersion: v1
kind: Service
metadata: {name: sleep, labels: {app: sleep, service: sleep}}
spec:
  ports: [{port: 80, name: http}]
  selector: {app: sleep}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleep}
spec:
  replicas: 1
  selector: {matchLabels: {app: sleep}}
  template:
    metadata: {labels: {app: sleep}}
    spec:
      terminationGracePeriodSeconds: 0
      serviceAccountName: sleep
      containers:
      - name: sleep
        image: curlimages/curl
        command: ["/bin/sleep", "infinity"]
        volumeMounts: [{mountPath: /etc/sleep/tls, name: secret-volume}]
      volumes:
      - name: secret-volume
        secret: {secretName: sleep-secret, optional: true}
"#;

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

#[test]
fn tokens_are_requested_reviewed_and_end_with_their_pod() {
    let cluster = Cluster::start();
    cluster.ok("create sa robot");
    cluster.ok("run one --image=busybox --overrides '{\"spec\":{\"serviceAccountName\":\"robot\",\"nodeName\":\"node1\"}}'");
    let token = cluster.ok("create token robot --audience istio-ca --bound-object-kind Pod --bound-object-name one --duration 20m");
    let review = |audience: &str| {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token.trim(), "audiences": [audience]},
        });
        let answer = cluster.ok_with("create -f - -o json", &review.to_string());
        serde_json::from_str::<Value>(&answer).unwrap()["status"].clone()
    };
    let status = review("istio-ca");
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["audiences"], json!(["istio-ca"]));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert!(
        status["user"]["groups"]
            .as_array()
            .unwrap()
            .contains(&json!("system:serviceaccounts:default"))
    );
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["one"]));
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/node-name"], json!(["node1"]));
    assert_ne!(review("other")["authenticated"], true);
    // For the API itself it is no token.
    let said = cluster.fails_with(&format!("get pods --token {}", token.trim()), "");
    assert!(said.contains("Unauthorized") || said.contains("logged in"), "{said}");
    let own = cluster.ok("create token robot");
    assert!(
        cluster
            .ok(&format!("auth whoami --token {}", own.trim()))
            .contains("serviceaccount:default:robot")
    );
    let user = "system:serviceaccount:default:robot";
    assert!(cluster.api.usage(user).iter().any(|usage| usage.resource == "selfsubjectreviews"));
    cluster.ok("delete pod one --force --grace-period 0");
    assert_ne!(review("istio-ca")["authenticated"], true);
    assert!(
        cluster
            .fails_with("create token nobody", "")
            .contains("serviceaccounts \"nobody\" not found")
    );
}

#[test]
fn pods_end_when_their_kubelet_says_so() {
    let cluster = Cluster::start();
    cluster.ok("run one --image=busybox --overrides '{\"spec\":{\"nodeName\":\"node1\"}}'");
    cluster.ok("run two --image=busybox");
    let found =
        cluster.ok("get pods --field-selector spec.nodeName=node1,status.phase!=Failed -o name");
    assert_eq!(found, "pod/one\n");
    let said = cluster.fails_with("get pods --field-selector spec.made.up=x", "");
    assert!(said.contains("field label not supported"), "{said}");
    assert_eq!(cluster.ok("delete pod two"), "pod \"two\" deleted\n");
    cluster.ok("delete pod one --wait=false");
    assert_eq!(rows(&cluster.ok("get pod one"))[0][2], "Terminating");
    let grace = cluster.ok("get pod one -o 'jsonpath={.metadata.deletionGracePeriodSeconds}'");
    assert_eq!(grace, "30");
    assert!(cluster.api.store().delete("pods", "default", "one", &DeleteOptions::now()).unwrap());
    assert_eq!(cluster.ok("get pods -o name"), "");
    cluster.ok("run a --image=busybox -l app=x");
    cluster.ok("run b --image=busybox -l app=x");
    cluster.ok("run c --image=busybox -l app=y");
    cluster.ok("delete pod -l app=x");
    assert_eq!(cluster.ok("get pods -o 'custom-columns=NAME:.metadata.name' --no-headers"), "c\n");
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
fn commands_run_in_pods_and_end_with_their_code() {
    let cluster = Cluster::start();
    cluster.ok("run one --image=busybox");
    assert_eq!(cluster.ok("exec one -- printenv CONTAINER"), "one\n");
    assert_eq!(cluster.ok("exec one -c one -- echo a b"), "a b\n");
    let output = cluster.output("exec one -- sh -c 'echo out; echo err >&2; exit 56'", "");
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "err\ncommand terminated with exit code 56\n");
    assert_eq!(output.status.code(), Some(56));
    let long = "x".repeat(1 << 20);
    assert_eq!(cluster.ok_with("exec -i one -- cat", &long).len(), long.len());
    // A command that reads nothing of what it is sent.
    assert_eq!(cluster.ok_with("exec -i one -- echo done", &long), "done\n");
    let said = cluster.fails_with("exec one -c two -- true", "");
    assert!(said.contains("container two is not valid for pod one"), "{said}");
    assert!(cluster.fails_with("exec one -- /no/such/program", "").contains("/no/such/program"));
    assert!(cluster.fails_with("exec two -- true", "").contains("pods \"two\" not found"));
    cluster.ok("create deployment web --image=nginx");
    cluster.ok("label pod one app=web");
    assert_eq!(cluster.ok("exec deploy/web -- echo yes"), "yes\n");
}

#[test]
fn logs_are_shown_and_followed() {
    let cluster = Cluster::start();
    cluster.ok("run one --image=busybox");
    let path = cluster.home.path().join("log");
    std::fs::write(&path, "a\nb\nc\n").unwrap();
    assert_eq!(cluster.ok("logs one"), "a\nb\nc\n");
    assert_eq!(cluster.ok("logs one --tail 1"), "c\n");
    let mut follow =
        cluster.command("logs one -f --tail 1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "c");
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"d\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "d");
    follow.kill().unwrap();
    follow.wait().unwrap();
}
