//! The trusted roots in every namespace, where agents and workloads mount them.
//!
//! Beside another control plane that keeps these ConfigMaps nothing is written: if the one of our own namespace is
//! another's, none at all, and we are not ready, since agents would not believe us; else those that are its.

mod owner;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as KubeNamespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::root::Root;
use super::spawn::spawn;
use super::watch::Watch;
use super::{ApiError, reduce, request};
use crate::control_plane::health::Readiness;
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::{Change, Namespace, ObjectKey, Record};
use crate::sys::Shutdown;

/// The ConfigMap's name.
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Who writes, as the API server remembers it.
const MANAGER: &str = "sotto-control-plane";
/// What readiness waits for, if another control plane keeps the ConfigMap that agents mount.
const OURS: &str = "ConfigMap istio-ca-root-cert: another control plane keeps it (istiod?); only one can be. If \
                    that one is gone, delete it: kubectl delete configmap -A --field-selector \
                    metadata.name=istio-ca-root-cert";
/// Changes of namespaces and ConfigMaps waiting to be looked at.
const QUEUE: usize = 256;
/// Writes at a time.
const WRITES: usize = 8;
/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is published, and where that is told.
pub struct Publication {
    /// Writes.
    pub client: Client,
    /// Our own namespace, where agents mount it.
    pub namespace: String,
    /// Whose roots.
    pub root: Root,
    /// Counts.
    pub metrics: Metrics,
    /// Told if nothing may be written.
    pub readiness: Readiness,
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication").field("root", &self.root).finish_non_exhaustive()
    }
}

/// A ConfigMap of our name: what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Published {
    key: ObjectKey,
    roots: Option<String>,
    version: Option<String>,
    /// Another control plane keeps it.
    of_another: bool,
}

impl Record for Published {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

enum Seen {
    Namespace(Change<Namespace>),
    ConfigMap(Change<Published>),
}

/// Keeps the roots published in every namespace; tasks of `shutdown` do it.
pub fn publish(publication: Publication, shutdown: &Shutdown) {
    let (client, metrics) = (&publication.client, &publication.metrics);
    let (changes, seen) = mpsc::channel(QUEUE);
    let namespaces = Watch::new("Namespace", Seen::Namespace, (changes.clone(), metrics.clone()));
    let maps = Watch::new("ConfigMap", Seen::ConfigMap, (changes, metrics.clone()));
    let named = kube::runtime::watcher::Config::default()
        .fields(&format!("metadata.name={ROOT_CONFIG_MAP}"));
    let api = Api::<KubeNamespace>::all(client.clone());
    spawn(shutdown, namespaces.plain(api, Default::default(), reduce::namespace));
    let api = Api::<ConfigMap>::all(client.clone());
    spawn(shutdown, maps.plain(api, named, published));
    let publisher =
        Publisher { publication, wanted: BTreeSet::new(), there: None, of_others: BTreeSet::new() };
    spawn(shutdown, publisher.run(seen));
}

fn published(map: ConfigMap) -> Option<Published> {
    // A server that does not select by name sends others too.
    let ours = map.metadata.name.as_deref() == Some(ROOT_CONFIG_MAP);
    let key = reduce::key(&map.metadata);
    let of_another = owner::is_another(&map.metadata);
    let roots = map.data.and_then(|mut data| data.remove(KEY));
    let version = map.metadata.resource_version;
    ours.then_some(Published { key, roots, version, of_another })
}

struct Publisher {
    publication: Publication,
    /// Namespaces that are not being deleted.
    wanted: BTreeSet<String>,
    /// Each namespace's ConfigMap; none before the first list.
    there: Option<BTreeMap<String, Published>>,
    /// Namespaces that it was told of.
    of_others: BTreeSet<String>,
}

impl Publisher {
    async fn run(mut self, mut seen: mpsc::Receiver<Seen>) {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut authority = self.publication.root.authority();
        let mut failed = false;
        loop {
            // All branches are cancel-safe.
            tokio::select! {
                change = seen.recv() => match change {
                    Some(change) => self.see(change),
                    None => return,
                },
                Ok(()) = authority.changed() => {}
                _ = retry.tick(), if failed => {}
            }
            while let Ok(change) = seen.try_recv() {
                self.see(change);
            }
            failed = !self.write_all().await;
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Namespace(Change::Apply(namespace)) => {
                let name = namespace.key.name.to_string();
                if namespace.terminating {
                    self.wanted.remove(&name);
                } else {
                    self.wanted.insert(name);
                }
            }
            Seen::Namespace(Change::Delete(key)) => {
                self.wanted.remove(key.name.as_str());
            }
            Seen::Namespace(Change::Replace(records)) => {
                let live = records.into_iter().filter(|namespace| !namespace.terminating);
                self.wanted = live.map(|namespace| namespace.key.name.to_string()).collect();
            }
            Seen::ConfigMap(Change::Apply(map)) => {
                let there = self.there.get_or_insert_default();
                there.insert(map.key.namespace.to_string(), map);
            }
            Seen::ConfigMap(Change::Delete(key)) => {
                self.there.get_or_insert_default().remove(key.namespace.as_str());
            }
            Seen::ConfigMap(Change::Replace(records)) => {
                let maps = records.into_iter();
                self.there = Some(maps.map(|map| (map.key.namespace.to_string(), map)).collect());
            }
        }
    }

