//! Watches: from Kubernetes to changes of records, with retries, one task a kind.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::report::{Reporter, Told};
use super::{ApiError, reduce, request};
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::{Change, Record};
use crate::sys::backoff::Patient;

/// How soon to look again for a resource type that the cluster does not have.
const ABSENT_RETRY: Duration = Duration::from_secs(5);
/// A kind that the cluster may not have.
pub(super) struct Custom {
    /// API group.
    pub(super) group: &'static str,
    /// Plural of the kind.
    pub(super) plural: &'static str,
    /// Versions, the same in content, the best first.
    pub(super) versions: &'static [&'static str],
}

/// Why it is not known what there is of a kind.
#[derive(Debug, thiserror::Error)]
enum AbsentError {
    /// The API server refuses or is away.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Its objects are there, and cannot be read.
    #[error("definition {0} serves none of the versions {1}")]
    NotServed(String, String),
}

/// What becomes of one object of a kind that the cluster may not have.
#[derive(Debug)]
pub(super) struct Read<R> {
    /// None: it is as if it were not there.
    pub(super) record: Option<R>,
    /// What its author is told.
    pub(super) told: Told,
}

/// A kind's watch: where its changes go.
pub(super) struct Watch<E, R> {
    kind: &'static str,
    event: fn(Change<R>) -> E,
    changes: mpsc::Sender<E>,
    metrics: Metrics,
}

impl<E, R: Record> Watch<E, R> {
    pub(super) fn new(
        kind: &'static str,
        event: fn(Change<R>) -> E,
        (changes, metrics): (mpsc::Sender<E>, Metrics),
    ) -> Self {
        Self { kind, event, changes, metrics }
    }

    /// Watches a kind that every cluster has. Ends when nobody listens any more.
    pub(super) async fn plain<K>(
        self,
        api: Api<K>,
        config: watcher::Config,
        reduce: fn(K) -> Option<R>,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.follow(api, config, reduce, false).await;
    }

    /// Watches a kind that the cluster may not have, in the version it has. Without its definition
    /// there is none of it: that goes last. With it, but not served, nobody knows what there is: what
    /// was known stays, and whoever starts is not ready.
    pub(super) async fn custom(
        self,
        (custom, client, reporter): (Custom, Client, Reporter),
        read: impl Fn(&DynamicObject) -> Read<R>,
    ) {
        // Whether it is known that there is none.
        let mut absent = false;
        loop {
            match self.version(&client, &custom).await {
                Ok(Some(kind)) => {
                    tracing::debug!(kind = self.kind, version = kind.version, "watching");
                    let api = Api::all_with(client.clone(), &kind);
                    let reduce = |object: DynamicObject| {
                        let Read { record, told } = read(&object);
                        reporter.tell(&object, &kind, told);
                        record
                    };
                    absent = false;
                    if !self.follow(api, watcher::Config::default(), reduce, true).await {
                        return;
                    }
                }
                Ok(None) if !absent => {
                    absent = true;
                    tracing::info!(kind = self.kind, "cluster does not have this kind");
                    if !self.send(Change::Replace(Vec::new())).await {
                        return;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    self.metrics.watch_failed(self.kind);
                    tracing::warn!(kind = self.kind, %error, "cannot be listed, will be tried again");
                }
            }
            sleep(ABSENT_RETRY).await;
        }
    }

    /// The best version of the kind that the cluster has.
    async fn version(
        &self,
        client: &Client,
        custom: &Custom,
    ) -> Result<Option<ApiResource>, AbsentError> {
        for version in custom.versions {
            let named = GroupVersionKind::gvk(custom.group, version, self.kind);
            let kind = ApiResource::from_gvk_with_plural(&named, custom.plural);
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
            match request(api.list(&ListParams::default().limit(1))).await {
                Ok(_) => return Ok(Some(kind)),
                Err(error) if error.code() == Some(404) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let named = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let definitions: Api<DynamicObject> =
            Api::all_with(client.clone(), &ApiResource::from_gvk(&named));
        let name = format!("{}.{}", custom.plural, custom.group);
        match request(definitions.get_opt(&name)).await? {
            None => Ok(None),
            Some(_) => Err(AbsentError::NotServed(name, custom.versions.join(", "))),
        }
    }

    /// Follows a kind: false when nobody listens any more, true when the cluster does not have
    /// it any more, which is an error like others unless it `may_vanish`.
    async fn follow<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        reduce: impl Fn(K) -> Option<R>,
        may_vanish: bool,
    ) -> bool
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut stream = std::pin::pin!(watcher(api, config).backoff(Patient::default()));
        let mut list = Vec::new();
        while let Some(event) = stream.next().await {
            let change = match event {
                Ok(watcher::Event::Init) => {
                    list = Vec::new();
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    list.extend(reduce(object));
                    continue;
                }
                Ok(watcher::Event::InitDone) => Change::Replace(std::mem::take(&mut list)),
                Ok(watcher::Event::Apply(object)) => {
                    let key = reduce::key(object.meta());
                    reduce(object).map_or(Change::Delete(key), Change::Apply)
                }
                Ok(watcher::Event::Delete(object)) => Change::Delete(reduce::key(object.meta())),
                Err(error) => {
                    self.metrics.watch_failed(self.kind);
                    tracing::warn!(kind = self.kind, %error, "watch failed, will be tried again");
                    if may_vanish && is_absent(&error) {
                        return true;
                    }
                    continue;
                }
            };
            if !self.send(change).await {
                return false;
            }
        }
        true
    }

    async fn send(&self, change: Change<R>) -> bool {
        self.changes.send((self.event)(change)).await.is_ok()
    }
}

fn is_absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error)
    | watcher::Error::WatchStartFailed(error)
    | watcher::Error::WatchFailed(error)) = error
    else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
