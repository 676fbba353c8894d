//! The root certificate in every namespace, where agents and workloads mount it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as KubeNamespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::spawn::spawn;
use super::watch::Watch;
use super::{ApiError, reduce, request};
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::{Change, Namespace, ObjectKey, Record};
use crate::sys::Shutdown;

/// The ConfigMap's name.
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Changes of namespaces and ConfigMaps waiting to be looked at.
const QUEUE: usize = 256;
/// Writes at a time.
const WRITES: usize = 8;
/// How soon a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A ConfigMap of our name: what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Published {
    key: ObjectKey,
    root: Option<String>,
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

/// Keeps `root_pem` published in every namespace; tasks of `shutdown` do it.
pub fn publish(client: Client, root_pem: String, metrics: Metrics, shutdown: &Shutdown) {
    let (changes, seen) = mpsc::channel(QUEUE);
    let namespaces = Watch::new("Namespace", Seen::Namespace, (changes.clone(), metrics.clone()));
    let maps = Watch::new("ConfigMap", Seen::ConfigMap, (changes, metrics));
    let named = kube::runtime::watcher::Config::default()
        .fields(&format!("metadata.name={ROOT_CONFIG_MAP}"));
    let api = Api::<KubeNamespace>::all(client.clone());
    spawn(shutdown, namespaces.plain(api, Default::default(), reduce::namespace));
    let api = Api::<ConfigMap>::all(client.clone());
    spawn(shutdown, maps.plain(api, named, published));
    let publisher = Publisher { client, root_pem, wanted: BTreeSet::new(), there: None };
    spawn(shutdown, publisher.run(seen));
}

fn published(map: ConfigMap) -> Option<Published> {
    // A server that does not select by name sends others too.
    let ours = map.metadata.name.as_deref() == Some(ROOT_CONFIG_MAP);
    let root = map.data.and_then(|mut data| data.remove(KEY));
    ours.then(|| Published { key: reduce::key(&map.metadata), root })
}

struct Publisher {
    client: Client,
    root_pem: String,
    /// Namespaces that are not being deleted.
    wanted: BTreeSet<String>,
    /// What each namespace's ConfigMap holds; none before the first list.
    there: Option<BTreeMap<String, Option<String>>>,
}

impl Publisher {
    async fn run(mut self, mut seen: mpsc::Receiver<Seen>) {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            // Both branches are cancel-safe.
            tokio::select! {
                change = seen.recv() => match change {
                    Some(change) => self.see(change),
                    None => return,
                },
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
                there.insert(map.key.namespace.to_string(), map.root);
            }
            Seen::ConfigMap(Change::Delete(key)) => {
                self.there.get_or_insert_default().remove(key.namespace.as_str());
            }
            Seen::ConfigMap(Change::Replace(records)) => {
                let maps = records.into_iter();
                self.there =
                    Some(maps.map(|map| (map.key.namespace.to_string(), map.root)).collect());
            }
        }
    }

    /// Writes where it is missing or different; false if some of it failed.
    async fn write_all(&mut self) -> bool {
        let Some(there) = &self.there else { return true };
        let todo: Vec<(String, bool)> = self
            .wanted
            .iter()
            .filter(|ns| there.get(*ns).and_then(Option::as_ref) != Some(&self.root_pem))
            .map(|ns| (ns.clone(), there.contains_key(ns)))
            .collect();
        let writes = todo.into_iter().map(|(namespace, exists)| {
            let (client, root_pem) = (self.client.clone(), self.root_pem.as_str());
            async move {
                let result = write(client, &namespace, root_pem, exists).await;
                (namespace, result)
            }
        });
        let results: Vec<_> =
            futures::stream::iter(writes).buffer_unordered(WRITES).collect().await;
        let mut complete = true;
        for (namespace, result) in results {
            match result {
                Ok(()) => {
                    let there = self.there.get_or_insert_default();
                    there.insert(namespace, Some(self.root_pem.clone()));
                }
                Err(error) => {
                    complete = false;
                    tracing::warn!(namespace, %error, "root certificate not published, will be tried again");
                }
            }
        }
        complete
    }
}

async fn write(
    client: Client,
    namespace: &str,
    root_pem: &str,
    exists: bool,
) -> Result<(), ApiError> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    if !exists {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(ROOT_CONFIG_MAP.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), root_pem.to_owned())])),
            ..ConfigMap::default()
        };
        match request(maps.create(&PostParams::default(), &map)).await {
            Err(error) if error.code() == Some(409) => {}
            other => return other.map(drop),
        }
    }
    let patch = Patch::Merge(json!({ "data": { KEY: root_pem } }));
    request(maps.patch(ROOT_CONFIG_MAP, &PatchParams::default(), &patch)).await.map(drop)
}
