//! What is told of how services are reached: a DestinationRule's status, and a warning where something asks for more of
//! a service in an enrolled namespace than it gets there.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, ObjectReference, Service};
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
    DestinationRuleSpec, HostNamespace, TlsMode, host_namespace,
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

/// An object, as far as warnings go.
#[derive(Debug, Clone, PartialEq)]
struct Rule {
    key: ObjectKey,
    about: Box<ObjectReference>,
    /// Changes when what it asks for may.
    version: String,
    /// Where the services that it is about are.
    place: HostNamespace,
    reason: &'static str,
    /// What there is to know, if there is anything.
    note: Option<String>,
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
    Service(Change<Rule>),
}

/// Watches rules, and the namespaces whose hosts they name; tasks of `shutdown` do it.
pub(super) fn watch(client: Client, reporter: &Reporter, metrics: &Metrics, shutdown: &Shutdown) {
    let (changes, seen) = mpsc::channel(QUEUE);
    let namespaces = Watch::new("Namespace", Seen::Namespace, (changes.clone(), metrics.clone()));
    let rules = Watch::new(KIND, Seen::Rule, (changes.clone(), metrics.clone()));
    let services = Watch::new("Service", Seen::Service, (changes, metrics.clone()));
    let all = Api::<KubeNamespace>::all(client.clone());
    spawn(shutdown, namespaces.plain(all, watcher::Config::default(), enrolment));
    let all = Api::<Service>::all(client.clone());
    spawn(shutdown, services.plain(all, watcher::Config::default(), service));
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
    let key = reduce::key(&object.metadata);
    let differs = asked.iter().filter(|a| a.mode != TlsMode::IstioMutual);
    let modes = differs.map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let note = format!(
        "where connections to {} are mutual TLS between node agents whatever a rule says: no effect of {modes}",
        spec.host
    );
    let record = Rule {
        about: Box::new(about),
        version: object.metadata.generation.unwrap_or_default().to_string(),
        place: host_namespace(&spec.host, &key.namespace),
        reason: "NoEffectInAmbient",
        note: (!modes.is_empty()).then_some(note),
        key,
    };
    Read { record: Some(record), told }
}

/// Reads what of a service is outside the mesh although its pods are in it. Node ports are not told of: most services
/// that have them were given them unasked.
fn service(object: Service) -> Option<Rule> {
    let external = object.spec.as_ref()?.external_ips.as_ref().filter(|ips| !ips.is_empty())?;
    let ips = external.join(", ");
    let key = reduce::key(&object.metadata);
    let note = format!(
        "but not the service's externalIPs ({ips}): connections of pods to them leave in the clear, and where mutual TLS \
         is asked for they are refused; the service's own address takes them through the mesh"
    );
    Some(Rule {
        about: Box::new(object.object_ref(&())),
        version: ips,
        place: HostNamespace::One(key.namespace.to_string()),
        reason: "OutsideMesh",
        note: Some(note),
        key,
    })
}

async fn warn(mut seen: mpsc::Receiver<Seen>, reporter: Reporter) {
    let mut rules = Rules::default();
    while let Some(seen) = seen.recv().await {
        for (about, warning) in rules.see(seen) {
            reporter.warn(about, warning);
        }
    }
}

/// What may deserve a warning, and the namespaces where it would.
#[derive(Debug, Default)]
struct Rules {
    ambient: BTreeSet<ArcStr>,
    rules: Kept,
    services: Kept,
}

/// Objects of one kind.
#[derive(Debug, Default)]
struct Kept {
    rules: BTreeMap<ObjectKey, Rule>,
    /// What was warned about, so that it is once: UID and version.
    told: BTreeMap<ObjectKey, (Option<String>, String)>,
}

impl Rules {
    /// What is to be told after a change.
    fn see(&mut self, seen: Seen) -> Vec<(ObjectReference, Warning)> {
        match seen {
            Seen::Namespace(change) => {
                self.enrol(change);
                let mut told = self.rules.judge_all(&self.ambient);
                told.extend(self.services.judge_all(&self.ambient));
                told
            }
            Seen::Rule(change) => self.rules.see(change, &self.ambient),
            Seen::Service(change) => self.services.see(change, &self.ambient),
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
}

impl Kept {
    fn see(
        &mut self,
        change: Change<Rule>,
        ambient: &BTreeSet<ArcStr>,
    ) -> Vec<(ObjectReference, Warning)> {
        match change {
            Change::Apply(rule) => {
                let key = rule.key.clone();
                self.keep(rule);
                self.judge(&key, ambient).into_iter().collect()
            }
            Change::Delete(key) => {
                self.rules.remove(&key);
                self.told.remove(&key);
                Vec::new()
            }
            Change::Replace(records) => {
                self.rules.clear();
                records.into_iter().for_each(|rule| self.keep(rule));
                self.told.retain(|key, _| self.rules.contains_key(key));
                self.judge_all(ambient)
            }
        }
    }

    fn keep(&mut self, rule: Rule) {
        if rule.note.is_none() {
            self.rules.remove(&rule.key);
        } else {
            self.rules.insert(rule.key.clone(), rule);
        }
    }

    fn judge_all(&mut self, ambient: &BTreeSet<ArcStr>) -> Vec<(ObjectReference, Warning)> {
        let keys: Vec<ObjectKey> = self.rules.keys().cloned().collect();
        keys.iter().filter_map(|key| self.judge(key, ambient)).collect()
    }

    /// The warning that an object deserves and has not had.
    fn judge(
        &mut self,
        key: &ObjectKey,
        ambient: &BTreeSet<ArcStr>,
    ) -> Option<(ObjectReference, Warning)> {
        let rule = self.rules.get(key)?;
        let namespace = match &rule.place {
            HostNamespace::One(namespace) => ambient.get(namespace.as_str())?,
            HostNamespace::Any => ambient.first()?,
        };
        let version = (rule.about.uid.clone(), rule.version.clone());
        if self.told.get(key) == Some(&version) {
            return None;
        }
        let note = rule.note.as_ref()?;
        let note = format!("namespace {namespace} is in the ambient mesh, {note}");
        let warning = Warning { reason: rule.reason, note };
        let about = rule.about.clone();
        self.told.insert(key.clone(), version);
        Some((*about, warning))
    }
}

#[cfg(test)]
mod tests;
