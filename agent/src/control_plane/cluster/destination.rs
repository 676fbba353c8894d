//! DestinationRules: their status, and a warning where one asks for TLS of a host in an enrolled
//! namespace that it does not get there.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, ObjectReference};
use kube::api::{ApiResource, DynamicObject, Resource as _};
use kube::{Api, Client, runtime::watcher};
use tokio::sync::mpsc;

use super::reduce;
use super::report::{Reporter, Told, Warning};
use super::security::spec;
use super::spawn::spawn;
use super::watch::{Custom, Read, Watch};
use crate::control_plane::conditions::{self, ACCEPTED};
use crate::control_plane::convert::destination::{
    Asked, DestinationRuleSpec, HostNamespace, TlsMode, host_namespace,
};
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::{Change, ObjectKey, Record};
use crate::sys::Shutdown;

const MODE_LABEL: &str = "istio.io/dataplane-mode";
const KIND: &str = "DestinationRule";
const CUSTOM: Custom = Custom {
    group: "networking.istio.io",
    plural: "destinationrules",
    versions: &["v1", "v1beta1", "v1alpha3"],
};
/// Changes waiting to be looked at; full, the watches wait.
const QUEUE: usize = 256;

/// A rule, as far as warnings go.
#[derive(Debug, Clone, PartialEq)]
struct Rule {
    key: ObjectKey,
    about: Box<ObjectReference>,
    generation: Option<i64>,
    host: String,
    /// Modes that would change what is done.
    differs: Vec<Asked>,
}

/// A namespace: whether its pods are in the mesh, unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Enrolment {
    key: ObjectKey,
    ambient: bool,
}

impl Record for Rule {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Record for Enrolment {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

enum Seen {
    Namespace(Change<Enrolment>),
    Rule(Change<Rule>),
}

/// Watches rules, and the namespaces whose hosts they name; tasks of `shutdown` do it.
pub(super) fn watch(client: Client, reporter: &Reporter, metrics: &Metrics, shutdown: &Shutdown) {
    let (changes, seen) = mpsc::channel(QUEUE);
    let namespaces = Watch::new("Namespace", Seen::Namespace, (changes.clone(), metrics.clone()));
    let rules = Watch::new(KIND, Seen::Rule, (changes, metrics.clone()));
    let all = Api::<KubeNamespace>::all(client.clone());
    spawn(shutdown, namespaces.plain(all, watcher::Config::default(), enrolment));
    spawn(shutdown, rules.custom((CUSTOM, client, reporter.clone()), rule));
    spawn(shutdown, warn(seen, reporter.clone()));
}

fn enrolment(object: KubeNamespace) -> Option<Enrolment> {
    let labels = object.metadata.labels.as_ref();
    let ambient = labels.and_then(|labels| labels.get(MODE_LABEL)).is_some_and(|m| m == "ambient");
    Some(Enrolment { key: reduce::key(&object.metadata), ambient })
}

/// Reads a rule. One that cannot be read has no effect, as all of them.
fn rule(object: &DynamicObject) -> Read<Rule> {
    let spec: DestinationRuleSpec = match spec(object) {
        Ok(spec) => spec,
        Err(error) => {
            let conditions = conditions::invalid(ACCEPTED, &error.to_string());
            return Read { record: None, told: Told::invalid(conditions) };
        }
    };
    let asked = spec.asked();
    let told = Told { conditions: conditions::destination_rule(&asked), warnings: Vec::new() };
    let kind = object.types.as_ref();
    let kind =
        kind.and_then(|types| types.try_into().ok()).map(|kind| ApiResource::from_gvk(&kind));
    let about = match kind {
        Some(kind) => object.object_ref(&kind),
        None => ObjectReference {
            kind: Some(KIND.to_owned()),
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone(),
            uid: object.metadata.uid.clone(),
            ..ObjectReference::default()
        },
    };
    let record = Rule {
        key: reduce::key(&object.metadata),
        about: Box::new(about),
        generation: object.metadata.generation,
        host: spec.host,
        differs: asked.into_iter().filter(|a| a.mode != TlsMode::IstioMutual).collect(),
    };
    Read { record: Some(record), told }
}

async fn warn(mut seen: mpsc::Receiver<Seen>, reporter: Reporter) {
    let mut rules = Rules::default();
    while let Some(seen) = seen.recv().await {
        for (about, warning) in rules.see(seen) {
            reporter.warn(about, warning);
        }
    }
}

/// The rules that may deserve a warning, and the namespaces where they would.
#[derive(Debug, Default)]
struct Rules {
    ambient: BTreeSet<ArcStr>,
    rules: BTreeMap<ObjectKey, Rule>,
    /// What was warned about, so that it is once.
    told: BTreeMap<ObjectKey, (Option<String>, Option<i64>)>,
}

impl Rules {
    /// What is to be told after a change.
    fn see(&mut self, seen: Seen) -> Vec<(ObjectReference, Warning)> {
        match seen {
            Seen::Namespace(change) => {
                self.enrol(change);
                let keys: Vec<ObjectKey> = self.rules.keys().cloned().collect();
                keys.iter().filter_map(|key| self.judge(key)).collect()
            }
            Seen::Rule(Change::Apply(rule)) => {
                let key = rule.key.clone();
                self.keep(rule);
                self.judge(&key).into_iter().collect()
            }
            Seen::Rule(Change::Delete(key)) => {
                self.rules.remove(&key);
                self.told.remove(&key);
                Vec::new()
            }
            Seen::Rule(Change::Replace(records)) => {
                self.rules.clear();
                records.into_iter().for_each(|rule| self.keep(rule));
                let keys: Vec<ObjectKey> = self.rules.keys().cloned().collect();
                self.told.retain(|key, _| keys.contains(key));
                keys.iter().filter_map(|key| self.judge(key)).collect()
            }
        }
    }

    fn keep(&mut self, rule: Rule) {
        if rule.differs.is_empty() {
            self.rules.remove(&rule.key);
        } else {
            self.rules.insert(rule.key.clone(), rule);
        }
    }

    fn enrol(&mut self, change: Change<Enrolment>) {
        match change {
            Change::Apply(namespace) if namespace.ambient => {
                self.ambient.insert(namespace.key.name);
            }
            Change::Apply(Enrolment { key, .. }) | Change::Delete(key) => {
                self.ambient.remove(&key.name);
            }
            Change::Replace(records) => {
                let ambient = records.into_iter().filter(|namespace| namespace.ambient);
                self.ambient = ambient.map(|namespace| namespace.key.name).collect();
            }
        }
    }

    /// The warning that a rule deserves and has not had.
    fn judge(&mut self, key: &ObjectKey) -> Option<(ObjectReference, Warning)> {
        let rule = self.rules.get(key)?;
        let namespace = match host_namespace(&rule.host, &key.namespace) {
            HostNamespace::One(namespace) => self.ambient.get(namespace.as_str())?,
            HostNamespace::Any => self.ambient.first()?,
        };
        let version = (rule.about.uid.clone(), rule.generation);
        if self.told.get(key) == Some(&version) {
            return None;
        }
        let modes = rule.differs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let note = format!(
            "namespace {namespace} is in the ambient mesh, where connections to {} are mutual TLS \
             between node agents whatever a rule says: no effect of {modes}",
            rule.host
        );
        let about = rule.about.clone();
        self.told.insert(key.clone(), version);
        Some((*about, Warning { reason: "NoEffectInAmbient", note }))
    }
}

#[cfg(test)]
mod tests;