    /// Writes where it is missing or different; false if some of it failed.
    async fn write_all(&mut self) -> bool {
        if self.there.is_none() || !self.may_write() {
            return true;
        }
        let different = self.todo().iter().any(|(_, map)| map.is_some());
        // Who has written something else may know of a change before us.
        let current = !different || self.publication.root.is_current().await;
        let roots = self.roots();
        let todo = self.todo().into_iter().filter(|(_, map)| current || map.is_none());
        let writes = todo.map(|(namespace, map)| {
            let (client, roots) = (self.publication.client.clone(), roots.as_str());
            async move {
                let result = write(client, &namespace, roots, map).await;
                (namespace, result)
            }
        });
        let results: Vec<_> = futures::stream::iter(writes.collect::<Vec<_>>())
            .buffer_unordered(WRITES)
            .collect()
            .await;
        let mut complete = current;
        for (namespace, result) in results {
            match result {
                Ok(Some(map)) => {
                    self.there.get_or_insert_default().insert(namespace, map);
                }
                Ok(None) => {}
                Err(error) => {
                    complete = false;
                    tracing::warn!(namespace, %error, "root certificates not published, will be tried again");
                }
            }
        }
        complete
    }

    fn roots(&self) -> String {
        self.publication.root.authority().borrow().bundle_pem().to_owned()
    }

    /// Where something is missing or different, and is not another's; with what is there.
    fn todo(&self) -> Vec<(String, Option<Published>)> {
        let roots = self.roots();
        let there = |namespace: &String| self.there.as_ref().and_then(|there| there.get(namespace));
        let wanted = self.wanted.iter().map(|namespace| (namespace.clone(), there(namespace)));
        let right = |map: &Published| map.of_another || map.roots.as_ref() == Some(&roots);
        let todo = wanted.filter(|(_, map)| !map.is_some_and(right));
        todo.map(|(namespace, map)| (namespace, map.cloned())).collect()
    }

    /// False where the ConfigMap of our own namespace is another's. What is another's is told when that changes.
    fn may_write(&mut self) -> bool {
        let Publication { namespace, metrics, readiness, .. } = &self.publication;
        let there = self.there.iter().flatten();
        let of_others = there.filter(|(_, map)| map.of_another).map(|(name, _)| name.clone());
        let of_others: BTreeSet<String> = of_others.collect();
        let may = !of_others.contains(namespace);
        if of_others != self.of_others {
            metrics.root_of_others.set(i64::try_from(of_others.len()).unwrap_or(i64::MAX));
            for namespace in of_others.difference(&self.of_others) {
                tracing::error!(
                    namespace,
                    config_map = ROOT_CONFIG_MAP,
                    "another control plane keeps the root certificates here (istiod?): they are not written over"
                );
            }
            if may {
                readiness.done(OURS);
            } else {
                tracing::error!(
                    namespace,
                    "nothing is published anywhere: agents would not believe us"
                );
                readiness.lacks(OURS);
            }
            self.of_others = of_others;
        }
        may
    }
}

/// Writes, unless somebody else has meanwhile: the watch then tells what.
async fn write(
    client: Client,
    namespace: &str,
    roots: &str,
    there: Option<Published>,
) -> Result<Option<Published>, ApiError> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let written = if let Some(there) = there {
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": there.version },
            "data": { KEY: roots },
        }));
        let params = PatchParams { field_manager: manager(), ..PatchParams::default() };
        request(maps.patch(ROOT_CONFIG_MAP, &params, &patch)).await
    } else {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(ROOT_CONFIG_MAP.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), roots.to_owned())])),
            ..ConfigMap::default()
        };
        let params = PostParams { field_manager: manager(), ..PostParams::default() };
        request(maps.create(&params, &map)).await
    };
    match written {
        Ok(map) => Ok(published(map)),
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn manager() -> Option<String> {
    Some(MANAGER.to_owned())
}
