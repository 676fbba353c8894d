//! An API server, a kubectl that talks to it, and what is applied to it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use futures::future::BoxFuture;
use kit::api::{ApiConfig, ApiServer, ContainerRef, Exec, PodRuntime};

/// An API server and a kubectl that talks to it, with a cache of its own.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    pub(crate) home: tempfile::TempDir,
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
        Box::pin(kit::api::run(command, exec, tokio::process::Command::spawn))
    }

    fn log(&self, _: &ContainerRef) -> anyhow::Result<PathBuf> {
        Ok(self.log.clone())
    }
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let pods = Processes { log: home.path().join("log") };
        let config = ApiConfig { pods: Some(Arc::new(pods)), ..ApiConfig::loopback().unwrap() };
        let api = ApiServer::start(config).unwrap();
        let config = api.kubeconfig(&api.url(), api.admin_token());
        std::fs::write(home.path().join("config"), config).unwrap();
        Self { api, home }
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(split(line))
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("KUBECACHEDIR", self.home.path().join("cache"))
            .env("HOME", self.home.path());
        command
    }

    pub(crate) fn output(&self, line: &str, stdin: &str) -> Output {
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
    pub(crate) fn ok(&self, line: &str) -> String {
        self.ok_with(line, "")
    }

    #[track_caller]
    pub(crate) fn ok_with(&self, line: &str, stdin: &str) -> String {
        let output = self.output(line, stdin);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {line}\n{out}{err}");
        assert!(!err.contains("warning"), "kubectl {line}\n{err}");
        out
    }

    /// What a command that must fail says.
    #[track_caller]
    pub(crate) fn fails_with(&self, line: &str, stdin: &str) -> String {
        let output = self.output(line, stdin);
        assert!(!output.status.success(), "kubectl {line}\n{}", text(&output.stdout));
        text(&output.stderr)
    }

    pub(crate) fn with_peer_authentication(self) -> Self {
        self.ok_with("apply -f -", PEER_AUTHENTICATION);
        self
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
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
pub(crate) fn rows(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table.lines().skip(1).map(cells).collect()
}

/// As it is shipped.
pub(crate) const PEER_AUTHENTICATION: &str =
    include_str!("../../../deploy/crds/peerauthentications.yaml");

pub(crate) fn policy(version: &str, namespace: &str, name: &str, mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/{version}\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

pub(crate) const SLEEP: &str = r#"
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
