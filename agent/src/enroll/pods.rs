//! The pods of this node and the namespaces, as the API server tells them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arcstr::ArcStr;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

use super::enrolled::Namespaces;
use super::facts::{NamespaceFacts, PodFacts};
use super::machine::{Target, Wish};
use super::rules::{self, Mode, Reason, Verdict};
use crate::mesh::PodUid;
use crate::sys::backoff::Patient;

/// A change of what is watched.
#[derive(Debug)]
pub enum Change {
    /// Of a pod.
    Pod(watcher::Event<Option<PodFacts>>),
    /// Of a namespace.
    Namespace(watcher::Event<NamespaceFacts>),
}

/// Watches this node's pods and all namespaces, for ever: errors are yielded, and retried with backoff.
pub fn watch(client: &Client, node: &str) -> BoxStream<'static, Result<Change, watcher::Error>> {
    let on_node = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let pods = watcher(Api::<Pod>::all(client.clone()), on_node)
        .backoff(Patient::default())
        .map_ok(|event| Change::Pod(map(event, |pod| PodFacts::new(&pod))));
    let namespaces = watcher(Api::<Namespace>::all(client.clone()), watcher::Config::default())
        .backoff(Patient::default())
        .map_ok(|event| Change::Namespace(map(event, |ns| NamespaceFacts::new(&ns))));
    futures::stream::select(pods, namespaces).boxed()
}

fn map<A, B>(event: watcher::Event<A>, f: impl FnOnce(A) -> B) -> watcher::Event<B> {
    match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(f(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(f(object)),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(f(object)),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

/// Objects of one kind: what was listed completely, kept up to date.
///
/// While a new list comes in, the old one stands, so that a broken list removes nothing.
#[derive(Debug)]
struct Listed<K, V> {
    live: BTreeMap<K, V>,
    staged: Option<BTreeMap<K, V>>,
    complete: bool,
}

impl<K, V> Default for Listed<K, V> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), staged: None, complete: false }
    }
}

impl<K: Ord, V> Listed<K, V> {
    fn apply(&mut self, event: watcher::Event<(K, V)>) {
        match event {
            watcher::Event::Apply((key, value)) => {
                self.live.insert(key, value);
            }
            watcher::Event::Delete((key, _)) => {
                self.live.remove(&key);
            }
            watcher::Event::Init => self.staged = Some(BTreeMap::new()),
            watcher::Event::InitApply((key, value)) => {
                self.staged.get_or_insert_default().insert(key, value);
            }
            watcher::Event::InitDone => {
                self.live = self.staged.take().unwrap_or_default();
                self.complete = true;
            }
        }
    }
}

/// What is known of this node's pods.
#[derive(Debug, Default)]
pub struct View {
    pods: Listed<PodUid, PodFacts>,
    namespaces: Listed<ArcStr, Option<Mode>>,
}

impl View {
    /// Takes a change in. Pods whose annotations are newly wrong are warned of.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(event) => {
                self.namespaces.apply(map(event, |namespace| (namespace.name, namespace.mode)));
            }
            Change::Pod(event) => {
                if let Some(event) = without_nameless(event) {
                    self.warn(&event);
                    self.pods.apply(map(event, |pod| (pod.uid.clone(), pod)));
                }
            }
        }
    }

    fn warn(&self, event: &watcher::Event<PodFacts>) {
        let (watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else { return };
        let known = self.pods.live.get(&pod.uid);
        if known.is_none_or(|known| known.warnings != pod.warnings) {
            for warning in &pod.warnings {
                tracing::warn!(pod = %pod.name, namespace = %pod.namespace, "{warning}");
            }
        }
    }

    /// Whether both kinds were listed completely.
    pub fn is_complete(&self) -> bool {
        self.pods.complete && self.namespaces.complete
    }

    /// A pod by name, and its namespace's mode.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<(PodFacts, Option<Mode>)> {
        let mode = *self.namespaces.live.get(namespace)?;
        let pod =
            self.pods.live.values().find(|pod| pod.namespace == namespace && pod.name == name);
        pod.map(|pod| (pod.clone(), mode))
    }

    /// The UIDs under which the runtime may know a pod.
    pub fn runtime_uids(&self, uid: &PodUid) -> Vec<PodUid> {
        let runtime = self.pods.live.get(uid).and_then(|pod| pod.runtime_uid.clone());
        std::iter::once(uid.clone()).chain(runtime).collect()
    }

    /// Every pod of the node and what is wished for it; none while a list is incomplete.
    pub fn targets(&self) -> Option<HashMap<PodUid, Target>> {
        if !self.is_complete() {
            return None;
        }
        let target = |pod: &PodFacts| (pod.uid.clone(), self.target(pod));
        Some(self.pods.live.values().map(target).collect())
    }

    /// Pods that are asked for and cannot be captured, whatever is done; none while a list is incomplete.
    pub fn left_alone(&self) -> impl Iterator<Item = (&PodFacts, Reason)> {
        let all = self.pods.live.values().filter(|_| self.is_complete());
        all.filter_map(|pod| {
            let mode = self.namespaces.live.get(&pod.namespace).copied().flatten();
            Some((pod, rules::out_of_reach(pod, mode)?))
        })
    }

    /// Pods whose condition says something: whether they are captured, and whether anybody asks for that.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (&PodFacts, bool, bool)> {
        self.pods.live.values().filter_map(|pod| {
            let mode = self.namespaces.live.get(&pod.namespace).copied().flatten();
            let is_asked_for = rules::judge(pod, mode) == Verdict::Enroll
                || rules::out_of_reach(pod, mode).is_some();
            Some((pod, pod.told?, is_asked_for))
        })
    }

    /// The namespaces that are enrolled, or have a pod on this node that is; none while a list is incomplete.
    pub fn enrolled_namespaces(&self) -> Option<Namespaces> {
        if !self.is_complete() {
            return None;
        }
        let labelled =
            self.namespaces.live.iter().filter(|(_, mode)| **mode == Some(Mode::Ambient));
        let pods = self.pods.live.values().filter(|pod| {
            let mode = self.namespaces.live.get(&pod.namespace).copied().flatten();
            rules::judge(pod, mode) == Verdict::Enroll
        });
        let of_pods = pods.map(|pod| pod.namespace.clone());
        Some(Arc::new(labelled.map(|(name, _)| name.clone()).chain(of_pods).collect()))
    }

    fn target(&self, pod: &PodFacts) -> Target {
        let mode = self.namespaces.live.get(&pod.namespace).copied().flatten();
        let wish = match rules::judge(pod, mode) {
            Verdict::Leave(_) => Wish::Leave,
            Verdict::Enroll if pod.ips.is_empty() => Wish::Keep,
            Verdict::Enroll => match rules::local_pod(pod, &pod.ips) {
                Ok(pod) => Wish::Enroll(Arc::new(pod)),
                Err(error) => {
                    tracing::warn!(pod = %pod.name, namespace = %pod.namespace, %error, "pod cannot be enrolled");
                    Wish::Leave
                }
            },
        };
        Target {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            wish,
            annotated: pod.annotated,
        }
    }
}

fn without_nameless(event: watcher::Event<Option<PodFacts>>) -> Option<watcher::Event<PodFacts>> {
    Some(match event {
        watcher::Event::Apply(pod) => watcher::Event::Apply(pod?),
        watcher::Event::Delete(pod) => watcher::Event::Delete(pod?),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(pod) => watcher::Event::InitApply(pod?),
        watcher::Event::InitDone => watcher::Event::InitDone,
    })
}

#[cfg(test)]
mod tests;
