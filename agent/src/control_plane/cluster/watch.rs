//! Watches: from Kubernetes to changes of records, with retries, one task a kind.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::report::{Reporter, Told};
use super::security::{Parsed, SpecError, authorization_policy, peer_authentication};
use super::{ApiError, destination, reduce, request};
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::{Change, Event, ObjectKey, Record};
use crate::sys::Shutdown;

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

const fn security(plural: &'static str) -> Custom {
    Custom { group: "security.istio.io", plural, versions: &["v1", "v1beta1"] }
}

/// What the watches need.
#[derive(Clone)]
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// Where changes go. Full, the watches wait.
    pub events: mpsc::Sender<Event>,
    /// Counts.
    pub metrics: Metrics,
}

/// Starts a watch of each kind that the index is made of; `shutdown` owns them.
pub fn watch(watches: Watches, shutdown: &Shutdown) {
    let Watches { client, events, metrics } = watches;
    let reporter = Reporter::start(client.clone(), shutdown);
    let all = watcher::Config::default;
    let sink = || (events.clone(), metrics.clone());
    let pods = Watch::new("Pod", Event::Pod, sink());
    let services = Watch::new("Service", Event::Service, sink());
    let slices = Watch::new("EndpointSlice", Event::Slice, sink());
    let peers = Watch::new("PeerAuthentication", Event::PeerAuthentication, sink());
    let access = Watch::new("AuthorizationPolicy", Event::AuthorizationPolicy, sink());
    spawn(shutdown, pods.plain(Api::<core::Pod>::all(client.clone()), all(), reduce::pod));
    spawn(
        shutdown,
        services.plain(Api::<core::Service>::all(client.clone()), all(), reduce::service),
    );
    spawn(shutdown, slices.plain(Api::<EndpointSlice>::all(client.clone()), all(), reduce::slice));
    let told = |plural| (security(plural), client.clone(), reporter.clone());
    spawn(shutdown, peers.custom(told("peerauthentications"), peer_authentication));
    spawn(shutdown, access.custom(told("authorizationpolicies"), authorization_policy));
    destination::watch(client, &reporter, &metrics, shutdown);
}

pub(super) fn spawn(shutdown: &Shutdown, task: impl Future<Output = ()> + Send + 'static) {
    let stop = shutdown.token.clone();
    // Boxed: a watcher's state machine is large.
    let task = Box::pin(task);
    shutdown.spawn(async move { stop.run_until_cancelled(task).await });
}

/// What becomes of one object.
pub(super) enum Reduced<R> {
    /// It counts.
    Record(R),
    /// It is as if it were not there.
    Ignored,
    /// It is not understood.
    Invalid,
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
        self.follow(
            api,
            config,
            |object| reduce(object).map_or(Reduced::Ignored, Reduced::Record),
            false,
        )
        .await;
    }

    /// Watches a kind that the cluster may not have, in the version it has. Until it has it there
    /// is none of it; once it had it, only deletions take away what there was.
    pub(super) async fn custom(
        self,
        (custom, client, reporter): (Custom, Client, Reporter),
        parse: fn(&DynamicObject) -> Result<Parsed<R>, SpecError>,
    ) {
        let mut told = false;
        loop {
            match self.version(&client, &custom).await {
                Ok(Some(kind)) => {
                    tracing::debug!(kind = self.kind, version = kind.version, "watching");
                    let api = Api::all_with(client.clone(), &kind);
                    let reduce = |object: DynamicObject| parsed(&object, &kind, &reporter, parse);
                    told = true;
                    if !self.follow(api, watcher::Config::default(), reduce, true).await {
                        return;
                    }
                }
                Ok(None) if !told => {
                    told = true;
                    tracing::info!(kind = self.kind, "cluster does not have this kind yet");
                    let none = Change::Replace { records: Vec::new(), invalid: Vec::new() };
                    if !self.send(none).await {
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
    ) -> Result<Option<ApiResource>, ApiError> {
        for version in custom.versions {
            let named = GroupVersionKind::gvk(custom.group, version, self.kind);
            let kind = ApiResource::from_gvk_with_plural(&named, custom.plural);
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
            match request(api.list(&ListParams::default().limit(1))).await {
                Ok(_) => return Ok(Some(kind)),
                Err(error) if error.code() == Some(404) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Follows a kind: false when nobody listens any more, true when the cluster does not have
    /// it any more, which is an error like others unless it `may_vanish`.
    async fn follow<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        reduce: impl Fn(K) -> Reduced<R>,
        may_vanish: bool,
    ) -> bool
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        let mut list = (Vec::new(), Vec::new());
        while let Some(event) = stream.next().await {
            let change = match event {
                Ok(watcher::Event::Init) => {
                    list = (Vec::new(), Vec::new());
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    let key = reduce::key(object.meta());
                    match reduce(object) {
                        Reduced::Record(record) => list.0.push(record),
                        Reduced::Invalid => list.1.push(key),
                        Reduced::Ignored => {}
                    }
                    continue;
                }
                Ok(watcher::Event::InitDone) => {
                    let (records, invalid) = std::mem::take(&mut list);
                    Change::Replace { records, invalid }
                }
                Ok(watcher::Event::Apply(object)) => {
                    let key = reduce::key(object.meta());
                    applied(key, reduce(object))
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

fn applied<R>(key: ObjectKey, reduced: Reduced<R>) -> Change<R> {
    match reduced {
        Reduced::Record(record) => Change::Apply(record),
        Reduced::Ignored => Change::Delete(key),
        Reduced::Invalid => Change::Invalid(key),
    }
}

fn parsed<R>(
    object: &DynamicObject,
    kind: &ApiResource,
    reporter: &Reporter,
    parse: fn(&DynamicObject) -> Result<Parsed<R>, SpecError>,
) -> Reduced<R> {
    let (reduced, told) = match parse(object) {
        Ok(Parsed { record, told }) => (Reduced::Record(record), told),
        Err(error) => (Reduced::Invalid, Told::invalid(&kind.kind, &error.to_string())),
    };
    reporter.tell(object, kind, told);
    reduced
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
