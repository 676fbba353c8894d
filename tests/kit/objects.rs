//! Kubernetes objects: from YAML to the API server, and reconcile loops on them.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher;
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Kinds that live outside namespaces.
const CLUSTER_SCOPED: [&str; 9] = [
    "Namespace",
    "Node",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "PriorityClass",
    "CSIDriver",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// A client for the API server of a kubeconfig file.
///
/// # Errors
/// The file is not there or not a kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("read {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.context("use the kubeconfig")?).context("make a Kubernetes client")
}

/// The objects of a YAML file of several documents. (The reader takes a bare `infinity` or `nan` for
/// a number: quote them.)
///
/// # Errors
/// Not YAML, or a document that is no Kubernetes object.
pub fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("read the YAML")?;
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .map(|document| serde_json::from_value(document).context("read a Kubernetes object"))
        .collect()
}

/// Creates the objects of `yaml`, or merges them into those that exist.
///
/// # Errors
/// The first object the API server does not take.
pub async fn apply(client: &Client, yaml: &str) -> Result<()> {
    for object in parse(yaml)? {
        let (api, name) = api_of(client, &object)?;
        put(&api, &object).await.with_context(|| format!("apply {name}"))?;
    }
    Ok(())
}

/// Deletes the objects of `yaml`; those that are not there are no error.
///
/// # Errors
/// The first object the API server does not delete.
pub async fn delete(client: &Client, yaml: &str) -> Result<()> {
    for object in parse(yaml)? {
        let (api, name) = api_of(client, &object)?;
        let deleted = api.delete(&object.name_any(), &DeleteParams::default()).await;
        ignore_missing(deleted.map(drop)).with_context(|| format!("delete {name}"))?;
    }
    Ok(())
}

/// Creates `object`, or merges it into the one that exists.
///
/// # Errors
/// The API server does not take it.
pub async fn put<K>(api: &Api<K>, object: &K) -> kube::Result<()>
where
    K: Resource + Clone + Debug + serde::Serialize + DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Err(error) if status(&error) == Some(409) => {
            let params = PatchParams::default();
            api.patch(&object.name_any(), &params, &Patch::Merge(object)).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// The HTTP status of a refusal by the API server.
pub fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Turns "not found" into success: what was to be changed or removed is gone.
///
/// # Errors
/// Any other error.
pub fn ignore_missing(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error) if status(&error) == Some(404) => Ok(()),
        other => other,
    }
}

/// Turns "its namespace is being terminated" and "not found" into success.
///
/// # Errors
/// Any other error.
pub fn ignore_ending(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error) if matches!(status(&error), Some(403 | 404)) => Ok(()),
        other => other,
    }
}

fn api_of(client: &Client, object: &DynamicObject) -> Result<(Api<DynamicObject>, String)> {
    let types = object.types.as_ref().context("an object without apiVersion and kind")?;
    let gvk = GroupVersionKind::try_from(types).context("an object's apiVersion")?;
    let resource = ApiResource::from_gvk(&gvk);
    let name = format!("{} {}", gvk.kind, object.name_any());
    let api = if CLUSTER_SCOPED.contains(&gvk.kind.as_str()) {
        Api::all_with(client.clone(), &resource)
    } else {
        let namespace = object.namespace().unwrap_or_else(|| String::from("default"));
        Api::namespaced_with(client.clone(), &namespace, &resource)
    };
    Ok((api, name))
}

/// The tasks of a cluster and the word that ends them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// Cancelled when the cluster ends.
    pub stop: CancellationToken,
    /// Every task of the cluster.
    pub tracker: TaskTracker,
}

impl Tasks {
    /// Runs `task` until it ends or the cluster does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(task).await });
    }
}

/// Wakes a reconcile loop when an object of the kinds it watches changes.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Notify>);

impl Changes {
    /// Also wakes for the kind of `api`.
    pub fn watch<K>(&self, api: Api<K>, tasks: &Tasks)
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let changed = Arc::clone(&self.0);
        tasks.spawn(async move {
            let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
            while let Some(event) = events.next().await {
                if let Err(error) = event {
                    tracing::warn!(%error, "watch");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                changed.notify_one();
            }
        });
    }

    /// Wakes the loop.
    pub fn notify(&self) {
        self.0.notify_one();
    }

    /// Waits until a reconcile loop has to take its next step: after a change, or soon if the last
    /// one failed. Each step reads the whole state, so a change missed or seen twice does no harm.
    pub async fn after(&self, what: &str, step: Result<()>) {
        if let Err(error) = step {
            tracing::warn!("{what}: {error:#}");
            tokio::time::sleep(Duration::from_millis(300)).await;
            return;
        }
        self.0.notified().await;
        // Changes come in groups: one step for all of them.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
