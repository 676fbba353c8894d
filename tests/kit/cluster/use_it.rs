//! What people do with a cluster: apply, wait, exec, look.

use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Cluster;
use crate::controllers::is_ready;
use crate::node::Node;
use crate::objects;

/// Longest run of a command in a pod.
const EXEC: Duration = Duration::from_secs(30);

/// What `curl` said in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curl {
    /// Its exit code: 0, or curl's own for what went wrong (56: reset while receiving).
    pub exit: i32,
    /// The HTTP status, 0 if there was no answer.
    pub status: u16,
    /// The body.
    pub body: String,
    /// What it complained about.
    pub stderr: String,
}

impl Cluster {
    /// Creates the objects of `yaml`, or merges them into those that exist.
    ///
    /// # Errors
    /// The API server refuses one.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        objects::apply(&self.client, yaml).await
    }

    /// Deletes the objects of `yaml`.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn delete(&self, yaml: &str) -> Result<()> {
        objects::delete(&self.client, yaml).await
    }

    /// Sets a label of a namespace, or removes it.
    ///
    /// # Errors
    /// No such namespace.
    pub async fn label_namespace(&self, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "metadata": { "labels": { key: value } } }));
        api.patch(name, &PatchParams::default(), &patch).await.context("label the namespace")?;
        Ok(())
    }

    /// Asks `check` again and again until it has something.
    ///
    /// # Errors
    /// It has nothing within `limit`: with its last error and the end of the mesh's logs.
    pub async fn wait_until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut check: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        loop {
            let seen = match check().await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => String::from("not yet"),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > until {
                bail!("waited {limit:?} until {what}: {seen}\n{}", self.post_mortem());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The pods of a namespace with a label, as `app=sleep`; those that are ending left out.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self, namespace: &str, label: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut pods = api.list(&ListParams::default().labels(label)).await?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Waits until all pods of these namespaces are ready and every node's Services lead to them;
    /// there is one at least in each.
    ///
    /// # Errors
    /// They are not within `limit`.
    pub async fn wait_ready(&self, namespaces: &[&str], limit: Duration) -> Result<()> {
        let what = format!("all pods of {} are ready", namespaces.join(", "));
        self.wait_until(&what, limit, async || {
            for namespace in namespaces {
                let pods = self.pods(namespace, "").await?;
                if let Some(pod) = pods.iter().find(|pod| !is_ready(pod)) {
                    bail!("{namespace}/{} is not ready: {}", pod.name_any(), why(pod));
                }
                let led = |pod| self.nodes.iter().all(|node| node.leads_to(pod));
                if pods.is_empty() || !pods.iter().all(led) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// The ready pod of `app` in a namespace: the first by name.
    ///
    /// # Errors
    /// There is none.
    pub async fn pod_of(&self, namespace: &str, app: &str) -> Result<Pod> {
        let mut pods = self.pods(namespace, &format!("app={app}")).await?;
        pods.retain(is_ready);
        pods.sort_by_key(|pod| pod.name_any());
        pods.into_iter().next().with_context(|| format!("no ready pod of {namespace}/{app}"))
    }

    /// The node that runs a pod.
    ///
    /// # Errors
    /// None does.
    pub fn node_of(&self, namespace: &str, pod: &str) -> Result<&Arc<Node>> {
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|node| node.pod(namespace, pod).is_some());
        found.with_context(|| format!("{namespace}/{pod} runs on no node"))
    }

    /// Runs a command in the pod of `app` in a namespace.
    ///
    /// # Errors
    /// No such pod, or the command does not end.
    pub async fn exec(&self, namespace: &str, app: &str, argv: &[&str]) -> Result<Output> {
        let pod = self.pod_of(namespace, app).await?.name_any();
        self.node_of(namespace, &pod)?.exec((namespace, &pod), argv, EXEC).await
    }

    /// Runs `curl` in the pod of `app`.
    ///
    /// # Errors
    /// No such pod. What curl complains about is in its result.
    pub async fn curl(&self, namespace: &str, app: &str, url: &str) -> Result<Curl> {
        let argv = ["curl", "-sS", "--max-time", "15", "-w", "\n%{http_code}", url];
        let output = self.exec(namespace, app, &argv).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = said.rsplit_once('\n').unwrap_or_default();
        Ok(Curl {
            exit: output.status.code().unwrap_or(-1),
            status: status.parse().unwrap_or_default(),
            body: body.to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// What the pod of `app` wrote.
    ///
    /// # Errors
    /// No such pod.
    pub async fn logs(&self, namespace: &str, app: &str) -> Result<String> {
        let pod = self.pod_of(namespace, app).await?.name_any();
        let running = self.node_of(namespace, &pod)?.pod(namespace, &pod).context("it ended")?;
        Ok(String::from_utf8_lossy(&std::fs::read(&running.log)?).into_owned())
    }

    /// The end of the logs of control plane and agents, for a failed test.
    pub fn post_mortem(&self) -> String {
        let agents = self.agents.iter().flat_map(|agent| {
            let installer = agent.cni.iter().map(|cni| (format!("{} cni", agent.node()), cni));
            std::iter::once((agent.node().to_owned(), &agent.process)).chain(installer)
        });
        let control = self.control_plane.iter();
        let control = control.map(|plane| (String::from("control plane"), &plane.process));
        let all = control.chain(agents);
        let tail = |(name, process): (String, &super::Process)| {
            format!("  {name}: {}\n{}", process.log_file().display(), process.log_tail(25))
        };
        all.map(tail).collect()
    }
}

/// Why a pod is not ready, as its containers tell.
fn why(pod: &Pod) -> String {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref());
    let reasons = waiting.map(|waiting| {
        let (reason, message) = (waiting.reason.as_deref(), waiting.message.as_deref());
        format!("{} {}", reason.unwrap_or_default(), message.unwrap_or_default())
    });
    reasons.collect::<Vec<_>>().join("; ")
}
