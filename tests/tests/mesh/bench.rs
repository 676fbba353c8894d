//! A mesh with apps, real `kubectl` on it, and words for what a call ends in.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kit::cluster::programs;
use kit::cluster::{Cluster, ClusterOptions};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Bookinfo, enrolled, on both nodes.
pub(crate) const BOOKINFO: &str = include_str!("../../kit/manifests/bookinfo.yaml");
/// A pod `sleep` in a namespace `legacy` that is not enrolled.
pub(crate) const LEGACY: &str = include_str!("../../kit/manifests/legacy.yaml");
/// A TCP echo and an HTTP server in `back`, a client in `front`; none enrolled.
pub(crate) const STREAMS: &str = include_str!("streams.yaml");

/// The label that enrols.
pub(crate) const MODE: &str = "istio.io/dataplane-mode";
/// Until pods are ready.
pub(crate) const READY: Duration = Duration::from_secs(60);
/// How long a change of policy or label may take to be seen everywhere.
const SETTLE: Duration = Duration::from_secs(10);
/// How often a call must show the same in a row.
const CONFIRM: usize = 3;

/// A cluster, and a home for `kubectl`.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    home: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bench {
    /// A mesh with the apps of these manifests, ready.
    pub(crate) async fn start(apps: &[(&str, &[&str])]) -> Self {
        Self::with(ClusterOptions::default(), apps).await
    }

    pub(crate) async fn with(options: ClusterOptions, apps: &[(&str, &[&str])]) -> Self {
        let cluster = Cluster::start(options).await.unwrap();
        for (manifest, _) in apps {
            cluster.apply(manifest).await.unwrap();
        }
        for (_, namespaces) in apps {
            cluster.wait_ready(namespaces, READY).await.unwrap();
        }
        Self { cluster, home: tempfile::tempdir().unwrap() }
    }

    /// Bookinfo and the client outside the mesh.
    pub(crate) async fn bookinfo() -> Self {
        Self::start(&[(BOOKINFO, &["bookinfo"]), (LEGACY, &["legacy"])]).await
    }

    /// The echo and its client, both enrolled.
    pub(crate) async fn streams() -> Self {
        Self::streams_with(ClusterOptions::default()).await
    }

    pub(crate) async fn streams_with(options: ClusterOptions) -> Self {
        let bench = Self::with(options, &[(STREAMS, &["front", "back"])]).await;
        for namespace in ["front", "back"] {
            bench.enrol(namespace, true).await;
            bench.everyone_knows(namespace, true).await;
        }
        bench
    }

    /// Waits until every agent knows whether the pods of a namespace take tunnels.
    pub(crate) async fn everyone_knows(&self, namespace: &str, enrolled: bool) {
        let protocol = if enrolled { "HBONE" } else { "TCP" };
        for agent in &self.cluster.agents {
            let known = async || {
                let dump = agent.config_dump().await?;
                let all = dump["workloads"].as_array().context("no workloads")?.iter();
                let mut of = all.filter(|workload| workload["namespace"] == namespace);
                Ok(of.all(|workload| workload["protocol"] == protocol).then_some(()))
            };
            let what = format!("{} knows that {namespace} speaks {protocol}", agent.node());
            self.cluster.wait_until(&what, SETTLE, known).await.unwrap();
        }
    }

    /// Labels a namespace, and waits until its pods are what they should be.
    pub(crate) async fn enrol(&self, namespace: &str, enrolled: bool) {
        let mode = enrolled.then_some("ambient");
        self.cluster.label_namespace(namespace, MODE, mode).await.unwrap();
        let what = format!("pods of {namespace} are enrolled: {enrolled}");
        let annotated = |pod: &Pod| {
            let annotations = pod.metadata.annotations.iter().flatten();
            annotations.into_iter().any(|(key, _)| key == "ambient.istio.io/redirection")
        };
        let settled = async || {
            let pods = self.cluster.pods(namespace, "").await?;
            Ok(pods.iter().all(|pod| annotated(pod) == enrolled).then_some(()))
        };
        self.cluster.wait_until(&what, READY, settled).await.unwrap();
    }

    /// Runs `kubectl`; the words of `line` hold no blanks.
    pub(crate) async fn kubectl(&self, line: &str) -> Said {
        self.kubectl_with(line, "").await
    }

    pub(crate) async fn kubectl_with(&self, line: &str, stdin: &str) -> Said {
        let mut child = Command::new("kubectl")
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("KUBECACHEDIR", self.home.path().join("cache"))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl is needed: put version 1.28 or newer on PATH");
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(stdin.as_bytes()).await.unwrap();
        drop(pipe);
        let output = tokio::time::timeout(READY, child.wait_with_output()).await.unwrap().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What a `kubectl` that must succeed prints.
    pub(crate) async fn ok(&self, line: &str) -> String {
        self.ok_with(line, "").await
    }

    pub(crate) async fn ok_with(&self, line: &str, stdin: &str) -> String {
        let said = self.kubectl_with(line, stdin).await;
        assert_eq!(said.code, 0, "kubectl {line}: {said:?}");
        said.out
    }

    /// What a script says that must succeed; files are in one directory from one to the next.
    pub(crate) async fn shell(&self, script: &str) -> String {
        let child = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.home.path())
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(READY, child).await.unwrap().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kubectl apply -f -`.
    pub(crate) async fn apply(&self, yaml: &str) -> String {
        self.ok_with("apply -f -", yaml).await
    }

    /// What the tutorials' `curl`, run by `kubectl exec`, ends in: the status, or `exit <code>`.
    pub(crate) async fn curl(&self, (namespace, app): (&str, &str), url: &str) -> String {
        let said = self
            .kubectl(&format!(
                "exec -n {namespace} deploy/{app} -- \
                 curl -sS --max-time 15 -o /dev/null -w %{{http_code}} {url}"
            ))
            .await;
        if said.code == 0 { said.out } else { format!("exit {}", said.code) }
    }

    /// A call ends as expected: once within the time a change takes, then each time.
    #[track_caller]
    pub(crate) fn shows<'a>(
        &'a self,
        from: (&'a str, &'a str),
        url: &'a str,
        expected: &'a str,
    ) -> impl Future<Output = ()> + 'a {
        let at = std::panic::Location::caller();
        async move {
            let until = Instant::now() + SETTLE;
            let mut seen = self.curl(from, url).await;
            while seen != expected && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(50)).await;
                seen = self.curl(from, url).await;
            }
            for _ in 1..CONFIRM {
                assert_eq!(seen, expected, "{at}: {from:?} -> {url}");
                seen = self.curl(from, url).await;
            }
            assert_eq!(seen, expected, "{at}: {from:?} -> {url}");
        }
    }

    /// The addresses of the pod of `app`: IPv4, IPv6.
    pub(crate) async fn ips(&self, namespace: &str, app: &str) -> Vec<IpAddr> {
        let pod = self.cluster.pod_of(namespace, app).await.unwrap();
        let ips = pod.status.unwrap().pod_ips.unwrap_or_default();
        ips.iter().map(|ip| ip.ip.parse().unwrap()).collect()
    }

    /// The IPv4 address of the pod of `app`.
    pub(crate) async fn ip(&self, namespace: &str, app: &str) -> IpAddr {
        self.ips(namespace, app).await.into_iter().find(IpAddr::is_ipv4).unwrap()
    }

    /// Sends bytes to the echo at `to` from the pod of `app` and wants each back: how many there
    /// were, or what was lost.
    pub(crate) async fn pulse(&self, from: (&str, &str), to: IpAddr, flags: &str) -> Result<u64> {
        self.pulsing(from, to, flags).await?.await
    }

    /// [`Self::pulse`] as a future that leaves the bench to others.
    pub(crate) async fn pulsing(
        &self,
        from: (&str, &str),
        to: IpAddr,
        flags: &str,
    ) -> Result<impl Future<Output = Result<u64>> + Send + use<>> {
        let to = std::net::SocketAddr::new(to, 7000);
        let pulsing = self.running(from, &format!("pulse --to={to} {flags}")).await?;
        Ok(async move { pulsing.await?.trim().parse().context("read the count") })
    }

    /// A program of the kit in a pod, until its end: what it says.
    pub(crate) async fn running(
        &self,
        (namespace, app): (&str, &str),
        line: &str,
    ) -> Result<impl Future<Output = Result<String>> + Send + use<>> {
        let mut argv = vec![programs::find("kit-app")?.display().to_string()];
        argv.extend(line.split_whitespace().map(str::to_owned));
        let pod = self.cluster.pod_of(namespace, app).await?.metadata.name.unwrap_or_default();
        let node = std::sync::Arc::clone(self.cluster.node_of(namespace, &pod)?);
        let namespace = namespace.to_owned();
        Ok(async move {
            let argv: Vec<_> = argv.iter().map(String::as_str).collect();
            let output = node.exec((&namespace, &pod), &argv, Duration::from_secs(120)).await?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{complaint}");
            Ok(String::from_utf8(output.stdout)?)
        })
    }

    /// The agent of a node, by number from 1.
    pub(crate) fn agent(&self, number: usize) -> &kit::cluster::Agent {
        &self.cluster.agents[number - 1]
    }

    /// Waits until a node's agent has let in a connection of this identity.
    pub(crate) async fn lets_in(&self, number: usize, principal: &str) {
        let principal = format!("source_principal=\"{principal}\"");
        let labels = ["reporter=\"destination\"", &principal];
        let seen = async || {
            let name = "istio_tcp_connections_opened_total";
            Ok((self.agent(number).metric(name, &labels).await? > 0.0).then_some(()))
        };
        let what = format!("the agent of node{number} lets in {principal}");
        self.cluster.wait_until(&what, SETTLE, seen).await.unwrap();
    }

    /// Waits until `text` stands in the log of a node's agent, after what stood there before.
    pub(crate) async fn logged(&self, number: usize, text: &str) -> String {
        let line = async || {
            let log = self.agent(number).process.log();
            Ok(log.lines().rev().find(|line| line.contains(text)).map(str::to_owned))
        };
        let what = format!("the agent of node{number} logs {text:?}");
        self.cluster.wait_until(&what, SETTLE, line).await.unwrap()
    }
}

/// A PeerAuthentication in the words of its `spec`, as YAML in one line.
pub(crate) fn pa(version: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/{version}\nkind: PeerAuthentication\n\
         metadata: {{ name: {name}, namespace: {namespace} }}\nspec: {spec}\n"
    )
}
